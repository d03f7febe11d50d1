"""Reading lesson sources, and what a running lesson tells."""

import json

import nbformat
import papermill
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from tools.lesson import (
    COST,
    SHOWN_LINES,
    Progress,
    describe,
    notebook_text,
    read_source,
    run_lesson,
)

SOURCE = """# %% [markdown]
# # 1. Title

# %% tags=["parameters"]
lam = 1.0

# %% mystnb={"image": {"alt": "words"}, "figure": {"caption": "a $x$", "name": "fig-x"}}
draw();
"""


def test_a_source_keeps_tags_and_figure_data_and_is_always_the_same(tmp_path):
    source = tmp_path / "01_a.py"
    source.write_text(SOURCE)
    words, parameters, figure = read_source(source).cells
    assert words.source == "# 1. Title"
    assert parameters.metadata["tags"] == ["parameters"]
    assert figure.metadata["mystnb"]["figure"] == {"caption": "a $x$", "name": "fig-x"}
    assert figure.source == "draw();"
    assert notebook_text(source) == notebook_text(source)
    nbformat.validate(nbformat.reads(notebook_text(source), as_version=4))


def test_progress_tells_sections_and_the_last_line_of_the_running_cell(capsys):
    progress = Progress("[1/2] 01_a")
    assert progress.last_line() == ""
    progress.enter(new_markdown_cell("## Train it\n\nWords."), 0, 9)
    progress.enter(new_markdown_cell("No heading, #hash"), 1, 9)
    cell = new_code_cell("fit()")
    progress.enter(cell, 2, 9)
    assert progress.last_line() == ""
    cell.outputs.append(new_output("stream", text="Epoch 1/20\n40/40 - 3s - loss: 1\n"))
    cell.outputs.append(new_output("display_data", {"image/png": "x"}))
    assert progress.last_line() == "40/40 - 3s - loss: 1"
    assert capsys.readouterr().out == "[1/2] 01_a   0:00  Train it\n"
    assert (progress.title, progress.where) == ("Train it", "cell 3 of 9")


def test_a_failure_shows_the_lesson_s_own_lines_and_not_the_library_s():
    trace = [
        "\x1b[31m----\x1b[39m\nValueError   Traceback (most recent call last)\n"
        "Cell In[7], line 2\n      1 x = 1\n----> 2 f(x)\n\n"
        "File /lib/deep.py:9, in f(x)\n----> 9 raise ValueError(x)\n\nValueError: too big\nmore"
    ]
    error = papermill.PapermillExecutionError(7, 7, "f(x)", "ValueError", "too big\nmore", trace)
    lines = [line.strip() for line in describe(error).splitlines()]
    assert lines[0] == "cell 7 raised ValueError"
    assert lines[1:] == [
        "Cell In[7], line 2",
        "1 x = 1",
        "----> 2 f(x)",
        "ValueError: too big",
        "more",
    ]


def test_the_end_of_a_message_is_shown_whole():
    # As TensorFlow says that a disk is full: one line, the reason at its end.
    full = f"{{{{function_node}}}} /runs/{'a' * 400}/ckpt-3; No space left on device [Op:SaveV2]"
    for message in (full, "\n".join(["a graph"] * 60 + [full])):
        error = papermill.PapermillExecutionError(7, 7, "", "ResourceExhaustedError", message, [])
        assert describe(error).endswith(full)
        assert len(describe(error).splitlines()) <= 1 + SHOWN_LINES


def test_a_lesson_leaves_what_it_cost(tmp_path):
    source = tmp_path / "01_a.py"
    source.write_text("# %%\nimport time\nhold = bytearray(300_000_000)\ntime.sleep(0.5)\n")
    run_lesson(
        source,
        tmp_path / "out" / "01_a.ipynb",
        parameters={},
        products=tmp_path / "products",
        runs=tmp_path / "runs",
        expected=[],
        threads=2,
        cwd=tmp_path,
    )
    cost = json.loads((tmp_path / "products" / "01_a" / COST).read_text())
    assert 0.5 < cost["seconds"] < 120
    assert 0.3 < cost["peak_gb"] < 100  # other tests' processes may have been larger
    assert cost["threads"] == 2
