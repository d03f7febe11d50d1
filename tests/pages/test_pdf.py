"""The book as one PDF: the pages in one HTML file, and what is said when it cannot be printed."""

import pytest
from bs4 import BeautifulSoup

from tools import pdf

PAGE = """<html><head><title>Book</title><script>menu()</script></head><body><nav>menu</nav>
<article><h1 id="top">{title}<a class="headerlink" href="#top">#</a></h1>{body}</article>
<div class="extra_footer">Where from</div></body></html>"""
FIRST = """<a href="#top">up</a> <a href="../notebooks/02.html#top">next</a>
<a href="https://example.org">far</a> <a href="../_images/a.png"><img src="../_images/a.png"></a>
<details><summary>Solution</summary></details>
<div class="tag_hide-output"><details><summary>Log</summary></details></div>"""
PAGES = ["book/index", "notebooks/02"]


@pytest.fixture
def folder(tmp_path):
    for name, title, body in (("book/index", "One", FIRST), ("notebooks/02", "Two", "Text")):
        path = tmp_path / "html" / f"{name}.html"
        path.parent.mkdir(parents=True)
        path.write_text(PAGE.format(title=title, body=body))
    return tmp_path / "html"


def test_the_pages_become_one_with_links_inside_it(folder):
    whole = BeautifulSoup(pdf.one_page(folder, PAGES), "html.parser")
    ids = [element["id"] for element in whole.find_all(id=True)]
    assert ids == ["book-index", "book-index--top", "notebooks-02", "notebooks-02--top"]
    links = [link.get("href") for link in whole.find_all("a")]
    assert links == ["#book-index--top", "#notebooks-02--top", "https://example.org", None]
    assert whole.img["src"] == "../_images/a.png"
    assert [title.get_text() for title in whole.find_all("h1")] == ["One", "Two"]
    assert len(whole.find_all(class_="extra_footer")) == 2


def test_solutions_are_open_and_logs_stay_folded(folder):
    whole = BeautifulSoup(pdf.one_page(folder, PAGES), "html.parser")
    state = {box.summary.get_text(): box.has_attr("open") for box in whole.find_all("details")}
    assert state == {"Solution": True, "Log": False}
    assert not whole.find_all(["nav", "script"])


def test_without_a_browser_it_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pdf.PdfError, match="apt install chromium"):
        pdf.print_book(folder, tmp_path / "book.pdf", PAGES)


def test_without_pages_it_says_what_to_run(folder, tmp_path):
    with pytest.raises(pdf.PdfError, match=r"no notebooks/03.html; run `make book` first"):
        pdf.print_book(folder, tmp_path / "book.pdf", [*PAGES, "notebooks/03"])


def test_a_browser_prints_it(folder, tmp_path):
    try:
        pdf.find_browser()
    except pdf.PdfError as error:
        pytest.skip(str(error))
    pdf.print_book(folder, tmp_path / "book.pdf", PAGES)
    assert (tmp_path / "book.pdf").read_bytes().startswith(b"%PDF")
    assert not (folder / "book" / "print.html").exists()
