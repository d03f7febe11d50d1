"""The smoke book as a reader gets it: it runs, links hold, figures speak, nothing private."""

import html.parser
import os
import re
import runpy
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import papermill
import pytest
import yaml
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from matplotlib.text import Text

from tools.book import lessons
from tools.lesson import read_source
from vxmlib import records

pytestmark = pytest.mark.book


class Page(html.parser.HTMLParser):
    """Links, targets and what the browser loads, of one HTML page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.ids, self.loads = [], set(), []
        self.feed(path.read_text(encoding="utf8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids |= {attributes.get("id"), attributes.get("name")}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag in {"script", "img", "iframe"} and attributes.get("src"):
            self.loads.append(attributes["src"])
        if tag == "link" and "stylesheet" in attributes.get("rel", ""):
            self.loads.append(attributes["href"])


@pytest.fixture(scope="session")
def pages(smoke):
    """Every rendered page by its path."""
    folder = smoke.build / "html-mni-smoke"
    return {path: Page(path) for path in sorted(folder.rglob("*.html"))}


def test_every_lesson_runs_in_profile_smoke(smoke, lesson):
    notebook = smoke.notebook(lesson)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in codes)
    progress = re.search(rf"\[\d+/\d+\] {lesson} +\d+:\d\d  ", smoke.output)
    assert progress, "no progress was printed"


def test_records_name_their_run(smoke, root):
    for name, plan in lessons(root).items():
        for product in plan.get("products", []):
            path = smoke.build / "products" / "mni-smoke" / name / product
            assert path.exists()
            if product == "record.json":
                record = records.read(path)
                assert record["run"] == name
                if "results" not in plan:  # whose record may be the committed one
                    assert (record["profile"], record["cohort"]) == ("smoke", "mni")


def test_every_internal_link_leads_somewhere(pages):
    lost = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].ids if target in pages else None
            missing = parts.fragment and anchors is not None and parts.fragment not in anchors
            if not target.exists() or missing:
                lost.append(f"{path.name}: {link}")
    assert not lost
    assert sum(len(page.links) for page in pages.values()) > 100


def test_every_image_has_alt_text_and_every_figure_a_caption(smoke, lesson):
    page = BeautifulSoup(smoke.page(f"notebooks/{lesson}"), "html.parser")
    images = page.select('article img[src*="_images/"]')
    assert all(len(image.get("alt", "").split()) >= 5 for image in images)
    groups = page.select("fieldset.vxm-steps")
    steps = [image for group in groups for image in group.select("img")]
    assert len(steps) >= 3 * len(groups)
    assert len(page.select("figcaption")) == len(images) - len(steps) + len(groups)


def test_every_image_comes_from_a_cell_that_describes_it(smoke, lesson, figure_of):
    for cell in smoke.notebook(lesson).cells:
        images = [
            kind
            for output in cell.get("outputs", ())
            for kind in output.get("data", {})
            if kind.startswith("image/")
        ]
        if images:
            alt, caption, name = figure_of(cell)
            assert alt, cell.source
            assert caption, cell.source
            assert name, cell.source
            assert len(images) == 1, f"{name}: shown {len(images)} times; end the cell with `;`"


def test_figures_are_light(smoke, pages):
    images = sorted((smoke.build / "html-mni-smoke" / "_images").iterdir())
    assert images
    heavy = {path.name: path.stat().st_size for path in images if path.stat().st_size > 150_000}
    assert not heavy
    of_page = {
        path.name: sum((path.parent / s).stat().st_size for s in page.loads if "_images/" in s)
        for path, page in pages.items()
    }
    assert max(of_page.values()) > 50_000
    assert not {name: size for name, size in of_page.items() if size > 800_000}


def test_pages_read_without_a_network(pages):
    loaded = {source for page in pages.values() for source in page.loads}
    assert not [source for source in loaded if urlsplit(source).netloc]
    assert any("mathjax/tex-svg.js" in source for source in loaded)


def test_nothing_of_this_machine_is_published(smoke, root):
    private = {str(root), str(Path.home()), str(smoke.build), tempfile.gettempdir()}
    private.add(os.environ.get("VXMLIB_MIRROR", str(root)))
    for folder in ("html-mni-smoke", "site/mni-smoke"):
        for path in (smoke.build / folder).rglob("*"):
            if path.suffix in {".html", ".ipynb", ".md", ".yml", ".js", ".json"}:
                text = path.read_text(encoding="utf8")
                assert "environment_variables" not in text, path
                for word in private:
                    assert not re.search(re.escape(word) + r"(?![\w-])", text), (path, word)


def test_the_pages_say_which_run_they_show(pages, smoke):
    for name in ("book/index", "notebooks/03_fit"):
        page = smoke.page(name)
        assert "cohort mni, profile smoke, seed 0" in page
        assert "A smoke build" in page


def test_nothing_is_left_unresolved(pages):
    for path in pages:
        text = path.read_text(encoding="utf8")
        body = re.sub(r"<(script|style|pre)\b.*?</\1>", " ", text, flags=re.DOTALL)
        body = re.sub(r"<[^>]+>", " ", body)
        for mark in ("{{", "{glue", "{cite", "{term}", "{numref}", "{eq}", "np.float"):
            assert mark not in body, (path.name, mark)


@pytest.mark.parametrize(
    ("lesson_name", "wrong", "complaint"),
    [
        ("03_fit", {"lamb": 0.5}, "'lamb': this lesson has no such parameter; it has: .*lam"),
        ("one_page", {"cohort": "mars"}, "cohort: found 'mars', expected one of: mni"),
    ],
)
def test_a_wrong_parameter_stops_a_lesson_before_any_training(
    root, tmp_path, lesson_name, wrong, complaint
):
    # As a reader gives it (papermill -p), but only the cells up to the check are run here: no
    # cell before it may train.
    notebook = read_source(root / "notebooks" / f"{lesson_name}.py")
    check = next(i for i, cell in enumerate(notebook.cells) if "read_parameters" in cell.source)
    notebook.cells = notebook.cells[: check + 1]
    assert not any(".fit(" in cell.source for cell in notebook.cells)
    nbformat.write(notebook, tmp_path / "lesson.ipynb")
    with pytest.raises(papermill.PapermillExecutionError, match=complaint):
        papermill.execute_notebook(
            tmp_path / "lesson.ipynb",
            tmp_path / "out.ipynb",
            parameters={"profile": "smoke", **wrong},
            kernel_name="python3",
            progress_bar=False,
        )


# -- outputs that a reader sees ------------------------------------------------------------------

#: Lines of a printed output; a longer one scrolls or is hidden.
LONGEST_PRINT = 25


def shown_outputs(notebook):
    """Each output that a page shows, with the number of its cell and the cell's tags."""
    for number, cell in enumerate(notebook.cells, start=1):
        tags = set(cell.metadata.get("tags", ()))
        if cell.cell_type == "code" and not tags & {"remove-cell", "remove-output", "hide-output"}:
            for output in cell.get("outputs", ()):
                yield number, tags, output


