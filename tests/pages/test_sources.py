"""Lesson sources and pages as they are written: form, pairing, numbers in prose."""

import json
import re
import statistics

import pytest

from tools import record_table
from tools.book import lessons
from tools.lesson import notebook_text, write_notebooks
from tools.plain import displayed
from vxmlib.experiments import dependencies

# -- form ----------------------------------------------------------------------------------------


def tags(cell):
    return cell.metadata.get("tags", [])


def shown_code(cells):
    """Code cells whose source a reader sees at once or on a click."""
    return [c for c in cells if c.cell_type == "code" and "remove-cell" not in tags(c)]


def lines(cell):
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def test_every_source_is_a_lesson_and_every_lesson_has_a_source(root):
    sources = sorted(path.stem for path in (root / "notebooks").glob("*.py"))
    assert sources == sorted(lessons(root))


def test_the_notebook_equals_its_source_and_holds_no_output(root, lesson):
    source = root / "notebooks" / f"{lesson}.py"
    text = source.with_suffix(".ipynb").read_text(encoding="utf8")
    assert text == notebook_text(source), "run `make notebooks`"
    for cell in json.loads(text)["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_notebooks_are_written_once_and_then_stay(tmp_path, root):
    source = root / "tests" / "pages" / "data" / "minibook" / "notebooks" / "01_make.py"
    (tmp_path / "01_make.py").write_text(source.read_text())
    assert write_notebooks(tmp_path) == [tmp_path / "01_make.ipynb"]
    assert write_notebooks(tmp_path) == []
    (tmp_path / "01_make.ipynb").write_text("{}")
    assert write_notebooks(tmp_path) == [tmp_path / "01_make.ipynb"]


def test_one_cell_holds_the_parameters(lesson, cells):
    tagged = [cell for cell in cells(lesson) if "parameters" in tags(cell)]
    assert len(tagged) == 1
    for name in ("cohort", "profile", "seed"):
        assert re.search(rf"^{name} = ", tagged[0].source, re.MULTILINE)


def test_a_page_opens_with_its_title_and_what_it_needs(lesson, cells):
    first = cells(lesson)[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# [A-Z]\S", first.source)
    for row in ("You will", "You will learn", "You need"):
        assert f"**{row}**" in first.source


def test_words_come_before_each_cell(lesson, cells):
    """Only the parameters and what reads them follow one another."""
    before = ""
    for cell in cells(lesson):
        if cell.cell_type == "markdown" or displayed(cell.source):
            before = "words"
        elif not {"remove-cell", "remove-input"} & set(tags(cell)):
            place = f"{lesson}: {cell.source.splitlines()[0]!r}"
            assert before in ("words", "parameters"), (
                f"{place} follows a cell without words between"
            )
            before = "parameters" if "parameters" in tags(cell) else "code"


def test_cells_are_short(lesson, cells):
    lengths = sorted(map(lines, shown_code(cells(lesson))))
    assert lengths[-1] <= 25
    assert lengths[int(0.9 * (len(lengths) - 1))] <= 12


def test_cells_are_short_over_the_book(root, cells):
    lengths = [lines(cell) for lesson in lessons(root) for cell in shown_code(cells(lesson))]
    assert statistics.median(lengths) <= 5


def test_figures_have_alt_text_caption_and_a_name_of_their_own(root, cells, figure_of):
    names = []
    for lesson in lessons(root):
        for cell in cells(lesson):
            if cell.metadata.get("mystnb", {}).keys() & {"image", "figure"}:
                alt, caption, name = figure_of(cell)
                if "steppable.steps(" not in cell.source:  # its pictures bring their own
                    assert len(alt.split()) >= 5, f"{lesson} {name}: alt text {alt!r}"
                assert caption, f"{lesson} {name}: no caption"
                names.append(name)
    assert all(name.startswith("fig-") for name in names)
    assert len(set(names)) == len(names)


# -- numbers in prose ----------------------------------------------------------------------------
#
# A number that the book computed comes from a record, by glue or {{ }}; never typed. So decimals
# and percentages in prose must be one of:
#   from a paper        its citation is in the same sentence, table row or list item
#   a setting, example  in `code` or $maths$, or as "λ = 0.01", "version 0.2", "Python 3.11"

NOT_PROSE = re.compile(
    r"```\{(?:math|bibliography)\}.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|\{\{.*?\}\}|\]\([^)]*\)",
    re.DOTALL,
)
SETTING = re.compile(
    r"(?:λ|lambda) (?:= )?\d+(?:\.\d+)?"
    r"|(?:version|Apache) \d+(?:\.\d+)*"
    r"|Python \d\.\d+(?:(?:–| to )\d\.\d+)?",
    re.IGNORECASE,
)
CITATION = re.compile(
    r"\{cite(?::\w+)?\}`[^`]+`|\[[^\]]+\]\(https?://(?:doi\.org|arxiv\.org|\S+thecvf\.com)/[^)]+\)"
)
NUMBER = re.compile(r"(?<![\w.])(?<!\w-)\d+(?:\.\d+|(?:\.\d+)?(?=\s?%))")
UNIT = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*|]|\d+\.)\s)|(?<=[.;!?])\s+")


