"""Write and read records: one JSON file per run with its settings, provenance and results."""

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
    """A record is invalid, or its file cannot be read; the message names the file."""


def provenance(run, *, cohort, profile, seed, parameters, seconds, device=None):
    """Collect the entries of a record that describe how its results were made.

    Add ``metrics``, the results, before you write the record.

    Parameters
    ----------
    run : str
        Name of the lesson or run, for example ``"03_fit"``.
    cohort : str
        Name of the data set.
    profile : str
        Intended length of the run: "smoke", "quick" or "full".
    seed : int
        Seed of all random numbers of the run.
    parameters : dict
        Settings of the run (``lam``, ``image_loss``, ...).
    seconds : float
        Wall-clock time of the run.
    device : str, optional
        Hardware of the run, from ``vxmlib.backend.device_summary()``. By default, the processor
        architecture.

    Returns
    -------
    dict
        All keys of `REQUIRED` except ``metrics``. ``versions`` has the versions of the installed
        packages, which are not imported. ``commit`` is the git commit of the project, and
        ``dirty`` is true if tracked files differ from it; outside git, ``commit`` is
        "vxmlib <version>" and ``dirty`` is None. ``created`` is the time in UTC, in ISO 8601.

    Examples
    --------
    >>> settings = dict(cohort="mni", profile="smoke", seed=0, parameters={"lam": 1.0}, seconds=2.5)
    >>> provenance("03_fit", **settings)["parameters"]
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
    """Write a record to a JSON file.

    The file appears complete or not at all.

    Parameters
    ----------
    path : str or Path
        Name of the JSON file; missing folders are created.
    record : dict
        Result of `provenance` plus ``metrics``: all keys of `REQUIRED`, and others if needed.
        Values may be text, numbers, booleans, None, lists, tuples, dicts, and NumPy numbers and
        arrays. Keys are converted to text.

        JSON has no NaN and no infinity. Such a number is stored as null, and ``"nulls"`` stores
        what it was under its position in the record, which is a JSON pointer (RFC 6901):
        ``{"/metrics/dice/17": "nan"}``. To store a more informative reason than "nan", put it in
        ``record["nulls"]`` under the same pointer.

    Returns
    -------
    dict
        The record as stored.

    Raises
    ------
    RecordError
        If a key is missing or has a value of the wrong type, two keys become the same text (17
        and "17"), a value cannot be stored in JSON, or ``nulls`` names a value that is not null.
    OSError
        If the file cannot be written.
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
        File that `write` wrote.

    Returns
    -------
    dict
        The record; numbers that were NaN or infinite are None, with the reason in ``"nulls"``.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    RecordError
        If the file is not complete JSON, a key occurs twice or is missing, a number is not finite,
        or the schema is another one. The message names the file.
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
    """Collect all records below a folder in a table.

    Parameters
    ----------
    folder : str or Path
        Folder that is searched with its subfolders for ``*.json`` files. Files whose names begin
        with a dot are skipped.

    Returns
    -------
    pandas.DataFrame
        One row per record, sorted by ``file`` (the path relative to `folder`). Nested entries
        have columns such as ``metrics.dice_mean`` and ``parameters.lam``. Without records, the
        table is empty and has the columns ``file`` and `REQUIRED`.

    Raises
    ------
    NotADirectoryError
        If the folder does not exist.
    RecordError
        As for `read`. One invalid record raises it, so that no table is made of only those
        records that can be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: no such folder, expected a folder of records.")
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
    """Convert a value to JSON types; numbers that are not finite become None, noted in `nulls`."""
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
        f"{place or 'record'}: found {type(value).__name__}, which cannot be stored in a record; "
        "use text, a number, a boolean, None, a list or a dict."
    )


def _check(record, path):
    """Refuse a record that lacks a required entry or has one of the wrong type."""
    if not isinstance(record, dict):
        raise RecordError(f"{path}: expected a JSON object, found {type(record).__name__}.")
    if type(record.get("schema")) is not int or record["schema"] != SCHEMA:
        raise RecordError(
            f"{path}: found schema {record.get('schema')!r}, expected {SCHEMA}. It was written "
            "by another version of vxmlib: run its lesson again."
        )
    missing = [key for key in REQUIRED if key not in record]
    if missing:
        raise RecordError(
            f"{path}: found no {', '.join(missing)}, expected all keys of records.REQUIRED. Start "
            "from the result of provenance()."
        )
    record = {"nulls": {}} | record
    for key in ("parameters", "metrics", "versions", "nulls"):
        if not isinstance(record[key], dict):
            raise RecordError(f"{path}: {key} is {record[key]!r}, expected a dict.")
    for place in record["nulls"]:
        if _at(record, place) is not None:
            raise RecordError(f"{path}: nulls names {place}, which is not null in the record.")


def _escaped(key):
    """Escape a key for a JSON pointer: "a/b" has to be escaped, "0.01" does not."""
    return str(key).replace("~", "~0").replace("/", "~1")


def _at(record, place):
    """Return the entry that a JSON pointer names, or a text which says that it does not exist."""
    for step in place.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        try:
            record = record[int(step)] if isinstance(record, list) else record[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return f"nothing at {place}"
    return record


def _object(pairs, place=""):
    """Make a dict of the pairs; refuse a duplicate key, because one of its values would be lost."""
    result = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"{place}found the key {key!r} twice")
        result[key] = value
    return result


def _finite(text):
    """Parse a JSON number; refuse NaN, infinity and 1e999 (overflow): `write` never stores them."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"found {text}, which is not a finite number")
    return value


def _version(package):
    """Return the version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions():
    """Return the versions of Python and of `_PACKAGES`; None for a package not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def commit():
    """Return the git commit of the project, or the package version outside git.

    Returns
    -------
    (str, bool or None)
        The entries ``commit`` and ``dirty`` of :func:`provenance`.
    """
    here = Path(__file__).resolve()
    # A package installed inside another repository must not report the commit of that repository.
    ours = _git(here.parent, "ls-files", "--error-unmatch", here.name) is not None
    head = _git(here.parent, "rev-parse", "HEAD") if ours else None
    if head is None:
        return f"vxmlib {_version('vxmlib') or 'of unknown version'}", None
    return head, bool(_git(here.parent, "status", "--porcelain", "--untracked-files=no"))


def _git(folder, *arguments):
    """Return the output of a git command, or None without git or a repository or after an error."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
