"""The data sets' file formats, IDX and CIFAR-10's Python batches, read with every byte checked."""

from __future__ import annotations

import hashlib
import math
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stantune.images.data.fetching.catalog import DataFile, idx_header
from stantune.images.data.fetching.unpacking import UnsoundError as UnsoundError
from stantune.images.data.fetching.unpacking import gunzipped
from stantune.images.data.reading.pickled import DTYPE, FROM_BUFFER, RECONSTRUCT, Call, unpickled

# A batch's pickle has a few operations for each image (label, file name) and some for the rest.
_STEPS_PER_IMAGE, _STEPS = 16, 1000


class Content(NamedTuple):
    """What one file holds: uint8 images (n, H, W, C), not always contiguous, uint8 labels (n,), or both."""

    images: NDArray[np.uint8] | None
    labels: NDArray[np.uint8] | None


def read(path: Path, file: DataFile) -> Content:
    """The content of `path`, which must be `file` to the last byte; an IDX file may be gzipped (named .gz).

    Raises UnsoundError where it is cut short, altered or of another format, OSError where it cannot be read.
    """
    return _read_batch(path, file) if file.kind == "batch" else _read_idx(path, file)


def _check_digest(digest: str, file: DataFile) -> None:
    if digest != file.sha256:
        raise UnsoundError(f"is altered (sha256 of its content {digest[:12]}..., not {file.sha256[:12]}...)")


def _read_idx(path: Path, file: DataFile) -> Content:
    header, size = idx_header(file.shape), file.most_bytes
    # One byte more than it should have shows that it is too long, whatever a .gz may unpack to.
    with path.open("rb") as stream:
        content = b"".join(gunzipped(stream, size + 1)) if path.suffix == ".gz" else stream.read(size + 1)
    if content[: len(header)] != header[: len(content)]:
        shape = "x".join(map(str, file.shape))
        raise UnsoundError(f"is altered (it does not begin with the IDX header of {shape} bytes)")
    if len(content) < size:
        raise UnsoundError(f"is cut short ({len(content)} of {size} bytes)")
    if len(content) > size:
        raise UnsoundError(f"is altered (longer than its {size} bytes)")
    _check_digest(hashlib.sha256(content).hexdigest(), file)
    values = np.frombuffer(content, np.uint8, offset=len(header)).reshape(file.shape)
    return Content(values[..., None], None) if file.kind == "images" else Content(None, values)


def _read_batch(path: Path, file: DataFile) -> Content:
    count = file.shape[0]
    with path.open("rb") as stream:
        content = stream.read(file.most_bytes + 1)
    if len(content) > file.most_bytes:
        raise UnsoundError(f"is altered (longer than the {file.most_bytes} bytes that such a batch has at most)")
    entry = unpickled(content, _STEPS_PER_IMAGE * count + _STEPS)
    if not isinstance(entry, dict):
        raise UnsoundError("is altered (its pickle is no dictionary)")
    data = _array(entry.get("data"), count, math.prod(file.shape[1:]))
    labels = _labels(entry.get("labels"), count)
    digest = hashlib.sha256(np.ascontiguousarray(data).data)
    digest.update(labels.data)
    _check_digest(digest.hexdigest(), file)
    return Content(data.reshape(file.shape).transpose(0, 2, 3, 1), labels)


def _array(made: Any, count: int, row: int) -> NDArray[np.uint8]:
    """The array of count x row bytes that a pickle's call describes, over the pickle's own bytes."""
    shape, kind, order, content = _described(made)
    as_bytes = isinstance(kind, Call) and kind.function == DTYPE and kind.arguments[:1] in (("u1",), ("|u1",))
    # A byte string of Python 2, if it is short, was taken for text.
    raw = content.encode("latin-1", "replace") if isinstance(content, str) else content
    fits = isinstance(shape, tuple) and shape == (count, row) and isinstance(raw, bytes | memoryview)
    if not as_bytes or not fits or len(raw) != count * row:
        raise UnsoundError(f"is altered (no {count}x{row} array of bytes under 'data')")
    return np.frombuffer(raw, np.uint8).reshape((count, row), order="F" if order else "C")


def _described(made: Any) -> tuple[Any, Any, bool, Any]:
    """Shape, kind of elements, whether columns come first, and bytes of an array; all None where it is none."""
    if isinstance(made, Call):
        if made.function in RECONSTRUCT and isinstance(made.state, tuple) and len(made.state) == 5:
            _, shape, kind, columns_first, content = made.state
            return shape, kind, bool(columns_first), content
        if made.function in FROM_BUFFER and len(made.arguments) == 4:
            content, kind, shape, order = made.arguments
            return shape, kind, order == "F", content
    return None, None, False, None


def _labels(labels: Any, count: int) -> NDArray[np.uint8]:
    try:
        label_bytes = bytes(labels) if isinstance(labels, list) else b""
    except (TypeError, ValueError, OverflowError):
        raise UnsoundError("is altered (its labels are not a list of bytes)") from None
    if len(label_bytes) != count:
        raise UnsoundError(f"is altered ({len(label_bytes)} labels, not {count})")
    return np.frombuffer(label_bytes, np.uint8)


def write_batch(path: Path, data: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Write a CIFAR-10 batch: `data` (n, 3072) in the order R plane, G plane, B plane, and `labels` (n,).

    The pickle's keys are of type str under every encoding that a reader asks for. Raises OSError where `path`
    cannot be written.
    """
    with path.open("wb") as stream:
        pickle.dump({"data": data, "labels": labels.tolist()}, stream, protocol=4)
