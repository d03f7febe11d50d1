"""Records: round trip, what is refused, provenance with and without git, the table of a folder."""

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from vxmlib import files, records


def record_of(run="04_dice", **metrics):
    common = records.provenance(
        run,
        cohort="mni",
        profile="smoke",
        seed=3,
        parameters={"lam": 1.0},
        seconds=2.5,
        device="CPU",
    )
    return common | {"metrics": metrics}


def test_provenance_has_all_but_the_metrics():
    given = records.provenance(
        "x", cohort="mni", profile="quick", seed=0, parameters={}, seconds=1.0
    )
    assert set(given) == set(records.REQUIRED) - {"metrics"}
    assert given["device"] and given["versions"]["python"] and given["versions"]["numpy"]
    created = datetime.fromisoformat(given["created"])
    assert created.utcoffset() == timedelta(0)


def test_a_record_comes_back(tmp_path):
    record = record_of(dice_mean=0.7, by_label={17: 0.5}, better=True, note="ü", none=None)
    stored = records.write(tmp_path / "deep" / "down" / "record.json", record)
    again = records.read(tmp_path / "deep" / "down" / "record.json")
    assert again == stored
    assert again["metrics"]["by_label"] == {"17": 0.5}
    assert again["nulls"] == {}
    assert {key: again[key] for key in records.REQUIRED if key != "metrics"} == {
        key: record[key] for key in records.REQUIRED if key != "metrics"
    }
    assert [path.name for path in (tmp_path / "deep" / "down").iterdir()] == ["record.json"]


def test_numpy_becomes_json(tmp_path):
    record = record_of(
        one=np.float32(0.5), two=np.int64(7), three=np.array([[1, 2]]), four=np.bool_(True)
    )
    kept = records.write(tmp_path / "r.json", record)["metrics"]
    assert kept == {"one": 0.5, "two": 7, "three": [[1, 2]], "four": True}
    assert records.read(tmp_path / "r.json")["metrics"] == kept


def test_what_is_no_number_is_null_with_its_reason(tmp_path):
    record = record_of(
        dice={17: float("nan"), "0.01": np.float32("inf")}, curve=np.array([1.0, -np.inf])
    )
    records.write(tmp_path / "r.json", record)
    again = records.read(tmp_path / "r.json")
    assert again["metrics"] == {"dice": {"17": None, "0.01": None}, "curve": [1.0, None]}
    assert again["nulls"] == {
        "/metrics/dice/17": "nan",
        "/metrics/dice/0.01": "inf",
        "/metrics/curve/1": "-inf",
    }
    assert "NaN" not in (tmp_path / "r.json").read_text()


def test_a_reason_of_ones_own_is_kept(tmp_path):
    record = record_of(hd95=float("nan"), none=None, **{"a/b~c": float("nan")})
    reasons = {"/metrics/hd95": "the structure is empty", "/metrics/none": "not measured"}
    stored = records.write(tmp_path / "r.json", record | {"nulls": reasons})
    assert stored["nulls"] == reasons | {"/metrics/a~1b~0c": "nan"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"field": object()}}, "/metrics/field: found object"),
        ({"metrics": {"path": Path("x")}}, "/metrics/path: found .*Path"),
        ({"metrics": 0.7}, "metrics is 0.7, expected a dict"),
        ({"parameters": None}, "parameters is None"),
        ({"schema": 99}, "found schema 99, expected 1"),
        ({"schema": True}, "found schema True, expected 1"),
        (
            {"metrics": {"dice": {17: 0.5, "17": 0.6}}},
            "r.json: /metrics/dice: found the key '17' twice",
        ),
        ({"nulls": ["/metrics/dice"]}, r"nulls is \['/metrics/dice'\], expected a dict"),
        ({"nulls": None}, "nulls is None, expected a dict"),
        ({"nulls": {"/metrics/dice": "because"}}, "nulls names /metrics/dice"),
        ({"nulls": {"/metrics/nowhere": "because"}}, "nulls names /metrics/nowhere"),
    ],
)
def test_write_refuses_and_leaves_nothing(tmp_path, change, message):
    with pytest.raises(records.RecordError, match=message):
        records.write(tmp_path / "r.json", record_of(dice=0.5) | change)
    assert not list(tmp_path.iterdir())


