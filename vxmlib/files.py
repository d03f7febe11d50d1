"""Atomic writes, folder locks, and strict reading of YAML."""

import contextlib
import fcntl
import os
import uuid
from pathlib import Path

import yaml

#: JSON schemas of the files in ``config/``, as YAML.
SCHEMAS = Path(__file__).resolve().parent / "data" / "schemas"


@contextlib.contextmanager
def whole(path):
    """Yield the name to write to; it takes the final name when the block ends without an error.

    Parameters
    ----------
    path : path
        The final name. An older file of that name stays until then; missing folders are made.

    Yields
    ------
    pathlib.Path
        A hidden name in the same folder, with the same ending, that no other call yields. After an
        error it is deleted.

    Raises
    ------
    OSError
        The file cannot be written; the message names ``path``.

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
            raise  # the error is about another file, and names it
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file in UTF-8, at once or not at all.

    Parameters
    ----------
    path : path
    text : str

    Raises
    ------
    OSError
        The file cannot be written; the message names ``path``.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def alone(folder, *, wait=True):
    """Hold a folder against other processes; the system lets go of it however we end.

    Parameters
    ----------
    folder : path
        Made if need be. A hidden file ``.lock`` stays in it.
    wait : bool
        Whether to wait for a process that holds it.

    Yields
    ------
    file
        The open file whose lock it is; a child that inherits it holds the folder, too.

    Raises
    ------
    BlockingIOError
        Another process holds it, and we are not to wait.
    OSError
        The folder cannot be written to.

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
    """Read a YAML file; a second entry of one name is refused, not taken for the first.

    Parameters
    ----------
    path : path
    error : type of exception
        What to raise.
    schema : str, optional
        Name of a JSON schema in :data:`SCHEMAS` that the file has to follow.

    Returns
    -------
    dict
        Empty for an empty file.

    Raises
    ------
    error
        No such file, not YAML, no mapping, a name that stands twice in one place, or an entry
        that the schema does not allow; the file and the entry are named.

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


def _parsed(path, error):
    """The content of a YAML file."""
    try:
        with path.open(encoding="utf-8") as stream:
            content = yaml.load(stream, Loader=_StrictLoader)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except _Twice as twice:
        raise error(f"{path}, near line {twice.line}: {twice.names} stands there twice") from None
    except yaml.YAMLError as fault:
        raise error(f"{path}: not YAML: {fault}") from fault
    return {} if content is None else content


def _check(content, schema, path, error):
    """Raise an error that names the entry that breaks the schema, and what is allowed there."""
    import jsonschema  # only where a file has a schema

    faults = jsonschema.Draft202012Validator(schema).iter_errors(content)
    fault = jsonschema.exceptions.best_match(faults)
    if fault is not None:
        place = fault.json_path.removeprefix("$").removeprefix(".") or "the file"
        raise error(f"{path}, {place}: {_complaint(fault)}")


def _complaint(fault):
    """What stands in the entry, and what is allowed: the schema's description where it has one."""
    rule, value, entry = fault.validator, fault.validator_value, fault.instance
    if rule == "additionalProperties":
        known = fault.schema.get("properties", {})
        unknown = ", ".join(str(key) for key in entry if key not in known)
        return f"found the key {unknown}, expected none but {', '.join(known)}"
    if rule == "required":
        missing = ", ".join(key for key in value if key not in entry)
        return f"found no key {missing}, expected all of {', '.join(value)}"
    if rule == "enum":
        return f"found {entry!r}, expected one of: {', '.join(map(_as_yaml, value))}"
    return f"found {entry!r}, expected {fault.schema.get('description', f'{rule} {value}')}"


def _as_yaml(value):
    return "null" if value is None else str(value)


class _Twice(Exception):
    """Names that stand twice in one mapping."""

    def __init__(self, names, line):
        super().__init__(names)
        self.names, self.line = names, line


class _StrictLoader(yaml.SafeLoader):
    """YAML in which no second entry of one name replaces the first."""

    def construct_mapping(self, node, deep=False):
        names = [self.construct_object(key, deep=deep) for key, _ in node.value]
        if twice := {name for name in names if names.count(name) > 1}:
            raise _Twice(", ".join(sorted(twice)), node.start_mark.line + 1)
        return super().construct_mapping(node, deep)
