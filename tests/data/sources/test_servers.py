"""A server that fails, sends too much or too slowly, or damaged: a download says so in a clause, and takes no harm."""

from __future__ import annotations

import dataclasses
import gzip
import io
import threading
import time
import tracemalloc
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from origins import check, official, refused, tar

from stantune.images.data.fetching import sources
from stantune.images.data.fetching.sources import RefusalError


def test_official_says_what_http_answered(tiny: Any, server: Any, work: Path) -> None:
    tiny.description = dataclasses.replace(tiny.description, official=server.address)
    assert refused(sources.official, tiny, work) == f"{server.address}train-images.gz answered 404 Not Found"


def test_official_says_that_nobody_is_there(tiny: Any, work: Path) -> None:
    said = refused(sources.official, tiny, work)
    assert said.startswith("http://127.0.0.1:9/train-images.gz cannot be reached (")
    assert "refused" in said


def test_official_gives_up_on_a_server_that_falls_silent(
    tiny: Any, server: Any, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "READ_SECONDS", 0.2)
    tiny.description = dataclasses.replace(tiny.description, official=server.address)
    server.bodies = {"/train-images.gz": gzip.compress(tiny.contents["train-images"])}
    server.stalls = {"/train-images.gz": threading.Event()}
    start = time.monotonic()
    assert "stopped sending (timed out)" in refused(sources.official, tiny, work)
    assert time.monotonic() - start < sources.CONNECT_SECONDS


def test_a_download_cut_short_is_refused(tiny: Any, tiny_batches: Any, server: Any, work: Path) -> None:
    bodies = {
        "train-images.gz": gzip.compress(tiny.contents["train-images"]),
        "tiny.tar.gz": tar(tiny_batches.contents),
    }
    for data, name, address in (
        (tiny, "train-images.gz", server.address),
        (tiny_batches, "tiny.tar.gz", server.address + "tiny.tar.gz"),
    ):
        server.bodies["/" + name] = bodies[name]
        server.missing_bytes = len(bodies[name]) // 2
        data.description = dataclasses.replace(data.description, official=address)
        said = refused(sources.official, data, work)
        assert "arrived damaged" in said or "stopped sending" in said


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("announced", [True, False])
def test_no_more_is_downloaded_than_the_file_can_have(announced: bool, tiny: Any, server: Any, work: Path) -> None:
    address = official(tiny, server, "train-images.gz", bytes(50 << 20))
    server.announced = announced
    said = refused(sources.official, tiny, work)
    size = "has 52428800 bytes, where" if announced else "sends more than the"
    assert said.startswith(f"{address} {size}")
    assert size_of(work) < 1 << 20


def test_a_small_file_does_not_unpack_to_a_large_one(tiny: Any, server: Any, work: Path) -> None:
    official(tiny, server, "train-images.gz", gzip.compress(bytes(60 << 20)))
    said = refused(sources.official, tiny, work)
    assert said == "train-images.gz unpacks to more than the 106 bytes that train-images has"
    assert size_of(work) < 1 << 20


@pytest.mark.parametrize("member", ["tiny-py/data_batch_1", "tiny-py/readme.html"])
def test_an_archive_does_not_unpack_to_a_large_one(member: str, tiny_batches: Any, server: Any, work: Path) -> None:
    """Neither what is asked for, nor what is passed over."""
    official(tiny_batches, server, "tiny.tar.gz", tar({member: bytes(200 << 20)}))
    tracemalloc.start()
    began = time.monotonic()
    said = refused(sources.official, tiny_batches, work)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said.startswith(
        "archive.tar.gz arrived damaged (it has 209715200 bytes of" if "batch" in member else "archive"
    )
    assert size_of(work) < 1 << 20
    assert memory < 16 << 20
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("waits", ["headers", "body"])
def test_a_server_that_drips_is_given_up(
    waits: str, tiny: Any, server: Any, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte each tenth of a second: no read ever times out."""
    monkeypatch.setattr(sources, "DOWNLOAD_SECONDS", 0.5)
    monkeypatch.setattr(sources, "LEAST_BYTES_PER_SECOND", 10**6)
    address = official(tiny, server, "train-images.gz", gzip.compress(tiny.contents["train-images"]))
    server.drips = waits
    began = time.monotonic()
    assert refused(sources.official, tiny, work) == f"{address} took longer than 1 s"
    assert time.monotonic() - began < 4


def test_a_body_without_its_end_is_refused(tiny: Any, server: Any, work: Path) -> None:
    body = gzip.compress(tiny.contents["train-images"])
    address = official(tiny, server, "train-images.gz", body)
    server.missing_bytes = 20
    assert refused(sources.official, tiny, work) == (
        f"{address} stopped sending ({len(body) - 20} of {len(body)} bytes)"
    )


def test_a_redirection_is_followed_but_what_comes_with_it_is_not_read(tiny: Any, server: Any, work: Path) -> None:
    official(tiny, server, "train-images.gz", bytes(1))
    server.redirects = {f"/{file.name}.gz": f"/there/{file.name}.gz" for file in tiny.description.files}
    server.bodies = {f"/there/{name}.gz": gzip.compress(content) for name, content in tiny.contents.items()}
    began = time.monotonic()
    check(sources.official, tiny, work)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("here", "there", "followed"),
    [("https", "http", False), ("https", "https", True), ("http", "ftp", False), ("http", "https", True)],
)
def test_no_redirection_leads_to_where_it_is_not_safe(here: str, there: str, followed: bool) -> None:
    request = urllib.request.Request(f"{here}://a/x")
    arguments = (request, io.BytesIO(), 302, "Found", {}, f"{there}://b/x")
    if followed:
        answer = sources._Redirects().redirect_request(*arguments)
        assert answer is not None
        assert answer.full_url == f"{there}://b/x"
    else:
        with pytest.raises(RefusalError, match=f"{here}://a/x sends to {there}://b/x"):
            sources._Redirects().redirect_request(*arguments)


@pytest.mark.parametrize("kind", ["no tar", "a wrong sum", "a wrong size", "cut in a header", "cut in a file"])
def test_a_damaged_archive_is_refused(kind: str, tiny_batches: Any, server: Any, work: Path) -> None:
    content = bytearray(gzip.decompress(tar(tiny_batches.contents)))
    if kind == "no tar":
        content = bytearray(b"x" * 2000)
    elif kind == "a wrong sum":
        content[0] ^= 1
    elif kind == "a wrong size":
        content[124:136] = b"-0000000001\0"
    else:
        del content[600 if kind == "cut in a file" else 100 :]
    official(tiny_batches, server, "tiny.tar.gz", gzip.compress(bytes(content)))
    assert refused(sources.official, tiny_batches, work).startswith("archive.tar.gz arrived damaged (it is ")
