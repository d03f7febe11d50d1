"""What lessons and pages cite is in the list of references, with a link to it."""

import re
from urllib.parse import unquote

import pytest

from tools.book import lessons

DOI = re.compile(r"https?://(?:dx\.)?doi\.org/([^)\s>\"]+)")
ARXIV = re.compile(r"https?://arxiv\.org/abs/([\d.]+\d)")


@pytest.fixture(scope="module")
def entries(root):
    """The entries of book/references.bib by their keys."""
    text = (root / "book" / "references.bib").read_text(encoding="utf8")
    return dict(re.findall(r"^@\w+\{([^,]+),\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))


def test_every_publication_that_is_linked_is_in_the_references(root, entries):
    known = "\n".join(entries.values()).lower()
    sources = [root / "notebooks" / f"{name}.py" for name in lessons(root)]
    linked = 0
    for path in [*sources, *(root / "book").glob("*.md"), root / "README.md"]:
        text = path.read_text(encoding="utf8")
        for name in [*map(unquote, DOI.findall(text)), *ARXIV.findall(text)]:
            linked += 1
            assert f"{{{name.lower()}}}" in known, f"{path.name}: {name}"
    assert linked > 10


def test_every_reference_has_a_link(entries):
    without = [key for key, text in entries.items() if not re.search(r"^  (doi|url) ", text, re.M)]
    assert not without
