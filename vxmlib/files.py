"""Write files whole: under a temporary name beside the final one, then renamed."""

import contextlib
import os
from pathlib import Path


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
        A hidden name in the same folder, with the same ending. After an error it is deleted.

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
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield part
        os.replace(part, path)
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
        The folder cannot be written to.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")
