"""Download public data files, and check the hash of each.

Each file is identified by a path ``<owner>/<repository>/<commit>/<path>``. Its public address is
``https://raw.githubusercontent.com/`` followed by this path.  ``data/registry.txt`` lists the
SHA-256 of each file (for one file, git's hash of its content). A file with another hash raises an
error.

Two environment variables change where files are read and stored:

``VXMLIB_MIRROR``
    A folder with the same layout.  Files are read directly from it, and nothing is downloaded.
``VXMLIB_CACHE``
    The folder in which downloads are stored (default: the user's cache directory).
"""

import hashlib
import os
from pathlib import Path

import pooch

BASE_URL = "https://raw.githubusercontent.com/"
REGISTRY_FILE = Path(__file__).parent / "data" / "registry.txt"

_checked = {}  # path -> (modification time, size) of each file whose hash was correct


class FetchError(ValueError):
    """A data file is not registered, has the wrong hash, or cannot be downloaded or stored."""


def registry():
    """Return the registered files and their hashes.

    Returns
    -------
    dict
        Relative path -> SHA-256 (64 hexadecimal digits) or git's hash of the content (40 digits).

    Examples
    --------
    >>> sorted({path.split("/")[0] for path in registry()})
    ['learn2reg', 'muschellij2', 'voxelmorph']
    """
    lines = REGISTRY_FILE.read_text(encoding="utf-8").split("\n")
    pairs = (line.split() for line in lines if line.strip() and not line.startswith("#"))
    return {path: digest.split(":")[1] for path, digest in pairs}


def fetch(relative_path):
    """Return the local path of a registered file, and download the file if necessary.

    Parameters
    ----------
    relative_path : str
        ``<owner>/<repository>/<commit>/<path>``, as listed in ``vxmlib/data/registry.txt``.

    Returns
    -------
    pathlib.Path
        A file in the mirror or in the cache that has the registered hash; do not write to it.
        The hash is computed once per process, and again when the file has changed.

    Raises
    ------
    FetchError
        If the path is not registered, the hash is wrong, the mirror folder or its file is missing,
        the download fails, or the cache folder cannot be written to.
    """
    expected = registry().get(relative_path)
    if expected is None:
        raise FetchError(_unknown(relative_path))
    mirror = _mirror()
    if mirror is not None:
        return _from_mirror(mirror, relative_path, expected)
    return _from_cache(relative_path, expected)


def available(prefix=""):
    """Return where all registered files with a prefix are available without a download.

    Hashes are not checked here but in `fetch`.

    Parameters
    ----------
    prefix : str
        Beginning of a relative path, for example ``"muschellij2/malf.templates"``.

    Returns
    -------
    str
        ``"mirror"`` or ``"cache"``; ``""`` (which is false) if a file is missing.

    Raises
    ------
    FetchError
        If ``VXMLIB_MIRROR`` names a folder that does not exist, or no registered path begins with
        the prefix.
    """
    paths = [path for path in registry() if path.startswith(prefix)]
    if not paths:
        raise FetchError(_unknown(prefix))
    mirror = _mirror()
    folder, name = (cache_folder(), "cache") if mirror is None else (mirror, "mirror")
    return name if all((folder / path).is_file() for path in paths) else ""


def cache_folder():
    """Return the folder for downloads: ``VXMLIB_CACHE`` or the user's cache directory."""
    chosen = os.environ.get("VXMLIB_CACHE", "")
    return Path(chosen).expanduser() if chosen else Path(pooch.os_cache("vxmlib"))


def _mirror():
    """Return the mirror folder, or None if ``VXMLIB_MIRROR`` is not set."""
    chosen = os.environ.get("VXMLIB_MIRROR", "")
    if not chosen:
        return None
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        raise FetchError(
            f"VXMLIB_MIRROR names {folder}, which is not a folder. Point it at a folder laid out "
            "as <owner>/<repository>/<commit>/<path>, or unset it to download the files."
        )
    return folder


def _from_mirror(mirror, relative_path, expected):
    path = mirror / relative_path
    if not path.is_file():
        raise FetchError(
            f"The mirror {mirror} (VXMLIB_MIRROR) has no file {relative_path}. Complete the "
            "mirror, or unset VXMLIB_MIRROR to download the file."
        )
    _check_hash(path, expected, mend="Copy it into the mirror again from its public address.")
    return path


def _from_cache(relative_path, expected):
    path = cache_folder() / relative_path
    if path.is_file():
        if _is_right(path, expected):
            return path
        path.unlink(missing_ok=True)  # damaged; pooch would not notice
    _download(relative_path, expected)
    _check_hash(path, expected, mend="Delete it; the next call downloads it again.")
    return path


def _download(relative_path, expected):
    """Download a file with pooch, which writes a temporary file and renames it, or raises."""
    from requests.exceptions import RequestException  # slow to import, needed only here

    folder = cache_folder()
    store = pooch.create(folder, BASE_URL, registry={relative_path: None})
    over_http = pooch.HTTPDownloader(progressbar=False, timeout=60)

    def download(url, part, pooch):
        over_http(url, part, pooch)
        if (digest := _digest(part, expected)) != expected:
            raise ValueError(f"Found hash {digest}, expected {expected}.")

    try:
        store.fetch(relative_path, downloader=download)
    except RequestException as error:
        raise FetchError(
            f"{BASE_URL + relative_path} could not be downloaded ({type(error).__name__}). Check "
            "the network, or set VXMLIB_MIRROR to a folder that holds the file at "
            f"{relative_path}."
        ) from None  # the message is complete, and the chained errors are long
    except OSError as error:
        raise FetchError(
            f"The cache folder {folder} cannot be written to ({error}). Set VXMLIB_CACHE to a "
            "writable folder, or VXMLIB_MIRROR to a folder that already holds the files."
        ) from error
    except ValueError as error:  # a hash that does not match
        raise FetchError(
            f"{BASE_URL + relative_path} was downloaded with the wrong content. {error} Try again. "
            "If the error persists, a proxy may be altering downloads."
        ) from error


def _check_hash(path, expected, *, mend):
    if not _is_right(path, expected):
        raise FetchError(
            f"{path} has the wrong content: expected hash {expected}, found "
            f"{_digest(path, expected)} ({path.stat().st_size} bytes). {mend}"
        )


def _is_right(path, expected):
    """Return whether a file has the expected hash, computed again only if the file has changed."""
    if _checked.get(path) == _stamp(path):
        return True
    right = _digest(path, expected) == expected
    if right:
        _checked[path] = _stamp(path)
    return right


def _digest(path, expected):
    """Compute the hash of a file, of the same kind as the expected one: SHA-256 or git's."""
    # Pooch cannot compute git's hash, which includes a header before the content. For one
    # file, which is not in the mirror, we know only this hash.
    if len(expected) == 64:
        return pooch.file_hash(str(path), alg="sha256")
    content = Path(path).read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _stamp(path):
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _unknown(path):
    return (
        f"No registered path equals or begins with {path!r}. Registered files are listed in "
        f"{REGISTRY_FILE} as <owner>/<repository>/<commit>/<path>."
    )
