"""Each source delivers the right files from a stand-in of its origin, and says in a clause why it cannot."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stantune.images.data.fetching import catalog, sources
from stantune.images.data.fetching.sources import RefusalError
from stantune.images.data.reading.formats import read


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def png(images: np.ndarray) -> bytes:
    """NHWC images as the npm package has them: a row of the picture is an image, a column one of its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(images.reshape(len(images), -1, 3)).save(buffer, "png")
    return buffer.getvalue()


def png_package(data: Any) -> dict[str, bytes]:
    train, test = data.images["train"], data.images["test"]
    return {
        "package/data_batch_1.png": png(train[:3]),
        "package/data_batch_2.png": png(train[3:]),
        "package/test_batch.png": png(test),
        "package/train_lables.json": json.dumps(data.labels["train"].tolist()).encode(),
        "package/test_lables.json": json.dumps(data.labels["test"].tolist()).encode(),
    }


def check(source: sources.Source, data: Any, work: Path) -> None:
    """What a source delivers is every file asked for, each sound."""
    wanted = data.description.files[1:]
    delivered = list(source(data.description, wanted, work))
    assert [file for file, _ in delivered] == list(wanted)
    for file, path in delivered:
        read(path, file)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def pack(program: Callable[[str, str], None], tmp_path: Path) -> Callable[[dict[str, bytes]], None]:
    """Installs an npm that packs the given members, and insists on being asked the right thing."""

    def install(members: dict[str, bytes]) -> None:
        (tmp_path / "package.tgz").write_bytes(tar(members))
        program(
            "npm",
            "assert sys.argv[1:3] == ['pack', '--ignore-scripts'] and sys.argv[3] in ('tiny@1', 'tinyc@1')\n"
            f"shutil.copy({str(tmp_path / 'package.tgz')!r}, '.')",
        )

    return install


def test_official_idx_files(tiny: Any, server: Any, work: Path) -> None:
    tiny.description = dataclasses.replace(tiny.description, official=server.address + "here/")
    server.bodies = {f"/here/{name}.gz": gzip.compress(content) for name, content in tiny.contents.items()}
    check(sources.official, tiny, work)
    assert server.requests == [f"/here/{file.name}.gz" for file in tiny.description.files[1:]]


def test_official_archive(tiny_batches: Any, server: Any, work: Path) -> None:
    address = server.address + "tiny.tar.gz"
    tiny_batches.description = dataclasses.replace(tiny_batches.description, official=address)
    members = {f"tiny-py/{name}": content for name, content in tiny_batches.contents.items()}
    server.bodies = {"/tiny.tar.gz": tar({"tiny-py/readme.html": b"x", **members})}
    check(sources.official, tiny_batches, work)


def test_npm_idx_files(tiny: Any, pack: Any, work: Path) -> None:
    pack({"package/index.js": b"x", **{f"package/data/{name}": body for name, body in tiny.contents.items()}})
    check(sources.npm, tiny, work)


def test_npm_pictures_become_batches(tiny_batches: Any, pack: Any, work: Path) -> None:
    pack(png_package(tiny_batches))
    check(sources.npm, tiny_batches, work)


