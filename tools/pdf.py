"""The whole book as one PDF: its rendered pages in one HTML file, printed by Chromium.

``python -m tools.pdf HTML PDF`` is what ``make pdf`` runs.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from posixpath import normpath
from urllib.parse import quote, unquote, urlsplit

from bs4 import BeautifulSoup

from tools.pages import listed

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
#: A browser without a window that leaves the user's own settings and the network alone.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Of cells with this class the output is a log, which stays folded on paper.
LOGS = "tag_hide-output"
#: Virtual seconds that the page may take for its formulas.
PATIENCE = 120
_STYLE = """
@page { size: A4; margin: 18mm 16mm; }
body { background: white; }
.vxm-page { break-before: page; }
.vxm-page:first-of-type { break-before: auto; }
.bd-article { max-width: none; padding: 0; font-size: 10pt; }
.bd-article h1 { font-size: 20pt; margin-top: 0; }
.bd-article h2 { font-size: 14pt; }
.bd-article h3 { font-size: 11.5pt; }
.extra_footer { margin-top: 1.5em; border-top: 1px solid #aaa; padding-top: 0.5em; }
.extra_footer p { font-size: 7.5pt; margin: 0 0 0.2em; color: #444; }
"""


class PdfError(RuntimeError):
    """The PDF cannot be made; the text says what is missing."""


def main(arguments: list[str]) -> int:
    """Print the book in the folder ``arguments[0]`` to the file ``arguments[1]``."""
    folder, target = map(Path, arguments)
    try:
        print_book(folder.resolve(), target.resolve(), listed(Path("_toc.yml")))
    except PdfError as error:
        print(f"\nERROR: {error}\n", file=sys.stderr)
        return 1
    print(f"PDF: {target}")
    return 0


def find_browser() -> str:
    """The path of a Chromium.

    Raises
    ------
    PdfError
        None is installed.
    """
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise PdfError(
            f"no browser that prints: looked for {', '.join(BROWSERS)}. Install Chromium "
            "(on Debian or Ubuntu: apt install chromium), or print single pages from any browser."
        )
    return found


def print_book(folder: Path, target: Path, pages: list[str]) -> None:
    """Print the rendered `pages` of `folder`, in this order, to the file `target`.

    Raises
    ------
    PdfError
        No rendered book, no browser, or the browser failed.
    """
    if missing := [page for page in pages if not (folder / f"{page}.html").exists()]:
        raise PdfError(f"{folder} has no {missing[0]}.html; run `make book` first")
    browser = find_browser()
    whole = folder / "book" / "print.html"  # beside the pages, so that their links to files hold
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="book-pdf-") as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", "--no-pdf-header-footer"]
        command += ["--generate-pdf-document-outline", f"--virtual-time-budget={PATIENCE * 1000}"]
        command += [f"--print-to-pdf={target}", whole.as_uri()]
        try:
            whole.write_text(one_page(folder, pages), encoding="utf8")
            done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        except subprocess.TimeoutExpired:
            raise PdfError(f"{browser} did not end within 15 minutes") from None
        finally:
            whole.unlink(missing_ok=True)
    if not target.exists():
        raise PdfError(f"{browser} made no PDF:\n{done.stderr[-2000:]}")


def one_page(folder: Path, pages: list[str]) -> str:
    """The texts of all pages as one HTML page, with links among them inside it."""
    first = _read(folder, pages[0])
    body = first.new_tag("body")
    for page in pages:
        parsed = _read(folder, page)
        article = parsed.find("article")
        for unwanted in article.select("script, .headerlink"):
            unwanted.decompose()
        for element in article.find_all("details"):
            if not element.find_parent(class_=LOGS):
                element["open"] = ""
        _join(article, page, pages)
        section = first.new_tag("section", id=_name(page))
        section["class"] = "vxm-page bd-content"
        section.append(article)
        if footer := parsed.find(class_="extra_footer"):
            section.append(footer)
        body.append(section)
    for script in first.head.find_all("script"):
        script.decompose()
    style = first.new_tag("style")
    style.string = _STYLE
    first.head.append(style)
    if body.find(class_="math") and (folder / "mathjax" / "tex-svg.js").exists():
        # The theme keeps MathJax away from the text, except from what this setting names.
        setting = first.new_tag("script")
        setting.string = 'window.MathJax = {options: {processHtmlClass: "math"}};'
        first.head.extend([setting, first.new_tag("script", src="../mathjax/tex-svg.js")])
    return f'<!DOCTYPE html>\n<html lang="en" data-theme="light">{first.head}{body}</html>'


def _read(folder: Path, page: str) -> BeautifulSoup:
    return BeautifulSoup((folder / f"{page}.html").read_text(encoding="utf8"), "html.parser")


def _name(page: str, fragment: str = "") -> str:
    """The id of a page, or of one of its parts, in the whole."""
    return "--".join(filter(None, [page.replace("/", "-"), fragment]))


def _join(article, page: str, pages: list[str]) -> None:
    """Make the ids of a page unique in the whole document, and mend its links."""
    for element in article.find_all(id=True):
        element["id"] = _name(page, element["id"])
    for name in ("for", "aria-describedby", "aria-labelledby"):
        for element in article.find_all(attrs={name: True}):
            words = element[name].split() if isinstance(element[name], str) else element[name]
            element[name] = " ".join(_name(page, word) for word in words)
    for element in article.find_all("input", attrs={"name": True}):
        element["name"] = _name(page, element["name"])
    for element in article.find_all(src=True):
        if not urlsplit(element["src"]).scheme:
            element["src"] = f"../{_target(page, element['src'])}"
    for element in article.find_all("a", href=True):
        parts = urlsplit(element["href"])
        if parts.scheme or parts.netloc:
            continue
        target = _target(page, parts.path).removesuffix(".html") if parts.path else page
        if target in pages:
            element["href"] = "#" + quote(_name(target, unquote(parts.fragment)))
        else:  # a file of the site (a large figure), which a PDF does not have
            del element["href"]


def _target(page: str, path: str) -> str:
    """A path that a page names, seen from the folder of the site."""
    return normpath(f"{page.rpartition('/')[0]}/{path}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
