"""Download public data files, check each against its hash, and return where it is.

Every file is named by its path ``<owner>/<repository>/<commit>/<path>``; its public address is
that path behind ``https://raw.githubusercontent.com/``.  ``data/registry.txt`` holds the SHA-256
of each file (of one, the id that git gives its content), so that a file is either the one that
was meant or an error.

Two environment variables change where files come from:

``VXMLIB_MIRROR``
    a folder of the same layout; files are read from there, in place, and nothing is downloaded.
``VXMLIB_CACHE``
    the folder that downloads are kept in (default: the user's cache directory).
"""

import hashlib
import os
from pathlib import Path

import pooch

BASE_URL = "https://raw.githubusercontent.com/"
REGISTRY_FILE = Path(__file__).parent / "data" / "registry.txt"

_checked = {}  # path -> (modification time, size) of the files whose hash was right


class FetchError(ValueError):
    """A data file cannot be had: unknown, altered, unreachable, or nowhere to keep it."""


def registry():
    """Return the known files.

    Returns
    -------
    dict
        Relative path -> SHA-256 (64 hexadecimal digits), or git's id of the content (40).

    Examples
    --------
    >>> sorted({path.split("/")[0] for path in registry()})
    ['learn2reg', 'muschellij2', 'voxelmorph']
    """
    lines = REGISTRY_FILE.read_text(encoding="utf-8").split("\n")
    pairs = (line.split() for line in lines if line.strip() and not line.startswith("#"))
    return {path: digest.split(":")[1] for path, digest in pairs}


def fetch(relative_path):
    """Return the local path of a registered file, downloading it if need be.

    Parameters
    ----------
    relative_path : str
        ``<owner>/<repository>/<commit>/<path>``, as listed in ``vxmlib/data/registry.txt``.

    Returns
    -------
    pathlib.Path
        A file whose hash is the registered one.  It lies in the mirror or in the cache: read
        it, do not write to it.  A file is hashed once per process and again when it has changed.

    Raises
    ------
    FetchError
        Unknown path, wrong hash, mirror folder or file missing, no network, unwritable cache.
    """
    expected = registry().get(relative_path)
    if expected is None:
        raise FetchError(_unknown(relative_path))
    mirror = _mirror()
    if mirror is not None:
        return _from_mirror(mirror, relative_path, expected)
    return _from_cache(relative_path, expected)


def available(prefix=""):
    """Say whether all registered files below a prefix can be had without a download.

    Parameters
    ----------
    prefix : str
        Beginning of a relative path, for example ``"muschellij2/malf.templates"``.

    Returns
    -------
    str
        ``"mirror"`` or ``"cache"``, where the files are; ``""`` (false) when one is missing.
        Presence only; hashes are checked by `fetch`.

    Raises
    ------
    FetchError
        ``VXMLIB_MIRROR`` names a folder that does not exist, or no registered file begins with
        the prefix.
    """
    paths = [path for path in registry() if path.startswith(prefix)]
    if not paths:
        raise FetchError(_unknown(prefix))
    mirror = _mirror()
    folder, name = (cache_folder(), "cache") if mirror is None else (mirror, "mirror")
    return name if all((folder / path).is_file() for path in paths) else ""


def cache_folder():
    """Return the folder that downloads are kept in: ``VXMLIB_CACHE`` or the user's cache."""
    chosen = os.environ.get("VXMLIB_CACHE", "")
    return Path(chosen).expanduser() if chosen else Path(pooch.os_cache("vxmlib"))


def _mirror():
    """Return the mirror folder, or None when none is asked for."""
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
        path.unlink(missing_ok=True)  # damaged: pooch would not notice
    _download(relative_path, expected)
    _check_hash(path, expected, mend="Delete it; the next call downloads it again.")
    return path


def _download(relative_path, expected):
    """Let pooch fill the cache: it downloads beside the target and renames, or raises."""
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
        ) from None  # the message says it all; the chain behind it is long
    except OSError as error:
        raise FetchError(
            f"The cache folder {folder} cannot be written ({error}). Set VXMLIB_CACHE to a folder "
            "that can, or VXMLIB_MIRROR to a folder that already holds the files."
        ) from error
    except ValueError as error:  # a hash that does not match
        raise FetchError(
            f"{BASE_URL + relative_path} arrived with other content than registered. {error} "
            "Try again; if it stays so, a proxy alters downloads."
        ) from error


def _check_hash(path, expected, *, mend):
    if not _is_right(path, expected):
        raise FetchError(
            f"{path} has the wrong content: expected hash {expected}, found "
            f"{_digest(path, expected)} ({path.stat().st_size} bytes). {mend}"
        )


def _is_right(path, expected):
    """Whether a file has its hash; not computed again for a file that has not changed."""
    if _checked.get(path) == _stamp(path):
        return True
    right = _digest(path, expected) == expected
    if right:
        _checked[path] = _stamp(path)
    return right


def _digest(path, expected):
    """The hash of a file, of the kind of the expected one: SHA-256, or git's id of the content."""
    # Pooch cannot compute git's id, which hashes a header before the content. Of one
    # file, which is not in the mirror, only that id is known to us.
    if len(expected) == 64:
        return pooch.file_hash(str(path), alg="sha256")
    content = Path(path).read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _stamp(path):
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _unknown(path):
    return (
        f"No registered file is called, or begins with, {path!r}. Known files are listed in "
        f"{REGISTRY_FILE} as <owner>/<repository>/<commit>/<path>."
    )