def words_of_tables(output):
    """The texts of all cells of the HTML and Markdown tables of an output."""
    data = output.get("data", {})
    words = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", data.get("text/html", ""))
    rows = [row for row in data.get("text/markdown", "").splitlines() if row.startswith("|")]
    return [word.strip() for word in [*words, *(w for row in rows for w in row.split("|"))]]


def test_no_page_shows_a_warning_or_a_wall_of_log(smoke, lesson):
    for number, tags, output in shown_outputs(smoke.notebook(lesson)):
        place = f"{lesson}, cell {number}: {output.get('text', '')[:200]}"
        assert output.get("name") != "stderr" or "remove-stderr" in tags, place
        assert output.get("text", "").count("\n") <= LONGEST_PRINT or "scroll-output" in tags, place


@pytest.fixture(scope="session")
def is_key(root):
    """Whether a word is a name that only the code and config/real.yaml use."""
    plan = yaml.safe_load((root / "config" / "real.yaml").read_text(encoding="utf8"))
    keys = {key for part in ("trainings", "methods", "few") for key in plan[part] if "-" in key}
    return lambda word: word in keys or re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", word)


def test_no_table_shows_a_key_in_place_of_a_name(smoke, lesson, is_key):
    for number, _, output in shown_outputs(smoke.notebook(lesson)):
        for word in words_of_tables(output):
            assert not is_key(word), f"{lesson}, cell {number}: a table shows {word!r}"


@pytest.mark.parametrize("page", ["08_real", "ablations"])
def test_no_figure_shows_a_key_in_place_of_a_name(root, page, is_key, tmp_path, monkeypatch):
    """Only the running page knows what its figures say: these two draw committed records."""
    monkeypatch.setenv("VXMLIB_OUTPUT", str(tmp_path))
    drawn, prepare = [], Figure.__init__

    def remember(figure, *args, **options):
        drawn.append(figure)
        prepare(figure, *args, **options)

    monkeypatch.setattr(Figure, "__init__", remember)
    shown = {"display": lambda *_: None, "profile": "smoke"}
    runpy.run_path(str(root / "notebooks" / f"{page}.py"), init_globals=shown)
    for figure in drawn:
        figure.draw_without_rendering()  # the labels of ticks are written only now
    words = {text.get_text() for figure in drawn for text in figure.findobj(Text)}
    assert len(words) > 20
    assert not [word for word in words if is_key(word)]
