"""Find the folder of an unpacked archive (LPBA40, neurite-OASIS) and report missing files."""

from pathlib import Path

_PACKED = (".tar", ".tar.gz", ".tgz", ".zip")
_SHOWN = 3  # names in a message; the rest are counted


def folder(root, signs, *, inside=()):
    """Return the folder that holds the content of an unpacked archive.

    Parameters
    ----------
    root : path
        What the user names.
    signs : sequence of str
        Names that the content has; one of them is enough to know it by.
    inside : sequence of str
        Folders that unpacking makes, relative to `root`; the content may lie in one of them.

    Raises
    ------
    ValueError
        Not a folder, the packed archive itself, or a folder of other things.

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
    mend = f"Unpack {packed[0]} first." if packed else "Name the folder that holds it."
    raise ValueError(
        f"root={str(root)!r} holds {_listed(names) or 'nothing'}; expected {_listed(signs)} in it. "
        f"{mend}"
    )


def require(root, files, *, hint=""):
    """Make sure that every file of every subject is there.

    Parameters
    ----------
    root : Path
        The folder, for the message.
    files : dict
        Person -> {name of a file relative to `root`: bool, whether it is there}.
    hint : str
        What to do, where more is known than that it should be unpacked again.

    Raises
    ------
    ValueError
        Files are missing; the message counts them and names the first.

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
    """The first few names, and how many more there are."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
