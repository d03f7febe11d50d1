"""Find the folder of an unpacked archive (LPBA40, neurite-OASIS) and report missing files."""

from pathlib import Path

_PACKED = (".tar", ".tar.gz", ".tgz", ".zip")
_SHOWN = 3  # names in a message; only the number of the others is given


def folder(root, signs, *, inside=()):
    """Return the folder that holds the content of an unpacked archive.

    Parameters
    ----------
    root : path
        Folder that the user names.
    signs : sequence of str
        Names of files or folders in the archive.  A folder that holds one of them is taken for
        the content.
    inside : sequence of str
        Folders that unpacking creates, relative to `root`, in which the content may also lie.

    Returns
    -------
    Path
        `root`, or one of the folders `inside` it.

    Raises
    ------
    ValueError
        `root` does not exist, is a file (such as the packed archive), or does not hold the content.

    Examples
    --------
    >>> folder("/nowhere", ["subjects.txt"])
    Traceback (most recent call last):
    ValueError: root='/nowhere' is not there. Name the folder that the archive was unpacked to.
    """
    root = Path(root).expanduser()
    if root.is_file():
        raise ValueError(
            f"root={str(root)!r} is a file, not a folder. Unpack the archive (tar -xf, or unzip) "
            "and name the folder that it was unpacked to."
        )
    if not root.is_dir():
        raise ValueError(
            f"root={str(root)!r} is not there. Name the folder that the archive was unpacked to."
        )
    for place in (root, *(root / name for name in inside)):
        if any((place / sign).exists() for sign in signs):
            return place
    names = sorted(path.name for path in root.iterdir())
    packed = [name for name in names if name.endswith(_PACKED)]
    mend = f"Unpack {packed[0]} first." if packed else "Name the folder of the unpacked archive."
    raise ValueError(
        f"root={str(root)!r} holds {_listed(names) or 'nothing'}; expected {_listed(signs)} in it. "
        f"{mend}"
    )


def require(root, files, *, hint=""):
    """Raise an error if any file of any subject is missing.

    Parameters
    ----------
    root : Path
        Folder that the message names.
    files : dict
        Subject -> {file name relative to `root`: True if the file exists}.
    hint : str
        Advice that replaces "Unpack it again." in the message.

    Raises
    ------
    ValueError
        Files are missing.  The message states how many, and names the first ones.

    Examples
    --------
    >>> require("data", {"a": {"a/norm.nii.gz": True}, "b": {"b/norm.nii.gz": False}})
    Traceback (most recent call last):
    ValueError: data: 1 of 2 files missing, of 1 of 2 subjects: b/norm.nii.gz. Unpack it again.
    """
    missing = [name for some in files.values() for name, there in some.items() if not there]
    if not missing:
        return
    people = sum(not all(some.values()) for some in files.values())
    raise ValueError(
        f"{root}: {len(missing)} of {sum(map(len, files.values()))} files missing, of {people} of "
        f"{len(files)} subjects: {_listed(missing)}. {hint or 'Unpack it again.'}"
    )


def _listed(names):
    """Return the first few names as text, with the number of the others."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
