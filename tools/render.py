"""Render a staged book with Jupyter Book; a warning is an error, and a failure leaves no pages."""

import base64
import hashlib
import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tools.pages import listed
from tools.stage import DOWNLOADS
from tools.tables import align_words


class RenderError(RuntimeError):
    """Jupyter Book did not render the pages; the message contains its warnings."""


def render_book(site: Path, html: Path) -> None:
    """Render the staged folder ``site`` and move the finished pages to ``html``.

    Every run starts without earlier output, because Sphinx does not repeat the warnings of
    unchanged pages. The log is written beside ``html``.

    Raises
    ------
    RenderError
        If Jupyter Book reports a warning or fails. The message lists all warnings, with page and
        line.
    """
    with tempfile.TemporaryDirectory(dir=site.parent, prefix=".render-") as scratch:
        command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
        command += ["build", str(site), "-W", "--keep-going", "--path-output", scratch]
        # Run in this folder, because Sphinx looks for the scorer of its search in the working
        # directory.
        done = subprocess.run(command, cwd=site, capture_output=True, text=True)
        log = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        html.parent.mkdir(parents=True, exist_ok=True)
        html.with_suffix(".log").write_text(log, encoding="utf8")
        if done.returncode:
            raise RenderError(explain(log, site) + f"\n  full log: {html.with_suffix('.log')}")
        made = Path(scratch) / "_build" / "html"
        # The download button links to the sources of the pages, which only the book can show, so
        # plain notebooks replace them.
        for notebook in (site / DOWNLOADS).glob("*.ipynb"):
            shutil.copy(notebook, made / "_sources" / "notebooks" / notebook.name)
        for page in made.rglob("*.html"):
            text = finish(page.read_text(encoding="utf8"))
            text = frames_as_files(text, page, made / "_frames")
            page.write_text(pictures_as_files(text, page, made / "_images"), encoding="utf8")
        config = yaml.safe_load((site / "_config.yml").read_text(encoding="utf8"))
        if address := config.get("html", {}).get("baseurl"):
            (made / "sitemap.xml").write_text(sitemap(address, listed(site / "_toc.yml")), "utf8")
        shutil.rmtree(html, ignore_errors=True)
        shutil.move(made, html)


#: Files that no page needs: the theme has its icons as a font, too, no code runs in a page, and no
#: page has cards or tabs.
UNUSED = ("scripts/fontawesome.js", "sphinx-thebe", "sphinx-design", "design-tabs.js")
#: Files that only some pages need, by a text that these pages contain.
PARTLY_USED = {
    'class="math': ("mathjax/",),
    'id="search-results"': ("searchtools.js", "language_data.js", "searchindex.js"),
}
#: Markup of the generators that breaks rules of accessible HTML, and its replacements.
MENDED = {
    # The accessible name of a button must contain its visible text.
    r'(<button class="btn search-button-field[^>]*?) aria-label="Search"': r"\1",
    # The title of the book is outside all landmarks.
    r'<div class="sidebar-primary-items__start': r'<div role="region" aria-label="Book"\g<0>',
    # Roles that are not allowed in a list, and the role of the list, which then has no items.
    r' role="(?:doc-biblioentry|doc-backlink)"|(?<=<div) role="list"(?= class="citation-list")': "",
    # The empty corner cell of a table is not a header.
    r'<th(?: class="(?:head|blank)[^"]*")? *>(?:<p></p>|&nbsp;)?</th>': "<td></td>",
    # The accessible name of a folded cell is its visible text.
    r'<summary aria-label="Toggle hidden content">': "<summary>",
}


def finish(page: str) -> str:
    """Remove the scripts and styles that a page does not use, and correct its markup.

    MathJax stays only in pages with maths, because its 2 MB exceed everything else on a page.
    """
    unused = list(UNUSED)
    for sign, files in PARTLY_USED.items():
        unused += [] if sign in page else files
    names = "|".join(map(re.escape, unused))
    page = re.sub(rf'<script\b[^>]*src="[^"]*(?:{names})[^"]*"[^>]*></script>\n?', "", page)
    page = re.sub(rf'<link\b[^>]*href="[^"]*(?:{names})[^"]*"[^>]*>\n?', "", page)
    thebe = r"<script[^>]*>(?:(?!</script>).)*?[Tt]hebe.*?</script>\n?"
    page = re.sub(thebe, "", page, flags=re.DOTALL)
    for pattern, better in MENDED.items():
        page = re.sub(pattern, better, page)
    return align_words(page)


def pictures_as_files(text: str, page: Path, folder: Path) -> str:
    """Write the pictures that stand inside a page to files, and let each lead to its full size.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as book:
    ...     page, folder = Path(book, "notebooks", "a.html"), Path(book, "_images")
    ...     image = '<img src="data:image/png;base64,AAAA" alt="A grid.">'
    ...     print(pictures_as_files(image, page, folder), len(list(folder.iterdir())))
    <a href="../_images/709e80c8.png"><img src="../_images/709e80c8.png" alt="A grid."></a> 1
    """

    def as_file(image):
        data = base64.b64decode(image.group(1))
        name = f"{hashlib.sha256(data).hexdigest()[:8]}.png"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        address = os.path.relpath(folder / name, page.parent)
        return f'<a href="{address}"><img src="{address}"{image.group(2)}></a>'

    return re.sub(r'<img src="data:image/png;base64,([^"]+)"([^>]*)>', as_file, text)


def frames_as_files(text: str, page: Path, folder: Path) -> str:
    """Write the pages that stand inside a frame to files, which load when a reader reaches them.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as book:
    ...     page, folder = Path(book, "notebooks", "a.html"), Path(book, "_frames")
    ...     frame = '<iframe srcdoc="&lt;p&gt;" title="A page"></iframe>'
    ...     print(frames_as_files(frame, page, folder), len(list(folder.iterdir())))
    <a href="../_frames/33f27994.html">Open the frame below as a page</a><iframe
    src="../_frames/33f27994.html" loading="lazy" title="A page"></iframe> 1
    """

    def as_file(frame):
        content = html.unescape(frame.group(1))
        name = f"{hashlib.sha256(content.encode()).hexdigest()[:8]}.html"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf8")
        address = os.path.relpath(folder / name, page.parent)
        link = f'<a href="{address}">Open the frame below as a page</a>'
        return f'{link}<iframe src="{address}" loading="lazy"'

    return re.sub(r'<iframe srcdoc="([^"]*)"', as_file, text)


def sitemap(address: str, pages: list[str]) -> str:
    """Return the XML list of the pages for search engines; it needs the address of the site."""
    urls = "".join(f"<url><loc>{address.rstrip('/')}/{page}.html</loc></url>\n" for page in pages)
    space = "http://www.sitemaps.org/schemas/sitemap/0.9"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="{space}">\n{urls}</urlset>\n'


def explain(log: str, site: Path) -> str:
    """Return the warnings of a Sphinx log, or the end of its first traceback if it has none."""
    log = log.split("\nThe above exception was the direct cause")[0]
    lines = [line.replace(f"{site}/", "") for line in log.splitlines()]
    marks = ("WARNING:", "ERROR:", "CRITICAL:")
    warnings = [line for line in lines if any(mark in line for mark in marks)]
    shown = dict.fromkeys(warnings or lines[-15:])
    return "the pages cannot be rendered:\n" + "\n".join(f"    {line}" for line in shown)
