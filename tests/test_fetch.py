"""Files come from the mirror, the cache or the network, and are either right or an error."""

import contextlib
import functools
import hashlib
import http.server
import os
import re
import threading
from pathlib import Path

import pytest

from vxmlib import fetch

PATH = "someone/something/0123abc/data/file.bin"
CONTENT = b"thirty bytes of a public file\n"


@pytest.fixture(autouse=True)
def one_known_file(monkeypatch, tmp_path):
    """A registry of one file, an empty cache, no mirror, and no way out to the network."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setattr(fetch, "registry", lambda: {PATH: digest})
    monkeypatch.setattr(fetch, "_checked", {})
    monkeypatch.setattr(fetch, "BASE_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("VXMLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VXMLIB_MIRROR", raising=False)
    return digest


@pytest.fixture
def a_mirror(monkeypatch, tmp_path):
    folder = tmp_path / "mirror"
    (folder / PATH).parent.mkdir(parents=True)
    (folder / PATH).write_bytes(CONTENT)
    monkeypatch.setenv("VXMLIB_MIRROR", str(folder))
    return folder


@contextlib.contextmanager
def served(folder):
    """Serve a folder over HTTP on this machine; yields its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_mirror_is_read_in_place_and_not_written_to(a_mirror, tmp_path):
    assert fetch.fetch(PATH) == a_mirror / PATH
    assert files_below(tmp_path) == [a_mirror / PATH]


def test_a_file_is_hashed_once_and_again_when_it_has_changed(a_mirror, monkeypatch):
    hashed = []
    real = fetch.pooch.file_hash
    monkeypatch.setattr(
        fetch.pooch, "file_hash", lambda name, alg: hashed.append(name) or real(name, alg)
    )
    fetch.fetch(PATH)
    fetch.fetch(PATH)
    assert len(hashed) == 1
    (a_mirror / PATH).write_bytes(CONTENT[::-1])  # same size, other content
    os.utime(a_mirror / PATH, ns=(1, 1))
    with pytest.raises(fetch.FetchError, match="wrong content"):
        fetch.fetch(PATH)


def test_a_wrong_file_in_the_mirror_is_named_with_both_hashes(a_mirror, one_known_file):
    (a_mirror / PATH).write_bytes(CONTENT[:10])
    with pytest.raises(fetch.FetchError) as error:
        fetch.fetch(PATH)
    found = hashlib.sha256(CONTENT[:10]).hexdigest()
    for part in (str(a_mirror / PATH), one_known_file, found, "10 bytes", "again"):
        assert part in str(error.value)


def test_a_mirror_that_is_not_there_or_lacks_the_file(a_mirror, monkeypatch):
    (a_mirror / PATH).unlink()
    with pytest.raises(fetch.FetchError, match=r"has no file .*unset VXMLIB_MIRROR"):
        fetch.fetch(PATH)
    monkeypatch.setenv("VXMLIB_MIRROR", str(a_mirror / "nowhere"))
    with pytest.raises(fetch.FetchError, match=r"nowhere, which is not a folder"):
        fetch.fetch(PATH)
    with pytest.raises(fetch.FetchError, match="not a folder"):
        fetch.available(PATH)


def test_an_unknown_path():
    with pytest.raises(fetch.FetchError, match=r"'someone/else'.*registry\.txt"):
        fetch.fetch("someone/else")


def test_without_network_and_mirror_the_message_says_what_to_do(tmp_path):
    with pytest.raises(fetch.FetchError, match="Check the network, or set VXMLIB_MIRROR") as error:
        fetch.fetch(PATH)
    assert f"http://127.0.0.1:9/{PATH}" in str(error.value)
    assert files_below(tmp_path) == []


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("VXMLIB_CACHE", str(tmp_path / "a_file" / "cache"))
    with pytest.raises(fetch.FetchError, match=r"a_file/cache cannot be written.*VXMLIB_CACHE"):
        fetch.fetch(PATH)


def test_a_download_is_kept_and_needs_no_network_again(a_mirror, monkeypatch, tmp_path):
    monkeypatch.delenv("VXMLIB_MIRROR")
    assert fetch.available(PATH) == ""
    with served(a_mirror) as address:
        monkeypatch.setattr(fetch, "BASE_URL", address)
        assert fetch.fetch(PATH).read_bytes() == CONTENT
    monkeypatch.setattr(fetch, "_checked", {})  # as in a new process
    assert fetch.fetch(PATH) == tmp_path / "cache" / PATH
    assert fetch.available("someone") == "cache"


