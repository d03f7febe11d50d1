"""Make what the site adds to the text of a page: footer, description, search words, citation."""

import html
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from vxmlib import files
from vxmlib.sources import malf, template, vxm2018

#: Credits of the scans that a page may show, by their names in `shows` of config/book.yaml.
CREDITS = {
    "mni": f"Simulated subjects, made from one template brain. {template.CREDIT}",
    "malf": f"Real subjects. {malf.CREDIT} {malf.LICENCE}.",
    "vxm2018": f"Real subjects. {vxm2018.CREDIT}",
    "own": "Your own scans.",
}
#: Number of characters at which a description is cut, because search engines show no more.
DESCRIPTION_LENGTH = 180


def plans(root: Path) -> dict[str, dict]:
    """Return the entries of pages in config/book.yaml: ``{"notebooks/04_dice": {"shows": [...]}}``.

    Raises
    ------
    ValueError
        If the file does not match its schema.
    """
    return files.read_yaml(root / "config" / "book.yaml", schema="book").get("pages", {})


def listed(toc: Path) -> list[str]:
    """Return the pages of ``_toc.yml`` in their order."""
    return re.findall(r"(?:file|root):\s*(\S+)", toc.read_text(encoding="utf8"))


# -- footer --------------------------------------------------------------------------------------


def run_label(facts: Mapping) -> str:
    """Describe the run of a build in words."""
    return f"cohort {facts['cohort']}, profile {facts['profile']}, seed {facts['seed']}"


def origin(shows: list[str], facts: Mapping, folders: list[str]) -> str:
    """Say in one to three sentences where the numbers of a page come from.

    Parameters
    ----------
    shows : list of str
        Sources of the numbers, as in config/book.yaml.
    facts : dict
        Cohort, profile and seed of the build.
    folders : list of str
        Folders with the committed records that the page reads.

    Examples
    --------
    >>> run = {"cohort": "mni", "profile": "quick", "seed": 0}
    >>> origin(["live"], run, [])
    'This build computed the numbers on this page: cohort mni, profile quick, seed 0.'
    >>> origin([], run, [])
    'This page reports no measured numbers.'
    """
    stored = "records of earlier runs, which are stored with the project"
    if folders:
        stored += f" in {' and '.join(folders)}"
    label = run_label(facts)
    if "live" in shows and "record" in shows:
        text = f"This build computed some of the numbers on this page: {label}. "
        text += f"The others come from {stored}."
    elif "live" in shows:
        text = f"This build computed the numbers on this page: {label}."
    elif "record" in shows:
        text = f"The numbers on this page come from {stored}. This build did not compute them."
    elif "paper" in shows:
        return "The numbers on this page come from the publications that it cites."
    else:
        return "This page reports no measured numbers."
    return text + (" Values from publications are marked as such." if "paper" in shows else "")


def credit(shows: list[str], cohort: str) -> list[str]:
    """Return the credits of the scans that a page shows; a live page shows the build's cohort."""
    shown = ([cohort] if "live" in shows else []) + [name for name in shows if name in CREDITS]
    return [CREDITS[name] for name in dict.fromkeys(shown)]


def footer(shows: list[str], facts: Mapping, folders: list[str], source: str) -> str:
    """Return the footer of a page as HTML; `source` is the HTML of :func:`source_line`."""
    lines = [html.escape(line) for line in credit(shows, facts["cohort"])]
    lines = [html.escape(origin(shows, facts, folders)), *lines, source]
    lines.append(
        f"Book {facts['version']} ({facts['commit']}), built on {facts['date']} "
        f"with Python {facts['python']}."
    )
    return "".join(f"<p>{line}</p>" for line in lines)


def source_line(page: str, home: Mapping | None) -> str:
    """Say in HTML where the source of a page is: in the repository or in the project folder."""
    path = page + (".py" if page.startswith("notebooks/") else ".md")
    if home:
        return f'Source: <code>{path}</code> in <a href="{home["url"]}">{home["url"]}</a>.'
    return f"Source: <code>{path}</code> in the project folder from which this book was built."


# -- description and search words ----------------------------------------------------------------


def plain_text(markdown: str) -> str:
    """Return Markdown as plain text, without links, roles and markup."""
    text = re.sub(r"\{\w+(?::\w+)?\}`([^`<]*)(?:<[^`]*>)?`", "", markdown)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\{\{.*?\}\}|[*`]", "", text)
    return re.sub(r"\s+([.,])", r"\1", " ".join(text.split()))


def description(text: str) -> str:
    """Return a short description of a page for search engines.

    It is the row "You will" of the page's opening table, or else its first paragraph.

    Examples
    --------
    >>> description("# Dice\\n\\n| | |\\n|---|---|\\n| **You will** | warp [labels](a.md) |\\n")
    'Warp labels.'
    >>> description("# Glossary\\n\\nTerms of the *field*.\\n\\nMore.")
    'Terms of the field.'
    """
    row = re.search(r"^\|\s*\*\*You will\*\*\s*\|(.+)\|\s*$", text, re.MULTILINE)
    paragraphs = re.findall(r"(?:^|\n\n)(?=[A-Z*\[])(.+?)(?=\n\n|\n*\Z)", text, re.DOTALL)
    summary = plain_text(row[1] if row else next(iter(paragraphs), ""))
    if len(summary) > DESCRIPTION_LENGTH:
        summary = summary[:DESCRIPTION_LENGTH].rsplit(" ", 1)[0].rstrip(",;:") + " …"
    elif summary and summary[-1] not in ".!?":
        summary += "."
    return summary[:1].upper() + summary[1:]


def with_index(text: str, words: list[str]) -> str:
    """Add search words after the title of a Markdown page, as main entries of the index.

    The search of the site lists the page of an index entry before pages that only contain the word.

    Examples
    --------
    >>> print(with_index("# Dice\\n\\nText.", ["dice", "overlap"]))
    # Dice
    <BLANKLINE>
    ```{index} ! dice, ! overlap
    ```
    <BLANKLINE>
    Text.
    """
    if not words:
        return text
    entries = ", ".join(f"! {word}" for word in words)
    title = re.search(r"^# .+\n?", text, re.MULTILINE)
    head, rest = text[: title.end()].rstrip("\n"), text[title.end() :].lstrip("\n")
    return f"{head}\n\n```{{index}} {entries}\n```\n\n{rest}"


# -- citation ------------------------------------------------------------------------------------


def citation(cff: Path, year: str, home: Mapping | None) -> str:
    """Return a BibTeX entry of the book as a Markdown block, from ``CITATION.cff``."""
    cited = yaml.safe_load(cff.read_text(encoding="utf8"))
    authors = " and ".join(
        f"{{{author['name']}}}"
        if "name" in author
        else f"{author['family-names']}, {author['given-names']}"
        for author in cited["authors"]
    )
    fields = {
        "author": authors,
        "title": cited["title"],
        "year": year,
        "version": cited["version"],
        "note": f"Licence: {cited['license']}",
    }
    url = home["url"] if home else cited.get("repository-code")
    fields |= {"url": url} if url else {}
    width = max(map(len, fields))
    lines = [f"  {name.ljust(width)} = {{{value}}}," for name, value in fields.items()]
    return "\n".join(["```bibtex", "@software{reproducing_voxelmorph,", *lines, "}", "```"])
