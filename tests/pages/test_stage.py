"""Staging: what is published, with which numbers, and what is taken out before."""

import io
import json

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from tools import pages, stage
from tools.book import choose, lessons

PATHS = {"/home/ann/work/book": ".", "/mnt/scans": "$VXMLIB_MIRROR", "/home/ann": "~"}
FACTS = {
    "cohort": "mni",
    "profile": "quick",
    "seed": 0,
    "version": "1",
    "commit": "abc",
    "python": "3.11",
    "date": "2026-01-01",
}


def executed(*outputs, **metadata):
    return new_notebook(
        cells=[
            new_markdown_cell("# Title"),
            new_code_cell("lam = 1.0\nseed = 0", metadata={"tags": ["parameters"]}),
            new_code_cell("# Parameters\nseed = 0\n", metadata={"tags": ["injected-parameters"]}),
            new_code_cell("f()", outputs=list(outputs), metadata=metadata),
        ],
        metadata={"papermill": {"environment_variables": {"SECRET": "x"}}},
    )


def test_papermill_leaves_no_trace():
    marks = {"papermill": {"status": "completed"}, "execution": {"shell.execute_reply": "now"}}
    clean = stage.publishable(executed(**marks, tags=["hide-cell"]), PATHS)
    text = nbformat.writes(clean)
    for word in ("papermill", "SECRET", "execute_reply"):
        assert word not in text
    assert clean.cells[-1].metadata == {"tags": ["hide-cell"]}


def test_paths_of_this_machine_are_replaced_wherever_they_stand():
    clean = stage.publishable(
        executed(
            new_output("stream", text="saved /home/ann/work/book/_build/model.h5\n"),
            new_output(
                "display_data", {"text/html": "<b>/mnt/scans/a.nii</b>", "image/png": "/mnt"}
            ),
            new_output("execute_result", {"application/json": {"at": ["/home/ann/x"]}}),
            new_output("error", ename="E", evalue="", traceback=["/home/ann/.pyenv/lib"]),
        ),
        PATHS,
    )
    stream, shown, nested, error = clean.cells[-1].outputs
    assert stream.text == "saved ./_build/model.h5\n"
    assert shown.data["text/html"] == "<b>$VXMLIB_MIRROR/a.nii</b>"
    assert shown.data["image/png"] == "/mnt"
    assert nested.data["application/json"] == {"at": ["~/x"]}
    assert error.traceback == ["~/.pyenv/lib"]


def test_a_path_that_only_begins_alike_stays():
    output = new_output("stream", text="/home/annabel /home/ann-2 /home/ann.")
    clean = stage.publishable(executed(output), PATHS)
    assert clean.cells[-1].outputs[0].text == "/home/annabel /home/ann-2 ~."


def test_private_paths_put_the_longest_first(tmp_path):
    paths = stage.private_paths(tmp_path, {"VXMLIB_MIRROR": f"{tmp_path}/m", "VXMLIB_CACHE": ""})
    assert list(paths)[:2] == [f"{tmp_path}/m", str(tmp_path)]
    assert "" not in paths
    assert "/" not in paths


@pytest.mark.parametrize(("injected", "cells"), [("seed = 0", 3), ("seed = 1", 4), ("new = 0", 4)])
def test_injected_parameters_are_shown_only_when_they_say_something(injected, cells):
    notebook = executed()
    notebook.cells[2].source = f"# Parameters\n{injected}\n"
    assert len(stage.publishable(notebook, PATHS).cells) == cells


def test_a_page_may_use_any_number_of_a_record(tmp_path):
    page = "Dice {{ '%.2f' % lesson05.metrics.dice }}, `{{ not.this }}`, {{ build.profile }}."
    (tmp_path / "index.md").write_text(page)
    stage.check_pages(tmp_path, {"lesson05": {"metrics": {"dice": 0.7}}, "build": FACTS})


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("\n{{ lesson06.metrics.dice }}", r"index.md, line 2: .*lesson06.*lesson05"),
        ("{{ lesson05.metrics.dise }}", r"line 1: .*dise"),
        ("{{ '%.2f' % lesson05.metrics.dise }}", r"line 1: .*dise"),
        ("{{ '%.2f' % lesson05.metrics.none }}", r"line 1: .*real number"),
    ],
)
def test_a_number_that_no_record_has_is_named(tmp_path, page, complaint):
    (tmp_path / "index.md").write_text(page)
    with pytest.raises(stage.StageError, match=complaint):
        stage.check_pages(tmp_path, {"lesson05": {"metrics": {"dice": 0.7, "none": None}}})