def test_a_damaged_file_in_the_cache_is_downloaded_again(a_mirror, monkeypatch, tmp_path):
    monkeypatch.delenv("VXMLIB_MIRROR")
    kept = tmp_path / "cache" / PATH
    kept.parent.mkdir(parents=True)
    kept.write_bytes(CONTENT[:7])
    with served(a_mirror) as address:
        monkeypatch.setattr(fetch, "BASE_URL", address)
        assert fetch.fetch(PATH).read_bytes() == CONTENT


def test_a_file_that_another_process_has_just_downloaded_stays(a_mirror, monkeypatch, tmp_path):
    """It was not there when asked for, and is there when the download begins."""
    monkeypatch.delenv("VXMLIB_MIRROR")
    kept = tmp_path / "cache" / PATH
    download = fetch._download

    def later(*asked):
        kept.parent.mkdir(parents=True)
        kept.write_bytes(CONTENT)
        download(*asked)

    monkeypatch.setattr(fetch, "_download", later)
    with served(a_mirror) as address:
        monkeypatch.setattr(fetch, "BASE_URL", address)
        (a_mirror / PATH).unlink()  # a second download would fail
        assert fetch.fetch(PATH).read_bytes() == CONTENT


def test_a_download_with_other_content_is_refused_and_not_kept(a_mirror, monkeypatch, tmp_path):
    monkeypatch.delenv("VXMLIB_MIRROR")
    (a_mirror / PATH).write_bytes(b"<html>please log in</html>")
    with served(a_mirror) as address:
        monkeypatch.setattr(fetch, "BASE_URL", address)
        with pytest.raises(fetch.FetchError, match="downloaded with the wrong content"):
            fetch.fetch(PATH)
    assert files_below(tmp_path / "cache") == []


def test_a_file_missing_on_the_server(a_mirror, monkeypatch, tmp_path):
    monkeypatch.delenv("VXMLIB_MIRROR")
    (a_mirror / PATH).unlink()
    with served(a_mirror) as address:
        monkeypatch.setattr(fetch, "BASE_URL", address)
        with pytest.raises(fetch.FetchError, match="HTTPError"):
            fetch.fetch(PATH)
    assert files_below(tmp_path / "cache") == []


def test_a_file_known_by_its_git_id_is_checked_as_well(a_mirror, monkeypatch, tmp_path):
    # `printf 'hello\n' | git hash-object --stdin` says so.
    monkeypatch.setattr(
        fetch, "registry", lambda: {PATH: "ce013625030ba8dba906f756967f9e9ca394464a"}
    )
    with pytest.raises(fetch.FetchError, match="wrong content: expected hash ce0136"):
        fetch.fetch(PATH)
    monkeypatch.delenv("VXMLIB_MIRROR")
    kept = tmp_path / "cache" / PATH
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"damaged")
    with served(a_mirror) as address:
        monkeypatch.setattr(fetch, "BASE_URL", address)
        with pytest.raises(fetch.FetchError, match="downloaded with the wrong content"):
            fetch.fetch(PATH)
        assert files_below(tmp_path / "cache") == []
        (a_mirror / PATH).write_bytes(b"hello\n")
        assert fetch.fetch(PATH).read_bytes() == b"hello\n"


def test_available_says_where(a_mirror):
    assert fetch.available("someone/something") == "mirror"
    (a_mirror / PATH).unlink()
    assert fetch.available("someone/something") == ""
    with pytest.raises(fetch.FetchError, match="'nobody'"):
        fetch.available("nobody")


def test_the_committed_registry_has_every_file_once():
    lines = Path(fetch.REGISTRY_FILE).read_text().splitlines()
    assert all(
        re.fullmatch(r"[\w.-]+/[\w.-]+/[0-9a-f]{40}/\S+ (sha256:[0-9a-f]{64}|blob:[0-9a-f]{40})", x)
        for x in lines
    )
    assert len({line.split()[0] for line in lines}) == len(lines)
    assert sum("_SS.nii.gz" in line for line in lines) == 35
