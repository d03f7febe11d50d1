"""One JSON file a run: what was done, with what, when, and what came out."""

import json
import math
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from vxmlib import files

SCHEMA = 1
REQUIRED = (
    "schema",
    "run",
    "cohort",
    "profile",
    "seed",
    "parameters",
    "metrics",
    "seconds",
    "device",
    "versions",
    "commit",
    "dirty",
    "created",
)

_PACKAGES = (
    "vxmlib",
    "tensorflow",
    "tf-keras",
    "voxelmorph",
    "neurite",
    "numpy",
    "scipy",
    "SimpleITK",
    "antspyx",
)


class RecordError(ValueError):
    """A record that cannot be written or read as it should; the message names the file."""


def provenance(run, *, cohort, profile, seed, parameters, seconds, device=None):
    """The part of a record that all runs have; add ``metrics`` and write it.

    Parameters
    ----------
    run : str
        Name of the lesson or run, for example ``"03_fiting"``.
    cohort, profile : str
        Data set, and how long the run was meant to take ("smoke", "quick", "full").
    seed : int
        The seed that everything random was drawn from.
    parameters : dict
        What the run was asked to do (lam, image_loss, ...).
    seconds : float
        Wall-clock time of the run.
    device : str, optional
        What it ran on, as ``vxmlib.backend.device_summary()`` says; by default the processor
        architecture.

    Returns
    -------
    dict
        All of `REQUIRED` but ``metrics``. ``versions`` are those installed (nothing is
        imported to find out). ``commit`` is the git commit of the project with ``dirty`` true
        when tracked files differ from it; outside git ``commit`` is "vxmlib <version>" and
        ``dirty`` None. ``created`` is UTC in ISO 8601.

    Examples
    --------
    >>> asked = dict(cohort="mni", profile="smoke", seed=0, parameters={"lam": 1.0}, seconds=2.5)
    >>> provenance("03_fiting", **asked)["parameters"]
    {'lam': 1.0}
    """
    made_by, dirty = commit()
    return {
        "schema": SCHEMA,
        "run": run,
        "cohort": cohort,
        "profile": profile,
        "seed": seed,
        "parameters": dict(parameters),
        "seconds": seconds,
        "device": device or platform.machine(),
        "versions": _versions(),
        "commit": made_by,
        "dirty": dirty,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write(path, record):
    """Write a record; the file appears complete or not at all.

    Parameters
    ----------
    path : str or Path
        Name of the JSON file; missing folders are made.
    record : dict
        All keys of `REQUIRED`, more if you like: `provenance` plus ``metrics``. Values: text,
        numbers, booleans, None, lists, dicts, NumPy numbers and arrays. Keys become text.

        JSON has no NaN and no infinity. Such a number is stored as null, and the reason under
        ``"nulls"``: ``{"/metrics/dice/17": "nan"}``, by its place in the record (a JSON
        pointer, RFC 6901). To say more than "nan", put a reason of your own there
        (``record["nulls"]``) for the same place.

    Returns
    -------
    dict
        The record as stored.

    Raises
    ------
    RecordError
        A key is missing or of the wrong kind, two keys become the same text (17 and "17"), a
        value has no place in JSON, ``nulls`` names a place that is not null.
    OSError
        The folder cannot be written to.
    """
    path, nulls = Path(path), {}
    try:
        stored = _plain(record, "", nulls)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: {error}") from error
    _check(stored, path)
    stored["nulls"] = nulls | stored.get("nulls", {})
    files.write_text(path, json.dumps(stored, indent=2, allow_nan=False) + "\n")
    return stored


def read(path):
    """Read a record.

    Parameters
    ----------
    path : str or Path
        A file that `write` made.

    Returns
    -------
    dict
        The record; numbers that were NaN or infinite are None, with the reason in ``"nulls"``.

    Raises
    ------
    FileNotFoundError
        No such file.
    RecordError
        Not JSON (cut off, damaged), a key that occurs twice, a number that is not finite, another
        schema, a missing key. The file is named.
    """
    path = Path(path)
    try:
        record = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_object,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, and of deep nesting
        raise RecordError(
            f"{path}: not a complete JSON record ({error}). Delete it and run its lesson again."
        ) from error
    _check(record, path)
    return record


def collect(folder):
    """Table of all records below a folder.

    Parameters
    ----------
    folder : str or Path
        Every ``*.json`` in it and below is read; files whose names begin with a dot are not.

    Returns
    -------
    pandas.DataFrame
        One row a record, in the order of ``file`` (path below `folder`); nested entries as
        ``metrics.dice_mean``, ``parameters.lam``. Without records an empty table with the
        columns ``file`` and `REQUIRED`.

    Raises
    ------
    NotADirectoryError
        No such folder.
    RecordError
        As `read`: one bad record stops it, so that no table is made of what happened to be
        readable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: expected a folder of records, found none.")
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*.json")
        if not path.name.startswith(".")
    }
    if not paths:
        return pd.DataFrame(columns=["file", *REQUIRED])
    rows = [{"file": name} | read(path) for name, path in sorted(paths.items())]
    return pd.json_normalize(rows)


def _plain(value, place, nulls):
    """The value in JSON's own types; non-finite numbers become None and are noted in `nulls`."""
    if isinstance(value, dict):
        items = ((str(k), _plain(v, f"{place}/{_escaped(k)}", nulls)) for k, v in value.items())
        return _object(items, f"{place}: ")
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{place}/{i}", nulls) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        nulls[place] = str(value)
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"{place or 'record'}: found {type(value).__name__}, which has no place in a record; "
        "give text, a number, a boolean, a list or a dict."
    )


