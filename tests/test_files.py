"""Files appear whole or not at all."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from vxmlib import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_fails_leaves_the_older_file_and_nothing_else(tmp_path):
    files.write_text(tmp_path / "table.csv", "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(tmp_path / "table.csv", "half \ud800")
    assert names(tmp_path) == ["table.csv"]
    assert (tmp_path / "table.csv").read_text() == "old"


def test_the_final_name_holds_the_old_text_until_the_end(tmp_path):
    files.write_text(tmp_path / "table.csv", "old")
    with files.whole(tmp_path / "table.csv") as part:
        part.write_text("new")
        assert (tmp_path / "table.csv").read_text() == "old"
    assert (tmp_path / "table.csv").read_text() == "new"


def test_the_name_to_write_to_is_hidden_and_keeps_the_ending(tmp_path):
    with files.whole(tmp_path / "deep" / "image.nii.gz") as part:
        assert part.name.startswith(".") and part.name.endswith(".nii.gz")
        part.write_bytes(b"")
    assert names(tmp_path / "deep") == ["image.nii.gz"]


def test_threads_of_one_process_may_write_the_same_file(tmp_path):
    start = threading.Barrier(8)

    def write(text):
        start.wait()
        for _ in range(50):
            files.write_text(tmp_path / "table.csv", text)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, [f"{number}" * 1000 for number in range(8)]))
    assert names(tmp_path) == ["table.csv"]
    text = (tmp_path / "table.csv").read_text()
    assert text == text[0] * 1000


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError("No space left on device")],
)
def test_an_error_of_the_disk_names_the_file(tmp_path, monkeypatch, error):
    def full(*args, **options):
        raise error

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        files.write_text(tmp_path / "table.csv", "text")
    assert str(tmp_path / "table.csv") in str(caught.value)
    assert caught.value.errno == error.errno


def test_a_target_that_is_a_folder_is_named_by_its_name_alone(tmp_path):
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(IsADirectoryError, match=r"table\.csv") as caught:
        files.write_text(tmp_path / "table.csv", "text")
    assert ".part" not in str(caught.value)


def test_an_error_about_another_file_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"source\.txt"), files.whole(tmp_path / "copy.txt"):
        (tmp_path / "source.txt").read_text()


def test_text_is_utf8(tmp_path):
    files.write_text(tmp_path / "a.txt", "λ = 1")
    assert (tmp_path / "a.txt").read_bytes() == "λ = 1".encode()


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    order = []

    def later():
        with files.alone(tmp_path):
            order.append("second")

    with files.alone(tmp_path):
        waiting = threading.Thread(target=later)
        waiting.start()
        waiting.join(0.2)
        with pytest.raises(BlockingIOError), files.alone(tmp_path, wait=False):
            pass
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, c: 2}\n", "near line 2: found c twice, expected each key once"),
        ("a: [", "not YAML"),
        ("- 1\n", r"found \[1\], expected a mapping"),
        ("0\n", "found 0, expected a mapping"),
    ],
)
def test_yaml_that_means_two_things_or_nothing_is_refused(tmp_path, text, message):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(KeyError, match=rf"plan\.yaml.*{message}"):
        files.read_yaml(tmp_path / "plan.yaml", KeyError)


SCHEMA = """
type: object
required: [a]
additionalProperties: false
properties:
  a: {type: object, additionalProperties: {$ref: "#/$defs/entry"}}
$defs:
  entry:
    type: object
    additionalProperties: false
    properties:
      lam: {type: number, minimum: 0, description: a number of at least 0}
      loss: {enum: [ncc, mse, null]}
      steps: {type: integer}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {x: {lam: -1}}", "a.x.lam: found -1, expected a number of at least 0"),
        ("a: {x, y: {lam: -1}}", "a.x: found None, expected type object"),
        ("a: {'x y': {loss: nmi}}", "a['x y'].loss: found 'nmi', expected one of: ncc, mse, null"),
        ("a: {x: {lamb: 1}}", "a.x: found the key lamb, expected only lam, loss, steps"),
        ("a: {x: {1: 1}}", "a.x: found the key 1, expected only lam, loss, steps"),
        ("a: {x: {steps: much}}", "a.x.steps: found 'much', expected type integer"),
        ("{a: {}, b: 1}", "the file: found the key b, expected only a"),
        ("", "the file: found no key a, expected all of a"),
    ],
)
def test_an_entry_that_the_schema_does_not_allow_is_named(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(files, "SCHEMAS", tmp_path)
    (tmp_path / "small.yaml").write_text(SCHEMA)
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(KeyError) as error:
        files.read_yaml(tmp_path / "plan.yaml", KeyError, schema="small")
    assert error.value.args[0] == f"{tmp_path / 'plan.yaml'}, {message}"


def test_a_file_that_follows_its_schema_is_returned(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SCHEMAS", tmp_path)
    (tmp_path / "small.yaml").write_text(SCHEMA)
    (tmp_path / "plan.yaml").write_text("a: {x: {lam: 1, loss: null}}")
    content = files.read_yaml(tmp_path / "plan.yaml", schema="small")
    assert content == {"a": {"x": {"lam": 1, "loss": None}}}


@pytest.mark.parametrize("path", sorted(files.SCHEMAS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_schema_is_one_and_its_file_follows_it(path, root):
    jsonschema.Draft202012Validator.check_schema(files.read_yaml(path))
    assert files.read_yaml(root / "config" / path.name, schema=path.stem)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lessons: {a: {need: [b]}}", "lessons.a: found the key need, expected only needs"),
        ("lessons: {a: {needs: b}}", "lessons.a.needs: found 'b', expected a list of names"),
        ("lessons: {a: {threads: 0}}", "lessons.a.threads: found 0, expected a whole number"),
        ("lessons: {a: {threads: most}}", "lessons.a.threads: found 'most', expected a whole"),
        ("lessons: [a]", r"lessons: found \['a'\], expected a mapping"),
    ],
)
def test_a_wrong_entry_of_the_books_plan_is_named(tmp_path, text, message):
    (tmp_path / "book.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"book\.yaml, {message}"):
        files.read_yaml(tmp_path / "book.yaml", schema="book")


@pytest.mark.parametrize("content", ["cut off", "other array", "no npz", "a single array"])
def test_a_damaged_npz_is_refused_by_name(tmp_path, content):
    path = tmp_path / "test_vol.npz"
    np.savez(path, **{"other" if content == "other array" else "vol_data": np.arange(1000)})
    if content == "cut off":
        path.write_bytes(path.read_bytes()[:1500])
    if content == "no npz":
        path.write_bytes(b"404: Not Found")
    if content == "a single array":  # a .npy file under the wrong name
        with path.open("wb") as file:
            np.save(file, np.arange(1000))
    with pytest.raises(
        ValueError, match=r"test_vol\.npz: found no array 'vol_data'.*expected an npz"
    ):
        files.read_npz(path, "vol_data")