def test_debian_package_as_installed(tiny: Any, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "system" / "tiny").mkdir(parents=True)
    for name, content in tiny.contents.items():
        (tmp_path / "system" / "tiny" / f"{name}.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(sources, "SYSTEM_DATASETS", tmp_path / "system")
    monkeypatch.setenv("PATH", "")
    check(sources.debian, tiny, work)


def test_debian_package_downloaded(tiny: Any, program: Any, work: Path, tmp_path: Path) -> None:
    share = tmp_path / "unpacked" / "usr" / "share" / "datasets" / "tiny"
    share.mkdir(parents=True)
    for name, content in tiny.contents.items():
        (share / f"{name}.gz").write_bytes(gzip.compress(content))
    program(
        "apt-get", "assert sys.argv[1:] == ['download', 'dataset-tiny']\nopen('dataset-tiny_1_all.deb', 'w').close()"
    )
    program(
        "dpkg-deb",
        "assert sys.argv[1:3] == ['-x', 'dataset-tiny_1_all.deb']\n"
        f"shutil.copytree({str(tmp_path / 'unpacked')!r}, sys.argv[3])",
    )
    check(sources.debian, tiny, work)


def refused(source: sources.Source, data: Any, work: Path) -> str:
    with pytest.raises(RefusalError) as caught:
        list(source(data.description, data.description.files, work))
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_npm_says_what_the_client_said(tiny: Any, program: Any, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(
        "npm",
        "sys.stderr.write('npm warn x\\nnpm error code E404\\nnpm error 404 Not Found: tiny@1\\nnpm error log.\\n')\n"
        "sys.exit(3)",
    )
    said = refused(sources.npm, tiny, work)
    assert said.startswith("`npm pack --ignore-scripts tiny@1` failed with exit code 3: npm error 404 Not Found")
    program("npm", "")
    assert refused(sources.npm, tiny, work) == "`npm pack tiny@1` left 0 archives instead of one"
    monkeypatch.setenv("PATH", "")
    assert refused(sources.npm, tiny, work) == "the program npm is not installed"


def test_npm_does_not_wait_for_ever(tiny: Any, program: Any, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CLIENT_SECONDS", 0.2)
    program("npm", "import time; time.sleep(20)")
    assert "did not end within" in refused(sources.npm, tiny, work)


def test_npm_package_without_a_file(tiny: Any, pack: Any, work: Path) -> None:
    pack({"package/data/train-images": tiny.contents["train-images"]})
    assert refused(sources.npm, tiny, work) == "package.tgz has no test-images"


@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("package/data_batch_2.png", b"no picture"),
        ("package/data_batch_2.png", png(np.zeros((2, 4, 4, 3), np.uint8))),
        ("package/data_batch_2.png", png(np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8))[:100]),
        ("package/train_lables.json", b"[1, 2"),
        ("package/train_lables.json", b"[1, 2, 3, 4]"),
        ("package/train_lables.json", b"[1, 2, 3, 4, 300]"),
        ("package/train_lables.json", b'{"0": 1}'),
        ("package/train_lables.json", b"5"),
    ],
    ids=["no-picture", "size", "cut-picture", "cut-json", "too-few", "too-large", "no-list", "a-number"],
)
def test_npm_package_with_damaged_pictures_or_labels(
    member: str, content: bytes, tiny_batches: Any, pack: Any, work: Path
) -> None:
    pack({**png_package(tiny_batches), member: content})
    assert refused(sources.npm, tiny_batches, work).startswith("data_batch_")


def test_debian_says_what_apt_said(tiny: Any, program: Any, work: Path) -> None:
    program("apt-get", "sys.stderr.write('W: old\\nE: Unable to locate package dataset-tiny\\n'); sys.exit(100)")
    assert refused(sources.debian, tiny, work) == (
        "`apt-get download dataset-tiny` failed with exit code 100: E: Unable to locate package dataset-tiny"
    )
    program("apt-get", "")
    assert refused(sources.debian, tiny, work) == "the package dataset-tiny has no train-images.gz"


def official(data: Any, server: Any, name: str, body: bytes) -> str:
    """Make `body` what the data set's own address has for its first file; return that file's address."""
    archive = name.endswith(".tar.gz")
    data.description = dataclasses.replace(data.description, official=server.address + (name if archive else ""))
    server.bodies = {f"/{name}": body}
    return f"{server.address}{name}"


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


def test_every_data_set_s_own_address_is_safe() -> None:
    for description in catalog.DATASETS.values():
        assert str(description.official).startswith("https://")


def test_a_client_that_brings_too_much_is_ended_with_what_it_started(tiny: Any, program: Any, work: Path) -> None:
    program(
        "npm",
        "import os, subprocess, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "open('child', 'w').write(str(child.pid))\n"
        "open('much', 'wb').truncate(100 << 20)\n"
        "time.sleep(100)",
    )
    began = time.monotonic()
    assert "brought more than the" in refused(sources.npm, tiny, work)
    assert time.monotonic() - began < 10
    assert ends(int((work / "child").read_text()))


