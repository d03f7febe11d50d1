"""The finished pages in Chromium: no error, no sideways scrolling, no fault that axe-core finds."""

import contextlib

import pytest

from tools.pages import listed
from tools.pdf import FLAGS, PdfError, find_browser

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="no Playwright: `make browser` adds it"
)
from playwright.sync_api import sync_playwright  # noqa: E402

pytestmark = pytest.mark.book

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window."""
    try:
        path = find_browser()
    except PdfError as error:
        pytest.skip(str(error))
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def look(chromium, smoke):
    """Open a page of the smoke build in a window; give the page and its errors."""
    with contextlib.ExitStack() as opened:

        def load(name, size):
            page = chromium.new_page(viewport=size)
            opened.callback(page.close)
            complaints = []
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on(
                "console",
                lambda line: complaints.append(line.text) if line.type == "error" else None,
            )
            page.goto((smoke.build / "html-mni-smoke" / f"{name}.html").as_uri())
            return page, complaints

        yield load


def pages(root):
    """All pages of the book, and the one that searches."""
    return [*listed(root / "_toc.yml"), "search"]


def test_no_page_scrolls_sideways_on_a_phone(look, root):
    wide = {}
    for name in pages(root):
        page, _ = look(name, PHONE)
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > PHONE["width"]:
            wide[name] = width
    assert not wide


def test_no_page_logs_an_error(look, root):
    assert not {name: said for name in pages(root) if (said := look(name, DESK)[1])}


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["1280", "390"])
def test_axe_finds_no_fault(look, root, size):
    faults = {}
    for name in pages(root):
        page, _ = look(name, size)
        found = axe.Axe().run(page).response["violations"]
        if found:
            faults[name] = [f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in found]
    assert not faults