def test_what_is_no_dict_is_no_record(tmp_path):
    with pytest.raises(records.RecordError, match=r"r\.json: expected a JSON object, found list"):
        records.write(tmp_path / "r.json", [record_of()])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "place"),
    [("a/b", "/metrics/a~1b"), ("a~1b", "/metrics/a~01b"), ("~0", "/metrics/~00")],
)
def test_a_key_may_hold_what_a_pointer_escapes(tmp_path, key, place):
    """In a JSON pointer "~1" is a slash and "~0" a tilde."""
    stored = records.write(tmp_path / "r.json", record_of(**{key: float("nan")}))
    assert stored["nulls"] == {place: "nan"}
    assert records.read(tmp_path / "r.json") == stored


def nested(depth):
    """Lists in lists."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_what_is_nested_too_deeply_is_refused_by_name(tmp_path):
    with pytest.raises(records.RecordError, match=r"r\.json: .*recursion"):
        records.write(tmp_path / "r.json", record_of(deep=nested(100_000)))
    assert not list(tmp_path.iterdir())
    (tmp_path / "deep.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(records.RecordError, match=r"deep\.json: .*recursion"):
        records.read(tmp_path / "deep.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nulls": None}, "nulls is None, expected a dict"),
        ({"nulls": "none"}, "nulls is 'none', expected a dict"),
        ({"nulls": 3}, "nulls is 3, expected a dict"),
        ({"schema": True}, "found schema True, expected 1"),
        ({"schema": 1.0}, "found schema 1.0, expected 1"),
    ],
)
def test_read_refuses(tmp_path, change, message):
    (tmp_path / "r.json").write_text(json.dumps(record_of() | change))
    with pytest.raises(records.RecordError, match=rf"r\.json: {message}"):
        records.read(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.5", "1e999", "found 1e999, which is not a finite number"),
        ("0.5", "-1e999", "found -1e999, which is not a finite number"),
        ("0.5", "-Infinity", "found -Infinity, which is not a finite number"),
        ('"dice"', '"seven": 7, "seven": 8, "dice"', "found the key 'seven' twice"),
    ],
)
def test_json_that_write_cannot_have_written_is_refused(tmp_path, old, new, message):
    text = json.dumps(record_of(dice=0.5))
    assert text.count(old) == 1
    (tmp_path / "r.json").write_text(text.replace(old, new))
    with pytest.raises(records.RecordError, match=rf"r\.json: not a complete .*{message}"):
        records.read(tmp_path / "r.json")


def test_a_record_is_utf8_whatever_the_locale(tmp_path):
    text = json.dumps(record_of(note="λ = 1"), ensure_ascii=False)
    (tmp_path / "r.json").write_text(text, encoding="utf-8")
    code = (
        "import sys; from vxmlib import records; print(ascii(records.read(sys.argv[1])['metrics']))"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code, str(tmp_path / "r.json")],
        env=os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == r"{'note': '\u03bb = 1'}", done.stderr


@pytest.mark.parametrize("key", records.REQUIRED)
def test_every_required_key_is_asked_for(tmp_path, key):
    record = record_of()
    del record[key]
    with pytest.raises(records.RecordError, match=key):
        records.write(tmp_path / "r.json", record)
    (tmp_path / "by_hand.json").write_text(json.dumps(record))
    with pytest.raises(records.RecordError, match=f"by_hand.json: .*{key}"):
        records.read(tmp_path / "by_hand.json")


def test_an_interrupted_write_keeps_the_old_record(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    records.write(path, record_of(dice=0.5))

    def full_disk(part, target):
        raise OSError("No space left on device")

    monkeypatch.setattr(files.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        records.write(path, record_of(dice=0.9))
    assert records.read(path)["metrics"] == {"dice": 0.5}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        '{"schema": 1, "run": "05_d',
        "",
        "[1, 2",
        '{"schema": NaN}',
        b"\xff\xfe\x00".decode("latin1"),
    ],
    ids=["cut off", "empty", "cut list", "NaN inside", "not text"],
)
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "broken.json").write_bytes(content.encode("latin1"))
    with pytest.raises(records.RecordError, match=r"broken\.json: not a complete JSON record"):
        records.read(tmp_path / "broken.json")


def test_json_that_is_no_record_is_named(tmp_path):
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(records.RecordError, match=r"list\.json: expected a JSON object"):
        records.read(tmp_path / "list.json")


def test_a_missing_record_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        records.read(tmp_path / "nowhere.json")


# --- the table ----------------------------------------------------------------------------


def test_collect_is_flat_and_sorted_by_file(tmp_path):
    for name, value in [("b/2.json", 0.2), ("b/1.json", 0.1), ("a.json", 0.3), ("B.json", 0.4)]:
        records.write(tmp_path / name, record_of(dice=value))
    (tmp_path / ".r.json.12.part").write_text("half")
    (tmp_path / ".hidden.json").write_text("half")
    table = records.collect(tmp_path)
    assert table["file"].tolist() == ["B.json", "a.json", "b/1.json", "b/2.json"]
    assert table["metrics.dice"].tolist() == [0.4, 0.3, 0.1, 0.2]
    assert (table["parameters.lam"] == 1.0).all() and (table["seed"] == 3).all()


def test_collect_of_nothing_is_an_empty_table(tmp_path):
    table = records.collect(tmp_path)
    assert len(table) == 0 and list(table.columns) == ["file", *records.REQUIRED]


def test_collect_names_the_bad_record(tmp_path):
    records.write(tmp_path / "good.json", record_of())
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(records.RecordError, match=r"bad\.json"):
        records.collect(tmp_path)


def test_collect_wants_a_folder(tmp_path):
    with pytest.raises(NotADirectoryError, match="nowhere"):
        records.collect(tmp_path / "nowhere")


# --- the commit ---------------------------------------------------------------------------


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a package that holds a copy of records.py, which the module takes for
    itself."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    source = tmp_path / "package" / "records.py"
    source.parent.mkdir()
    source.write_text("# tracked\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-q", "-m", "one")
    monkeypatch.setattr(records, "__file__", str(source))
    return tmp_path


def commit_of():
    record = record_of()
    return record["commit"], record["dirty"]


def test_a_clean_checkout_names_its_commit(repository):
    (repository / "untracked.txt").write_text("not part of the commit, not part of the run")
    assert commit_of() == (git(repository, "rev-parse", "HEAD"), False)


def test_a_changed_file_is_dirty(repository):
    (repository / "package" / "records.py").write_text("# changed\n")
    assert commit_of() == (git(repository, "rev-parse", "HEAD"), True)


def test_somebody_elses_repository_is_not_ours(repository, monkeypatch):
    installed = repository / "site-packages" / "records.py"
    installed.parent.mkdir()
    installed.write_text("# installed, not tracked\n")
    monkeypatch.setattr(records, "__file__", str(installed))
    commit, dirty = commit_of()
    assert commit.startswith("vxmlib ") and dirty is None


@pytest.mark.parametrize("path", ["", "/nonexistent"])
def test_without_git_the_version_stands_in(repository, monkeypatch, path):
    monkeypatch.setenv("PATH", path)
    commit, dirty = commit_of()
    assert commit.startswith("vxmlib ") and dirty is None


def test_without_git_and_without_installation_there_is_still_a_record(repository, monkeypatch):
    def not_installed(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(records.metadata, "version", not_installed)
    assert commit_of() == ("vxmlib of unknown version", None)
    assert record_of()["versions"]["numpy"] is None
