"""Convert the plain Markdown of lessons to MyST, and make the cell that installs the package.

A lesson must be readable in plain Jupyter, on Colab and in the book, so its source has no MyST
roles or directives. For the book, :func:`dress` turns quotations that begin with a bold kind, such
as **Note**, into admonitions, and links to the glossary into terms. For a notebook that is opened
outside the book's environment, :func:`install_cell` makes a first cell that installs the package.
"""

import ast
import re
from pathlib import Path

import nbformat
import yaml

#: Tag of the cell that installs the package; the sources have no such cell.
INSTALL = "install"
KINDS = ("Note", "Tip", "Warning", "Important")

_QUOTE = re.compile(
    rf"^> \*\*(?P<kind>{'|'.join(KINDS)})(?:: (?P<title>[^*]+))?\*\*\n(?P<body>(?:>.*\n?)+)",
    re.MULTILINE,
)
_TERM = re.compile(r"\[(?P<text>[^\]]+)\]\(\.\./book/glossary\.md#(?P<anchor>[\w-]+)\)")


def dress(text: str) -> str:
    """Convert Markdown to MyST: marked quotations to admonitions, glossary links to terms.

    Examples
    --------
    >>> print(dress("> **Warning: look first**\\n>\\n> Labels are names.\\n"))
    :::{admonition} Look first
    :class: warning
    <BLANKLINE>
    Labels are names.
    :::
    <BLANKLINE>
    >>> dress("a [label map](../book/glossary.md#label-map)")
    'a {term}`label map <label map>`'
    >>> dress("a [U-Net](../book/glossary.md#u-net)")
    'a {term}`U-Net <U-Net>`'
    """
    text = _QUOTE.sub(_admonition, text)
    return _TERM.sub(_term, text)


def _term(match: re.Match) -> str:
    text, anchor = match["text"], match["anchor"]
    same = text.lower().replace(" ", "-") == anchor  # only the text keeps a term's hyphens
    return f"{{term}}`{text} <{text if same else anchor.replace('-', ' ')}>`"


def _admonition(match: re.Match) -> str:
    title = match["title"] or match["kind"]
    body = re.sub(r"^> ?", "", match["body"], flags=re.MULTILINE).rstrip("\n")
    lines = [f":::{{admonition}} {title[0].upper()}{title[1:]}", f":class: {match['kind'].lower()}"]
    return "\n".join([*lines, body, ":::", ""])


def repository(config: Path) -> str:
    """Return the address of the book's repository from ``_config.yml``; "" if it is not set."""
    return yaml.safe_load(config.read_text(encoding="utf8"))["repository"]["url"]


def install_cell(address: str):
    """Make the first cell of a notebook, which installs ``vxmlib`` and its pinned environment.

    The cell does nothing where ``vxmlib`` is installed.

    Parameters
    ----------
    address : str
        Where pip gets the package: the web address of a Git repository, or the path of a wheel.
        With "", the cell stops with an error message that says what to do.
    """
    source = f"git+{address}" if address.startswith("http") else address
    cell = nbformat.v4.new_code_cell(_INSTALL.format(source=source), id="install")
    cell.metadata = {"tags": [INSTALL, "remove-cell"], "cellView": "form"}
    return cell


_INSTALL = """\
# Outside the book's own environment (Colab, Kaggle), install the package and its pinned versions.
import importlib.metadata, importlib.util, subprocess, sys

SOURCE = "{source}"  # the repository, a wheel, or the folder of the project
if importlib.util.find_spec("vxmlib") is None:
    if not SOURCE:
        raise ModuleNotFoundError("vxmlib is missing: set SOURCE to the book's project folder")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", SOURCE], check=True)
    files = importlib.metadata.files("vxmlib")
    lock = next(file.locate() for file in files if file.name == "requirements.lock")
    subprocess.run([*pip, "--require-hashes", "-r", str(lock)], check=True)"""


def without_install(notebook):
    """Remove the install cell, if a notebook has one, and return the same notebook."""
    notebook.cells = [c for c in notebook.cells if INSTALL not in c.metadata.get("tags", ())]
    return notebook


def displayed(source: str) -> list[str]:
    """Return the Markdown that a cell displays with ``Markdown(f"…")``; each value becomes "x".

    Examples
    --------
    >>> displayed('Markdown(f"Dice is {dice:.2f}.")')
    ['Dice is x.']
    """
    texts = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Markdown":
            for argument in node.args:
                parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
                words = (p.value if isinstance(p, ast.Constant) else "x" for p in parts)
                texts.append("".join(words))
    return texts
