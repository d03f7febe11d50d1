"""The text of lessons and pages: plain Markdown, and sentences that can be read."""

import builtins
import re
import symtable
from pathlib import Path

import pytest

from tools import record_table
from tools.book import lessons
from tools.lesson import read_source
from tools.plain import displayed

LONGEST = 40  # words of a sentence
BANNED = re.compile(
    r"\b(these very|of one's own|told|is at hand|foretell\w*|circulates?|half a cosine)\b", re.I
)
ROLE = re.compile(r"\{[\w:-]+\}`|^ *(?::::|```)\{", re.MULTILINE)
HIDDEN = {"remove-cell", "remove-input", "hide-cell"}


def tags(cell):
    return set(cell.metadata.get("tags", ()))


def texts_of_lesson(path):
    """Every text of a lesson that a reader sees as prose, captions and alt texts included."""
    for cell in read_source(path).cells:
        if cell.cell_type == "markdown":
            yield cell.source
            continue
        yield from displayed(cell.source)
        for part in cell.metadata.get("mystnb", {}).values():
            if isinstance(part, dict):
                yield from (part[key] for key in ("alt", "caption") if key in part)


def texts(root, path):
    """The texts of one source of the book."""
    if path.suffix == ".py":
        return list(texts_of_lesson(path))
    return [path.read_text(encoding="utf8").replace(record_table.markdown(root), "")]


def sources(root):
    """Lessons, pages and the README."""
    found = [root / "notebooks" / f"{name}.py" for name in lessons(root)]
    return [*found, *sorted((root / "book").glob("*.md")), root / "README.md"]


def sentences(text):
    """The sentences of a Markdown text, without code, tables and directives."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"^ *(?:\||:::|:\w+:).*$", "\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`|\$[^$]*\$|\{\{.*?\}\}", "x", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*>#]|\d+\.)\s)", text):
        yield from re.split(r"(?<=[.!?:])\s+", re.sub(r"\s+", " ", block).strip())


def place(path, words):
    """``file, line n`` of the first words of a passage."""
    start = " ".join(words.split()[:4])
    for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), start=1):
        if start and start in line:
            return f"{path.name}, line {number}"
    return path.name


def pytest_generate_tests(metafunc):
    if "source" in metafunc.fixturenames:
        found = sources(Path(__file__).parents[2])
        metafunc.parametrize("source", found, ids=[path.stem for path in found])


# -- how it reads --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("One two. Three four five!", [2, 3]),
        ("a `b c d` e\n\n- f g\n- h", [3, 3, 2]),
        ("| a b c |\n\n```\nx y z\n```\nlast one", [2]),
    ],
)
def test_sentences_are_told_apart(text, lengths):
    assert [len(s.split()) for s in sentences(text) if s] == lengths


def test_no_sentence_is_too_long(root, source):
    long = [
        f"{place(source, sentence)}: {len(sentence.split())} words: {sentence[:80]}…"
        for text in texts(root, source)
        for sentence in sentences(text)
        if len(sentence.split()) > LONGEST
    ]
    assert not long


def test_no_phrase_is_one_that_the_style_forbids(root, source):
    found = [
        f"{place(source, sentence)}: {match[0]!r} in: {sentence[:80]}"
        for text in texts(root, source)
        for sentence in sentences(text)
        if (match := BANNED.search(sentence))
    ]
    assert not found


def test_a_lesson_reads_in_plain_jupyter_without_roles_or_directives(root, lesson):
    path = root / "notebooks" / f"{lesson}.py"
    raw = [
        f"{place(path, text[max(0, match.start() - 40) : match.end() + 20])}: {match[0]}"
        for text in texts_of_lesson(path)
        for match in ROLE.finditer(re.sub(r"^ *```\w*\n.*?```", "", text, flags=re.DOTALL | re.M))
    ]
    assert not raw


# -- hidden cells --------------------------------------------------------------------------------


def names(source):
    """Names that a cell binds and names that it reads, at its top level."""
    source = re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)
    table = symtable.symtable(source, "cell", "exec")
    bound, read = set(), set()

    def look(scope, top):
        for symbol in scope.get_symbols():
            if top and (symbol.is_assigned() or symbol.is_imported()):
                bound.add(symbol.get_name())
            if symbol.is_global() or top:
                read.update({symbol.get_name()} if symbol.is_referenced() else ())
        for inner in scope.get_children():
            look(inner, False)

    look(table, True)
    return bound, read


def test_bound_and_read_names():
    assert names("import a.b\nc = a + d\ndef f(x):\n    return x + e") == (
        {"a", "c", "f"},
        {"a", "d", "e"},
    )


def test_no_shown_cell_uses_a_name_of_a_hidden_one(root, lesson):
    shown, hidden, wrong = set(dir(builtins)), {}, []
    path = root / "notebooks" / f"{lesson}.py"
    for cell in read_source(path).cells:
        if cell.cell_type != "code":
            continue
        bound, read = names(cell.source)
        if tags(cell) & HIDDEN:
            hidden |= dict.fromkeys(bound, cell.source[:40])
            continue
        wrong += [
            f"{place(path, cell.source)}: {name!r} comes from the hidden cell {hidden[name]!r}"
            for name in sorted(read - shown - bound)
            if name in hidden
        ]
        shown |= bound
    assert not wrong
