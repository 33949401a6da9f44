"""IDX files and Python batches: what is sound is read exactly, and whatever is not is refused with its reason."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.images.data.catalog import DataFile
from stantune.images.data.formats import UnsoundError, read, write_batch


@given(shape=st.lists(st.integers(1, 7), min_size=3, max_size=3), seed=st.integers(0, 2**32 - 1))
def test_idx_of_any_shape_is_read_exactly(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], seed: int
) -> None:
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    content = struct.pack(">4B3I", 0, 0, 8, 3, *shape) + values.tobytes()
    path = tmp_path_factory.getbasetemp() / "any-idx"
    path.write_bytes(content)
    file = DataFile("any-idx", "train", "images", tuple(shape), hashlib.sha256(content).hexdigest())
    images, labels = read(path, file)
    assert labels is None
    assert images is not None
    assert np.array_equal(images, values.reshape(*shape, 1))


def test_idx_labels_and_gzip(tiny: Any, tmp_path: Path) -> None:
    file = tiny.description.files[1]
    packed = tmp_path / f"{file.name}.gz"
    packed.write_bytes(gzip.compress(tiny.contents[file.name]))
    images, labels = read(packed, file)
    assert images is None
    assert np.array_equal(labels, tiny.labels["train"])


@pytest.mark.parametrize("fixture", ["tiny", "tiny_batches"])
def test_a_file_cut_anywhere_is_refused(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    data = request.getfixturevalue(fixture)
    file = data.description.files[0]
    content = data.contents[file.name]
    path = tmp_path / file.name
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UnsoundError, match="is cut short"):
            read(path, file)


def test_a_gzip_file_cut_anywhere_is_refused(tiny: Any, tmp_path: Path) -> None:
    file = tiny.description.files[0]
    content = gzip.compress(tiny.contents[file.name])
    path = tmp_path / f"{file.name}.gz"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UnsoundError):
            read(path, file)


def test_an_idx_file_with_any_byte_altered_is_refused(tiny: Any, tmp_path: Path) -> None:
    file = tiny.description.files[0]
    path = tmp_path / file.name
    for place in range(len(tiny.contents[file.name])):
        content = bytearray(tiny.contents[file.name])
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(UnsoundError, match="is altered"):
            read(path, file)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_idx_file_that_is_too_long_is_refused(tiny: Any, tmp_path: Path, suffix: str) -> None:
    file = tiny.description.files[0]
    content = tiny.contents[file.name] + b"\0"
    path = tmp_path / f"{file.name}{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(UnsoundError, match="longer than its"):
        read(path, file)


def test_something_else_named_gz_is_refused(tiny: Any, tmp_path: Path) -> None:
    file = tiny.description.files[0]
    path = tmp_path / f"{file.name}.gz"
    path.write_bytes(tiny.contents[file.name])
    with pytest.raises(UnsoundError, match="not a sound gzip file"):
        read(path, file)


def batch_file(planes: np.ndarray, labels: list[int]) -> DataFile:
    digest = hashlib.sha256(planes.tobytes() + bytes(labels)).hexdigest()
    return DataFile("batch", "train", "batch", planes.shape, digest)


def python2_pickle(planes: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and NumPy 1 pickled the official files, opcode by opcode (protocol 2, byte strings)."""
    count, row = planes.shape[0], planes[0].size

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85" + text(b"b") + b"\x87Rq\x03"
        b"(K\x01K" + bytes([count]) + b"M" + struct.pack("<H", row) + b"\x86cnumpy\ndtype\nq\x04" + text(b"u1")
        + b"K\x00K\x01\x87Rq\x05(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T" + struct.pack("<I", planes.size) + planes.tobytes() + b"tb"
    )  # fmt: skip
    return (
        b"\x80\x02}q\x00(" + text(b"batch_label") + text(b"training batch 1 of 5")
        + text(b"labels") + b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
        + text(b"data") + array
        + text(b"filenames") + b"](" + b"".join(text(b"x.png") for _ in labels) + b"eu."
    )  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", ["python 2", 3, 4, 5])
def test_batches_of_every_origin_are_read(protocol: int | str, tmp_path: Path) -> None:
    planes = np.random.default_rng(3).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    labels = [6, 9, 9, 4]
    if isinstance(protocol, int):
        content = pickle.dumps({"labels": labels, "data": planes.reshape(4, -1)}, protocol)
    else:
        content = python2_pickle(planes, labels)
    path = tmp_path / "batch"
    path.write_bytes(content)
    images, found = read(path, batch_file(planes, labels))
    assert images is not None
    assert found is not None
    assert found.tolist() == labels
    for image, row, column, channel in ((0, 0, 0, 0), (3, 31, 30, 2), (1, 7, 8, 1)):
        assert images[image, row, column, channel] == planes[image, channel, row, column]


def test_a_written_batch_is_what_torchvision_reads(tmp_path: Path) -> None:
    planes = np.random.default_rng(4).integers(0, 256, (2, 3072), dtype=np.uint8)
    write_batch(tmp_path / "batch", planes, np.array([3, 8], np.uint8))
    for encoding in ("latin1", "bytes"):
        with (tmp_path / "batch").open("rb") as stream:
            entry = pickle.load(stream, encoding=encoding)
        assert np.array_equal(entry["data"], planes)
        assert entry["labels"] == [3, 8]


def test_altered_pixels_and_labels_of_a_batch_are_refused(tmp_path: Path) -> None:
    planes = np.random.default_rng(5).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    file = batch_file(planes, [1, 2])
    path = tmp_path / "batch"
    for place in range(planes.size):
        other = planes.copy()
        other.reshape(-1)[place] ^= 1
        write_batch(path, other.reshape(2, -1), np.array([1, 2], np.uint8))
        with pytest.raises(UnsoundError, match="is altered"):
            read(path, file)
    write_batch(path, planes.reshape(2, -1), np.array([2, 1], np.uint8))
    with pytest.raises(UnsoundError, match="is altered"):
        read(path, file)


class Trap:
    """An object whose unpickling would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_that_runs_something_is_refused_and_does_not_run(tmp_path: Path) -> None:
    planes = np.zeros((1, 3, 2, 2), np.uint8)
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": planes.reshape(1, -1), "labels": [0], "x": Trap(tmp_path / "sprung")}))
    with pytest.raises(UnsoundError, match="its pickle asks for"):
        read(path, batch_file(planes, [0]))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "entry",
    [
        [1, 2],
        {"labels": [0]},
        {"data": [1], "labels": [0]},
        {"data": np.zeros((1, 11), np.uint8), "labels": [0]},
        {"data": np.zeros((1, 12), np.int32), "labels": [0]},
        {"data": np.zeros((1, 12), np.uint8)},
        {"data": np.zeros((1, 12), np.uint8), "labels": 10**15},
        {"data": np.zeros((1, 12), np.uint8), "labels": [300]},
        {"data": np.zeros((1, 12), np.uint8), "labels": ["cat"]},
        {"data": np.zeros((1, 12), np.uint8), "labels": [0, 0]},
    ],
)
def test_a_pickle_that_is_no_batch_is_refused(entry: Any, tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(entry))
    with pytest.raises(UnsoundError, match="is altered"):
        read(path, batch_file(np.zeros((1, 3, 2, 2), np.uint8), [0]))


def test_the_digest_decides_even_where_shapes_agree(tiny: Any, tmp_path: Path) -> None:
    file = tiny.description.files[0]
    path = tmp_path / file.name
    path.write_bytes(tiny.contents[file.name])
    with pytest.raises(UnsoundError, match="sha256 of its content"):
        read(path, dataclasses.replace(file, sha256="0" * 64))