def _check(record, path):
    """Refuse a record without what every record has."""
    if not isinstance(record, dict):
        raise RecordError(f"{path}: expected a JSON object, found {type(record).__name__}.")
    if type(record.get("schema")) is not int or record["schema"] != SCHEMA:
        raise RecordError(
            f"{path}: found schema {record.get('schema')!r}, expected {SCHEMA}. It was written "
            "by another version of vxmlib: run its lesson again."
        )
    missing = [key for key in REQUIRED if key not in record]
    if missing:
        raise RecordError(f"{path}: missing {', '.join(missing)}. Start from provenance().")
    record = {"nulls": {}} | record
    for key in ("parameters", "metrics", "versions", "nulls"):
        if not isinstance(record[key], dict):
            raise RecordError(f"{path}: {key} is {record[key]!r}, expected a dict.")
    for place in record["nulls"]:
        if _at(record, place) is not None:
            raise RecordError(f"{path}: nulls names {place}, which is not null in the record.")


def _escaped(key):
    """A key as JSON pointers write it: keys like "0.01" need nothing, "a/b" does."""
    return str(key).replace("~", "~0").replace("/", "~1")


def _at(record, place):
    """The entry that a JSON pointer names, or a text that says there is none."""
    for step in place.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        try:
            record = record[int(step)] if isinstance(record, list) else record[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return f"nothing at {place}"
    return record


def _object(pairs, place=""):
    """A dict of the pairs; a key that occurs twice is refused, and does not lose a value."""
    result = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"{place}found the key {key!r} twice")
        result[key] = value
    return result


def _finite(text):
    """A number of JSON; `write` stores no NaN, no infinity, and nothing as large as 1e999."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"found {text}, which is no finite number")
    return value


def _version(package):
    """The version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions():
    """Versions of Python and of the packages that results depend on, where installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def commit():
    """Git commit of the project and whether tracked files differ; else the package version.

    Returns
    -------
    (str, bool or None)
        See :func:`provenance`.
    """
    here = Path(__file__).resolve()
    # A package installed inside somebody else's repository must not claim that one's commit.
    ours = _git(here.parent, "ls-files", "--error-unmatch", here.name) is not None
    head = _git(here.parent, "rev-parse", "HEAD") if ours else None
    if head is None:
        return f"vxmlib {_version('vxmlib') or 'of unknown version'}", None
    return head, bool(_git(here.parent, "status", "--porcelain", "--untracked-files=no"))


def _git(folder, *arguments):
    """Output of a git command, or None where there is no git, no repository or an error."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