def typed_numbers(text):
    """Decimals and percentages of a text that neither a record nor a citation vouches for."""
    text = NOT_PROSE.sub(" ", CITATION.sub(" CITED ", text))
    units = [SETTING.sub(" ", unit) for unit in UNIT.split(text) if "CITED" not in unit]
    return [number for unit in units for number in NUMBER.findall(unit)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Dice rose to 0.73.", ["0.73"]),
        ("It fell by 12 %, or 1.5%.", ["12", "1.5"]),
        ("| Dice | 0.731 |", ["0.731"]),
        ("Dice {glue:text}`dice:.2f` and {{ '%.2f' % lesson05.dice }} %.", []),
        ("The paper reports 0.753 {cite}`balakrishnan2019tmi`.", []),
        ("They report 0.753 {cite}`a2019`. We found 0.71.", ["0.71"]),
        ("- theirs 0.753 {cite:p}`a2019`\n- ours 0.71", ["0.71"]),
        ("At λ = 0.01 and version 0.2, with `lr=0.5`, $x = 0.25$ and lesson 3.", []),
        ("Python 3.10 to 3.13, Apache-2.0, lambda 0.01; but -0.5", ["0.5"]),
        ("$$ 0.5 \\cdot x $$ then 0.6", ["0.6"]),
        ("see [this](a0.5.md), 150 000 steps, 1 mm, int_steps2.5", []),
    ],
)
def test_the_rule_about_numbers(text, found):
    assert typed_numbers(text) == found


def test_no_result_is_typed_into_a_lesson(lesson, cells, figure_of):
    texts = []
    for cell in cells(lesson):
        if cell.cell_type == "markdown":
            texts.append(cell.source)
        else:
            texts += [*figure_of(cell)[:2], *displayed(cell.source)]
    typed = [(number, text) for text in texts for number in typed_numbers(text)]
    assert not typed, "take it from a record (glue), or cite where it is from in the same sentence"


def test_no_result_is_typed_into_a_page(root):
    for page in [*(root / "book").glob("*.md"), root / "README.md"]:
        text = page.read_text(encoding="utf8").replace(record_table.markdown(root), "")
        assert not typed_numbers(text), page


def test_the_readme_has_the_table_of_the_committed_records(root):
    begin, end = record_table.MARKS
    between = (root / "README.md").read_text(encoding="utf8").split(begin)[1].split(end)[0]
    assert between.strip() == record_table.markdown(root), "run `make results`"


def test_the_readme_points_at_files_that_exist(root):
    text = (root / "README.md").read_text(encoding="utf8")
    local = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text) + re.findall(r"`(\w+\.cff)`", text)
    assert local
    assert [target for target in local if not (root / target).exists()] == []
    goals = re.findall(r"^([a-z]+):", (root / "Makefile").read_text(encoding="utf8"), re.MULTILINE)
    assert set(re.findall(r"make ([a-z]+)", text)) <= set(goals)


# -- what a lesson depends on --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "cohort", "with_it", "without"),
    [
        ("from vxmlib import warp", "mni", "warp checks sources/simulate", "losses sources/malf"),
        ("from vxmlib.warp import warp_image", "own", "warp sources/own", "metrics"),
        ("import vxmlib.metrics as m", "malf", "metrics sources/malf", "records"),
        ("cohorts.load('vxm2018')", "mni", "sources/vxm2018 fetch", "sources/malf"),
        (
            "from vxmlib.experiments import trained",
            "mni",
            "networks/strided backend",
            "networks/hyper",
        ),
        ("from vxmlib.experiments import runs", "mni", "models training", "networks/strided"),
        ("pd.read_csv(folder / 'paper_lambda.csv')", "mni", "data/paper_lambda.csv", "warp.csv"),
    ],
)
def test_a_lesson_depends_on_what_it_imports_or_names(tmp_path, line, cohort, with_it, without):
    source = tmp_path / "01_a.py"
    source.write_text(f"# %%\n{line}\n")
    files = dependencies.of_lesson(source, cohort)
    names = {str(path.relative_to(dependencies.PACKAGE)).removesuffix(".py") for path in files}
    assert set(with_it.split()) <= names
    assert not set(without.split()) & names
    assert "__init__" not in names  # the map of the package: words alone
