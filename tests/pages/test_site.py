"""What a machine sees of the finished site without a browser, in the smoke build."""

import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

from tools import pdf, render
from tools.pages import listed
from tools.stage import HEAVY_IMAGE

pytestmark = pytest.mark.book

FRONT = "book/index"
#: What the front page may weigh with all that it loads, in bytes.
LIGHT = 1_000_000
#: The one font that the styles load: the signs of the theme.
FONT = "_static/vendor/fontawesome/webfonts/fa-solid-900.woff2"


@pytest.fixture(scope="session")
def site(smoke) -> Path:
    """The folder of the rendered pages."""
    return smoke.build / "html-mni-smoke"


@pytest.fixture(scope="session")
def page(site):
    """Parse a page once, by its name."""
    parsed = {}

    def read(name: str) -> BeautifulSoup:
        if name not in parsed:
            text = (site / f"{name}.html").read_text(encoding="utf8")
            parsed[name] = BeautifulSoup(text, "html.parser")
        return parsed[name]

    return read


def files_of(soup: BeautifulSoup, folder: Path) -> set[Path]:
    """Scripts, styles and pictures that a page in `folder` loads."""
    links = [tag["href"] for tag in soup.select("link[rel=stylesheet], link[rel=icon]")]
    links += [tag["src"] for tag in soup.select("script[src], img[src]")]
    return {(folder / urlsplit(link).path).resolve() for link in links}


def test_each_page_has_an_icon_a_description_and_words_for_previews(root, site, page):
    for name in listed(root / "_toc.yml"):
        head = page(name).head
        icon = head.find("link", rel="icon")["href"]
        assert (site / name).parent.joinpath(icon).exists()
        described = head.find("meta", attrs={"name": "description"})["content"]
        assert 20 <= len(described) <= 200, name
        preview = {tag["property"]: tag["content"] for tag in head.select("meta[property]")}
        assert preview["og:description"] == described
        assert preview["og:title"] in page(name).find("h1").get_text(), name


def test_mathjax_is_loaded_only_where_a_page_has_maths(root, page):
    for name in listed(root / "_toc.yml"):
        has_maths = page(name).find(class_="math") is not None
        assert has_maths == bool(page(name).select("script[src*=mathjax]")), name
    assert page("notebooks/04_dice").select("script[src*=mathjax]")
    assert not page(FRONT).select("script[src*=mathjax]")


def test_the_search_page_alone_loads_the_index(page):
    assert page("search").select("script[src*=searchindex]")
    assert not page(FRONT).select("script[src*=searchindex]")


def test_the_front_page_is_light(site, page):
    loaded = files_of(page(FRONT), (site / FRONT).parent)
    loaded |= {site / f"{FRONT}.html", site / FONT, site / "_static" / "basic.css"}
    sizes = {os.path.relpath(path, site): path.stat().st_size for path in loaded}
    assert sum(sizes.values()) <= LIGHT, sizes
    assert any(size > HEAVY_IMAGE / 10 for size in sizes.values())


def test_a_solution_hides_its_code_and_its_output(smoke, page, lesson):
    cells = smoke.notebook(lesson).cells
    solutions = [cell for cell in cells if "hide-cell" in cell.metadata.get("tags", ())]
    boxes = page(f"notebooks/{lesson}").select(".cell.tag_hide-cell")
    assert len(boxes) == len(solutions)
    for box, cell in zip(boxes, solutions, strict=True):
        (details,) = box.find_all(recursive=False)
        assert details.name == "details"
        assert not details.has_attr("open")
        assert details.find(class_="cell_input")
        assert bool(details.find(class_="cell_output")) == bool(cell.outputs)
        assert details.summary.p.get_text() == cell.metadata["mystnb"]["code_prompt_show"]
        assert not details.summary.has_attr("aria-label")


def test_a_displayed_sentence_is_a_plain_paragraph(smoke, page, lesson):
    boxes = page(f"notebooks/{lesson}").select(".cell.tag_remove-input > .cell_output")
    cells = [cell for cell in smoke.notebook(lesson).cells if cell.cell_type == "code"]
    shown = [
        output
        for cell in cells
        if "remove-input" in cell.metadata.get("tags", ())
        for output in cell.outputs
        if output.get("data", {}).get("text/markdown", "").strip()[:1].isalpha()
    ]
    assert sum(bool(box.find("p", recursive=False)) for box in boxes) >= bool(shown)
    for box in boxes:
        for paragraph in box.find_all("p", recursive=False):
            assert not paragraph.has_attr("class")


def test_pictures_lead_to_their_full_size(root, page):
    for name in listed(root / "_toc.yml"):
        for picture in page(name).select("figure img, .vxm-steps img"):
            if picture["src"].endswith(".svg"):
                continue
            assert picture.parent.name == "a", picture["src"]
            assert picture.parent["href"] == picture["src"]


def test_each_old_address_leads_to_its_page(root, site):
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))
    redirects = config["sphinx"]["config"]["redirects"]
    assert len(redirects) >= 16
    for old, target in redirects.items():
        old_page = site / f"{old}.html"
        text = old_page.read_text(encoding="utf8")
        assert f'content="0; url={target}"' in text, old
        assert '<html lang="en">' in text
        assert "<title>This page has moved</title>" in text
        assert (old_page.parent / target).exists()


def test_a_sitemap_lists_the_pages():
    text = render.sitemap("https://example.org/book/", ["book/index", "notebooks/04_dice"])
    assert re.findall("<loc>(.+?)</loc>", text) == [
        "https://example.org/book/book/index.html",
        "https://example.org/book/notebooks/04_dice.html",
    ]


def test_without_an_address_of_the_site_there_is_no_sitemap(site):
    assert not (site / "sitemap.xml").exists()


@pytest.mark.parametrize(
    ("word", "lesson_name"),
    [
        ("lambda", "06_lambda"),
        ("dice", "04_dice"),
        ("jacobian", "05_jacobian"),
        ("folding", "05_jacobian"),
    ],
)
def test_the_search_finds_the_lesson_first(site, tmp_path, word, lesson_name):
    address = f"{(site / 'search.html').as_uri()}?q={word}"
    try:
        command = [pdf.find_browser(), *pdf.FLAGS, f"--user-data-dir={tmp_path}"]
    except pdf.PdfError as error:
        pytest.skip(str(error))
    command += ["--virtual-time-budget=20000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    results = BeautifulSoup(done.stdout, "html.parser").select("#search-results li > a")
    assert f"notebooks/{lesson_name}.html" in results[0]["href"]