def ends(process: int) -> bool:
    """Tell whether a process ends soon."""
    for _ in range(200):
        try:
            # A child whose parent is gone is nobody's: init takes it, where there is one.
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_client_and_what_it_started_end_with_a_fetch_that_is_killed(tiny: Any, program: Any, work: Path) -> None:
    program(
        "npm",
        "import os, subprocess, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "open('ours', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "os.rename('ours', 'running')\n"
        "time.sleep(100)",
    )
    script = (
        "import pickle, sys; from pathlib import Path; from stantune.images.data.fetching import sources\n"
        "tiny = pickle.load(sys.stdin.buffer); list(sources.npm(tiny, tiny.files, Path(sys.argv[1])))"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(work)], stdin=subprocess.PIPE) as fetch:
        assert fetch.stdin is not None
        fetch.stdin.write(pickle.dumps(tiny.description))
        fetch.stdin.close()
        while not (work / "running").exists():
            assert fetch.poll() is None
            time.sleep(0.01)
        fetch.kill()
    for process in (work / "running").read_text().split():
        assert ends(int(process))


def test_a_client_that_talks_without_end_does_not_fill_the_memory(tiny: Any, program: Any, work: Path) -> None:
    program("npm", "sys.stderr.write('npm error it broke\\n' + 'x' * (5 << 20)); sys.exit(1)")
    tracemalloc.start()
    said = refused(sources.npm, tiny, work)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said == "`npm pack --ignore-scripts tiny@1` failed with exit code 1: npm error it broke"
    assert memory < 2 << 20


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def picture(width: int, height: int, pixels: bytes, *more: bytes) -> bytes:
    """A PNG picture written down anew, so that it may say what no program would write."""
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("data_batch_2.png", picture(20_000, 20_000, bytes(100))),
        ("data_batch_2.png", picture(10_000, 10_000, bytes(100))),
        ("data_batch_2.png", picture(2**31 - 1, 2**31 - 1, b"")),
        ("data_batch_2.png", picture(20, 2, bytes(122), chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(50 << 20))))),
        ("data_batch_2.png", picture(20, 2, bytes(122), chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(50 << 20))))),
        ("data_batch_2.png", picture(0, 0, b"")),
        ("train_lables.json", b"[" * 20_000),
        ("train_lables.json", b"[" + b"9" * 10_000 + b"]"),
        ("train_lables.json", b"[1, 2, 3, 4, 2.5]"),
        ("train_lables.json", b'"12345"'),
        ("train_lables.json", b"\xff\xfe\x00"),
        ("train_lables.json", b"NaN"),
    ],
    ids=[
        "400-megapixels", "100-megapixels", "largest", "text-bomb", "profile-bomb", "empty",
        "nested", "digits", "fraction", "text", "no-text", "not-a-number",
    ],
)  # fmt: skip
def test_damaged_pictures_and_labels_take_neither_memory_nor_a_traceback(
    member: str, content: bytes, tiny_batches: Any, pack: Any, work: Path
) -> None:
    pack({**png_package(tiny_batches), f"package/{member}": content})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refused(sources.npm, tiny_batches, work).startswith("data_batch_")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 << 10


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


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_every_form_are_read(form: int, tiny_batches: Any, server: Any, work: Path) -> None:
    """With folders, links, long names and notes between the files, as other programs write them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=form) as archive:
        folder = tarfile.TarInfo("tiny-py")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo("tiny-py/link")
        link.type, link.linkname = tarfile.SYMTYPE, "data_batch_1"
        archive.addfile(link)
        for name, content in {"n" * 90 + "/" + "m" * 90: b"x", **tiny_batches.contents}.items():
            info = tarfile.TarInfo(f"tiny-py/{name}")
            info.size, info.mtime = len(content), 0.5 if form == tarfile.PAX_FORMAT else 0
            archive.addfile(info, io.BytesIO(content))
    official(tiny_batches, server, "tiny.tar.gz", buffer.getvalue())
    check(sources.official, tiny_batches, work)
