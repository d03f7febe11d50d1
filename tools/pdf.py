"""Print the book as one PDF: join its rendered pages in one HTML file, and print it with Chromium.

``make pdf`` runs ``python -m tools.pdf HTML PDF``.
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
#: Options for a browser without a window that does not use the user's settings or the network.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Class of cells whose output is a log, which stays folded in the PDF.
LOGS = "tag_hide-output"
#: Seconds of the browser's virtual time that the page may take to typeset its formulas.
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
    """The PDF cannot be made; the message says why."""


def main(arguments: list[str]) -> int:
    """Print the book in ``arguments[0]`` to the file ``arguments[1]``; return the exit status."""
    folder, target = map(Path, arguments)
    try:
        print_book(folder.resolve(), target.resolve(), listed(Path("_toc.yml")))
    except PdfError as error:
        print(f"\nERROR: {error}\n", file=sys.stderr)
        return 1
    print(f"PDF: {target}")
    return 0


def find_browser() -> str:
    """Return the path of a browser that is based on Chromium.

    Raises
    ------
    PdfError
        If none is installed.
    """
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise PdfError(
            f"found no browser that prints, expected one of: {', '.join(BROWSERS)}; install "
            "Chromium (on Debian or Ubuntu: apt install chromium), or print single pages from any "
            "browser."
        )
    return browser


def print_book(folder: Path, target: Path, pages: list[str]) -> None:
    """Print the rendered `pages` of `folder`, in this order, to the file `target`.

    Raises
    ------
    PdfError
        If the book is not rendered, there is no browser, or the browser fails.
    """
    if missing := [page for page in pages if not (folder / f"{page}.html").exists()]:
        raise PdfError(f"{folder} has no {missing[0]}.html; run `make book` first")
    browser = find_browser()
    joined = folder / "book" / "print.html"  # beside the pages, so that links to files stay valid
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="book-pdf-") as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", "--no-pdf-header-footer"]
        command += ["--generate-pdf-document-outline", f"--virtual-time-budget={PATIENCE * 1000}"]
        command += [f"--print-to-pdf={target}", joined.as_uri()]
        try:
            joined.write_text(one_page(folder, pages), encoding="utf8")
            done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        except subprocess.TimeoutExpired:
            raise PdfError(f"{browser} did not end within 15 minutes") from None
        finally:
            joined.unlink(missing_ok=True)
    if not target.exists():
        raise PdfError(f"{browser} made no PDF:\n{done.stderr[-2000:]}")


def one_page(folder: Path, pages: list[str]) -> str:
    """Return the texts of all pages as one HTML page, in which links between pages are internal."""
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
        # The theme lets MathJax process only elements of the class that this setting names.
        setting = first.new_tag("script")
        setting.string = 'window.MathJax = {options: {processHtmlClass: "math"}};'
        first.head.extend([setting, first.new_tag("script", src="../mathjax/tex-svg.js")])
    return f'<!DOCTYPE html>\n<html lang="en" data-theme="light">{first.head}{body}</html>'


def _read(folder: Path, page: str) -> BeautifulSoup:
    return BeautifulSoup((folder / f"{page}.html").read_text(encoding="utf8"), "html.parser")


def _name(page: str, fragment: str = "") -> str:
    """Return the id of a page, or of one of its parts, in the joined page."""
    return "--".join(filter(None, [page.replace("/", "-"), fragment]))


def _join(article, page: str, pages: list[str]) -> None:
    """Make the ids of a page unique in the joined page, and adapt its links."""
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
        else:  # a file of the site, such as a large figure, which the PDF lacks
            del element["href"]


def _target(page: str, path: str) -> str:
    """Return a path that a page names, relative to the folder of the site."""
    return normpath(f"{page.rpartition('/')[0]}/{path}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
