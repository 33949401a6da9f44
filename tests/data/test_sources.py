"""Each source delivers the right files from a stand-in of its origin, and says in a clause why it cannot."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stantune.images.data import sources
from stantune.images.data.formats import read
from stantune.images.data.sources import RefusalError


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