def test_settings_name_the_run(root):
    config = stage.settings(root / "_config.yml", {"build": FACTS}, None)
    footer = config["sphinx"]["config"]["html_context"]["vxm_footer"]
    assert "ohort mni, profile quick, seed 0" in footer
    assert "announcement" not in config["html"]
    smoke = {"build": FACTS | {"profile": "smoke"}}
    assert "smoke" in stage.settings(root / "_config.yml", smoke, None)["html"]["announcement"]


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, None),
        ({"BOOK_REPOSITORY_URL": "https://github.com/a/b/"}, "https://github.com/a/b"),
        ({"BOOK_REPOSITORY_URL": "https://example.org/a/b"}, "https://example.org/a/b"),
        (
            {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "a/b"},
            "https://github.com/a/b",
        ),
        ({"GITHUB_SERVER_URL": "https://github.com"}, None),
    ],
)
def test_the_address_of_the_repository_decides_about_the_buttons(root, environment, url):
    home = stage.repository(environment, root / "_config.yml")
    assert (home and home["url"]) == url
    config = stage.settings(root / "_config.yml", {"build": FACTS}, home)
    line = pages.source_line("notebooks/04_dice", home)
    assert (f'href="{url}"' in line) == bool(url)
    assert ("project folder" in line) != bool(url)
    on_github = "github.com" in str(url)
    assert ("launch_buttons" in config) == on_github
    assert config["repository"]["url"] == (url if on_github else "")


@pytest.mark.parametrize("home", [None, {"url": "https://github.com/a/b"}])
def test_the_notebook_to_download_is_plain_and_has_its_outputs(tmp_path, home):
    term = "A [label map](../book/glossary.md#label-map)."
    notebook = executed(new_output("stream", text="read /mnt/scans/a.nii\n"))
    notebook.cells[0].source = f"# Title\n\n> **Note: look**\n>\n> {term}\n"
    notebook = stage.publishable(notebook, PATHS)
    stage.downloadable(notebook, home, tmp_path / "a.ipynb")
    stage.dress(notebook, ["labels"])
    assert "{term}" in notebook.cells[0].source  # the page has what its download has not
    install, title, *_, last = nbformat.read(tmp_path / "a.ipynb", as_version=4).cells
    assert install.metadata.tags == ["install", "remove-cell"]
    assert ("https://github.com/a/b" in install.source) == bool(home)
    assert term in title.source
    assert "{" not in title.source
    assert last.outputs[0].text == "read $VXMLIB_MIRROR/a.nii\n"


def test_toc_and_lessons_agree(root, tmp_path):
    stage.check_toc(root / "_toc.yml", lessons(root))
    toc = tmp_path / "_toc.yml"
    toc.write_text((root / "_toc.yml").read_text().replace("notebooks/02", "notebooks/12"))
    with pytest.raises(stage.StageError, match="lists lessons"):
        stage.check_toc(toc, lessons(root))


def test_a_lesson_that_was_not_executed_is_named(root, tmp_path):
    small = root / "tests" / "pages" / "data" / "minibook"
    with pytest.raises(stage.StageError, match="01_make: not executed yet"):
        stage.stage_book(small, tmp_path, stage.Run("mni", "quick", 0), lessons(small))
    assert not (tmp_path / "site" / "mni-quick").exists()


def test_pictures_of_lessons_reach_the_pages(tmp_path):
    lesson = tmp_path / "products" / "06_a"
    lesson.mkdir(parents=True)
    (lesson / "front.png").write_bytes(b"picture")  # small: nothing to slim
    (lesson / "record.json").write_text("{}")
    stage.copy_pictures(tmp_path / "products", tmp_path / "pictures")
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["06_a-front.png"]
    assert (tmp_path / "pictures" / "06_a-front.png").read_bytes() == b"picture"


def test_records_are_read_by_number(tmp_path):
    (tmp_path / "03_fit").mkdir()
    (tmp_path / "03_fit" / "record.json").write_text(json.dumps({"schema": 1}))
    with pytest.raises(ValueError, match=r"record\.json"):
        stage.read_records(tmp_path)
    (tmp_path / "03_fit" / "record.json").unlink()
    assert stage.read_records(tmp_path) == {}


def test_lessons_can_be_chosen_by_number_or_name(root):
    small = root / "tests" / "pages" / "data" / "minibook"
    assert choose(small, "") == choose(small, "1, 02") == ["01_make", "02_use"]
    assert choose(small, "02_use") == ["02_use"]
    with pytest.raises(ValueError, match="found '3', expected some of: 01_make, 02_use"):
        choose(small, "1 3")


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        ("lessons: {09_none: {}}", "no source notebooks/09_none.py"),
        ("lessons: {01_make: {needs: [02_use]}, 02_use: {}}", "no earlier lesson"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path, plan, complaint):
    for folder in ("config", "notebooks"):
        (tmp_path / folder).mkdir()
    for name in ("01_make", "02_use"):
        (tmp_path / "notebooks" / f"{name}.py").touch()
    (tmp_path / "config" / "book.yaml").write_text(plan)
    with pytest.raises(ValueError, match=complaint):
        lessons(tmp_path)


def test_a_large_figure_is_slimmed_and_still_the_same_picture():
    grey = np.random.default_rng(0).integers(0, 256, (300, 400), dtype=np.uint8)
    picture = np.stack([grey] * 3, axis=-1)
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "PNG")
    slimmed = stage.slim(written.getvalue())
    assert len(slimmed) < 0.6 * len(written.getvalue())
    shown = np.asarray(Image.open(io.BytesIO(slimmed)).convert("RGB")).astype(int)
    assert np.abs(shown - picture).max() <= 8


def test_a_small_figure_is_left_alone():
    written = io.BytesIO()
    Image.new("RGB", (8, 8)).save(written, "PNG")
    assert stage.slim(written.getvalue()) == written.getvalue()
