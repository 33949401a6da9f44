"""IDX files and Python batches: what is sound is read exactly, and whatever is not is refused with its reason."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import pickle
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stantune.images.data.fetching.catalog import DataFile
from stantune.images.data.reading.formats import UnsoundError, read, write_batch


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


def reads_memory(dtype: bytes) -> bytes:
    """A pickle that had NumPy take eight bytes for the address of an object, and look at it."""
    return b"\x80\x04cnumpy\nndarray\ncnumpy\nndarray\nK\x01\x85" + dtype + b"C\x08AAAAAAAA\x87R\x85R."


def nested_key(depth: int) -> bytes:
    """A pickle whose dictionary has for its key a tuple of twice the same tuple, and so on: 2**depth to hash."""
    return b"\x80\x02}K\x01" + b"q\x00h\x00\x86" * depth + b"K\x00s."


ATTACKS = {
    "an array of objects at addresses of its choice": reads_memory(b"\x8c\x01O"),
    "a type with a state of its choice": (
        b"\x80\x04cnumpy\ndtype\n\x8c\x02u1\x89\x88\x87R(K\x03\x8c\x01|N\x8c\x01xNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb."
    ),
    "nested tuples as a key": nested_key(40),
    "tuples nested deeply": b"\x80\x02" + b"N" + b"\x85" * 1000 + b".",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a dictionary in itself": b"\x80\x02}q\x00U\x04datah\x00s.",
    "empty containers without end": b"\x80\x02" + b"]" * 900_000 + b".",
    "a number of megabytes": b"\x80\x02\x8b" + struct.pack("<I", 500_000) + b"\x7f" * 500_000 + b".",
    "a text longer than memory": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "a place far away": b"\x80\x02Nr\xff\xff\xff\xff.",
    "a value from nowhere": b"\x80\x02h\x05.",
    "nothing": b".",
    "a name without an end": b"\x80\x02c" + b"x" * 500_000,
    "text that is none": b"\x80\x04\x8c\x02\xff\xff.",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_pickle_is_read_and_never_run(attack: str, tmp_path: Path) -> None:
    """The first ones ended the process, or did not end; a child of its own would not have told more."""
    path = tmp_path / "data_batch_1"
    path.write_bytes(ATTACKS[attack])
    began = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(UnsoundError) as caught:
            read(path, DataFile("data_batch_1", "train", "batch", (1, 3, 2, 2), "0" * 64))
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(("is altered (", "is cut short ("))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 2
    assert memory < 8 << 20


def test_arrays_in_any_order_of_their_bytes_are_read(tmp_path: Path) -> None:
    planes = np.random.default_rng(6).integers(0, 256, (4, 3, 4, 5), dtype=np.uint8)
    path = tmp_path / "batch"
    for protocol in (3, 4, 5):
        path.write_bytes(
            pickle.dumps({"data": np.asfortranarray(planes.reshape(4, -1)), "labels": [1, 2, 3, 4]}, protocol)
        )
        images, _ = read(path, batch_file(planes, [1, 2, 3, 4]))
        assert np.array_equal(images, planes.transpose(0, 2, 3, 1))


def test_a_file_without_an_end_is_not_read_to_it(tiny_batches: Any, tiny: Any, tmp_path: Path) -> None:
    for data in (tiny_batches, tiny):
        file = data.description.files[0]
        path = tmp_path / file.name
        path.write_bytes(data.contents[file.name])
        with path.open("r+b") as stream:
            stream.truncate(1 << 40)
        with pytest.raises(UnsoundError, match="longer than"):
            read(path, file)


PACKED_BOMBS = {
    "one that unpacks to a lot": lambda content: gzip.compress(content) + gzip.compress(bytes(1 << 28), 1),
    "one of members without content": lambda content: gzip.compress(b"") * 5000 + gzip.compress(content),
    "one with a name that has no end": lambda content: b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * (1 << 20),
}


@pytest.mark.parametrize("bomb", PACKED_BOMBS)
def test_a_gzip_file_is_unpacked_within_limits(bomb: str, tiny: Any, tmp_path: Path) -> None:
    file = tiny.description.files[0]
    path = tmp_path / f"{file.name}.gz"
    path.write_bytes(PACKED_BOMBS[bomb](tiny.contents[file.name]))
    began = time.monotonic()
    with pytest.raises(UnsoundError, match="is altered"):
        read(path, file)
    assert time.monotonic() - began < 2


def test_gzip_members_in_a_row_are_one_content(tiny: Any, tmp_path: Path) -> None:
    file, content = tiny.description.files[0], tiny.contents[tiny.description.files[0].name]
    path = tmp_path / f"{file.name}.gz"
    for packed in (
        gzip.compress(content[:7]) + gzip.compress(content[7:]),
        gzip.compress(content) + bytes(1000),
        gzip.compress(content[:7]) + bytes(10) + gzip.compress(b"") + gzip.compress(content[7:]),
    ):
        path.write_bytes(packed)
        images, _ = read(path, file)
        assert np.array_equal(images, tiny.images["train"])
