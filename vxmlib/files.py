"""Write files atomically, lock folders, and read YAML and npz files strictly."""

import contextlib
import fcntl
import os
import uuid
import zipfile
from pathlib import Path

import numpy as np
import yaml

#: Folder with the JSON schemas of the files in ``config/``, written as YAML.
SCHEMAS = Path(__file__).resolve().parent / "data" / "schemas"


@contextlib.contextmanager
def whole(path):
    """Write a file atomically: to a temporary file, which is renamed when the block ends.

    Parameters
    ----------
    path : path
        The final path. An older file with this path is kept until the block ends without an error.
        Missing folders are created.

    Yields
    ------
    pathlib.Path
        Path of a hidden temporary file in the same folder, with the same ending and a unique name.
        After an error the file is deleted.

    Raises
    ------
    OSError
        If the file cannot be written; the message names ``path``.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "new" / "table.csv"
    >>> with whole(path) as part:
    ...     _ = part.write_text("label,name")
    >>> [file.name for file in path.parent.iterdir()]
    ['table.csv']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{uuid.uuid4().hex}-{path.name}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.filename not in (None, str(part)):
            raise  # the error concerns another file, and names it
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file atomically, in UTF-8.

    Parameters
    ----------
    path : path
        As for :func:`whole`.
    text : str

    Raises
    ------
    OSError
        If the file cannot be written; the message names ``path``.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def alone(folder, *, wait=True):
    """Lock a folder while the block runs, so that no other process can lock it.

    The operating system releases the lock when the process ends, even if it crashes. The lock
    affects only processes that call this function too.

    Parameters
    ----------
    folder : path
        Created if it does not exist. A hidden file ``.lock`` stays in it.
    wait : bool
        Whether to wait until another process releases the lock.

    Yields
    ------
    file
        The open, locked file. A child process that inherits it holds the lock, too.

    Raises
    ------
    BlockingIOError
        If another process holds the lock and `wait` is False.
    OSError
        If the folder cannot be created or written to.

    Examples
    --------
    >>> import tempfile
    >>> with alone(tempfile.mkdtemp()):
    ...     print("nobody else writes here")
    nobody else writes here
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield stream


def read_yaml(path, error=ValueError, *, schema=None):
    """Read a YAML file that contains a mapping, and refuse duplicate keys.

    Parameters
    ----------
    path : path
    error : type of exception
        Type of the error to raise.
    schema : str, optional
        Name of a JSON schema in :data:`SCHEMAS` that the file must follow; None checks none.

    Returns
    -------
    dict
        Content of the file; empty for an empty file.

    Raises
    ------
    error
        If the file does not exist, is not YAML, is not a mapping, has a key twice in one mapping,
        or has an entry that the schema does not allow. The message names the file and the entry.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "plan.yaml"
    >>> _ = path.write_text("lam: 1")
    >>> read_yaml(path)
    {'lam': 1}
    """
    path = Path(path)
    content = _parsed(path, error)
    if not isinstance(content, dict):
        raise error(f"{path}: found {content!r}, expected a mapping such as `name: value`")
    if schema is not None:
        _check(content, _parsed(SCHEMAS / f"{schema}.yaml", error), path, error)
    return content


def read_npz(path, name, *, optional=False):
    """Read one array of an npz file.

    Parameters
    ----------
    path : path
    name : str
        Name of the array in the file.
    optional : bool
        Whether to return None if the file has no array of this name.

    Returns
    -------
    ndarray or None

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is not an npz file, is damaged, or lacks the array; the message names the file.

    Examples
    --------
    >>> import io
    >>> file = io.BytesIO()
    >>> np.savez(file, vol=np.arange(3))
    >>> _ = file.seek(0)
    >>> read_npz(file, "vol").tolist()
    [0, 1, 2]
    """
    try:
        with np.load(path) as content:
            if optional and name not in content.files:
                return None
            return content[name]
    # If the file holds a single array (.npy), ``with`` raises AttributeError or TypeError.
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path}: found no array {name!r} ({error}), expected an npz file that contains it. "
            "Download the file again."
        ) from error


def _parsed(path, error):
    """Return the content of a YAML file."""
    try:
        with path.open(encoding="utf-8") as stream:
            content = yaml.load(stream, Loader=_StrictLoader)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except _Twice as twice:
        raise error(
            f"{path}, near line {twice.line}: found {twice.names} twice, expected each key once"
        ) from None
    except yaml.YAMLError as fault:
        raise error(f"{path}: not YAML: {fault}") from fault
    return {} if content is None else content


def _check(content, schema, path, error):
    """Raise an error that names the entry that breaks the schema, and what the schema expects."""
    import jsonschema  # only where a file has a schema

    faults = jsonschema.Draft202012Validator(schema).iter_errors(content)
    fault = jsonschema.exceptions.best_match(faults)
    if fault is not None:
        place = fault.json_path.removeprefix("$").removeprefix(".") or "the file"
        raise error(f"{path}, {place}: {_complaint(fault)}")


def _complaint(fault):
    """Describe an entry and what was expected: the schema's description if there is one."""
    rule, value, entry = fault.validator, fault.validator_value, fault.instance
    if rule == "additionalProperties":
        known = fault.schema.get("properties", {})
        unknown = ", ".join(str(key) for key in entry if key not in known)
        return f"found the key {unknown}, expected only {', '.join(known)}"
    if rule == "required":
        missing = ", ".join(key for key in value if key not in entry)
        return f"found no key {missing}, expected all of {', '.join(value)}"
    if rule == "enum":
        return f"found {entry!r}, expected one of: {', '.join(map(_as_yaml, value))}"
    return f"found {entry!r}, expected {fault.schema.get('description', f'{rule} {value}')}"


def _as_yaml(value):
    return "null" if value is None else str(value)


class _Twice(Exception):
    """A mapping contains a key twice."""

    def __init__(self, names, line):
        super().__init__(names)
        self.names, self.line = names, line


class _StrictLoader(yaml.SafeLoader):
    """YAML loader that refuses duplicate keys, of which PyYAML keeps the last."""

    def construct_mapping(self, node, deep=False):
        names = [self.construct_object(key, deep=deep) for key, _ in node.value]
        if twice := {name for name in names if names.count(name) > 1}:
            raise _Twice(", ".join(sorted(twice)), node.start_mark.line + 1)
        return super().construct_mapping(node, deep)
