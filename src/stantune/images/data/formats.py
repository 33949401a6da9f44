"""The data sets' file formats, IDX and CIFAR-10's Python batches, read with every byte checked."""

from __future__ import annotations

import gzip
import hashlib
import math
import pickle
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stantune.images.data.catalog import DataFile


class UnsoundError(ValueError):
    """A file is not what it should be; the message is a predicate such as "is cut short (3 of 16 bytes)"."""


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


def idx_header(shape: tuple[int, ...]) -> bytes:
    """The IDX header of a uint8 array: 0, 0, type 8, number of dimensions, each size as big-endian int32."""
    return bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape)


def _read_idx(path: Path, file: DataFile) -> Content:
    header = idx_header(file.shape)
    size = len(header) + math.prod(file.shape)
    try:
        # One byte more than it should have shows that it is too long, whatever a .gz may unpack to.
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(size + 1)
    except EOFError:
        raise UnsoundError("is cut short (its gzip stream ends early)") from None
    except (gzip.BadGzipFile, zlib.error):
        raise UnsoundError("is altered (not a sound gzip file)") from None
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


def _dtype(name: str, align: int = 0, copy: int = 0) -> np.dtype[Any]:
    # Python 2 pickled the two flags as integers, at which NumPy 2.4 began to warn.
    return np.dtype(name, bool(align), bool(copy))


# NumPy's private functions that rebuild an array (by pickle protocol), taken from an array itself because the
# module that holds them was renamed in NumPy 2.
_RECONSTRUCT = np.empty(1, np.uint8).__reduce_ex__(2)[0]
_FROM_BUFFER = np.empty(1, np.uint8).__reduce_ex__(5)[0]
_ADMITTED: dict[str, Any] = {
    "numpy.core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy._core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy.core.numeric._frombuffer": _FROM_BUFFER,
    "numpy._core.numeric._frombuffer": _FROM_BUFFER,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": _dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what rebuilding a NumPy array needs and no more: a pickle can otherwise run any function."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ADMITTED:
            raise UnsoundError(f"is altered (its pickle asks for {module}.{name}, which no CIFAR-10 batch holds)")
        return _ADMITTED[f"{module}.{name}"]


def _read_batch(path: Path, file: DataFile) -> Content:
    with path.open("rb") as stream:
        try:
            # latin1: the strings of Python 2, which wrote the official files, serve as text and array bytes.
            entry = _ArrayUnpickler(stream, encoding="latin1").load()
        except (UnsoundError, OSError):
            raise
        except EOFError:
            raise UnsoundError("is cut short (its pickle ends early)") from None
        except Exception as error:  # a damaged pickle fails in any way: KeyError, MemoryError...
            reason = "is cut short" if "truncated" in str(error) else "is altered"
            raise UnsoundError(f"{reason} (not a sound pickle: {type(error).__name__})") from None
    count, row = file.shape[0], math.prod(file.shape[1:])
    data = entry.get("data") if isinstance(entry, dict) else None
    labels = entry.get("labels") if isinstance(entry, dict) else None
    if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape == (count, row)):
        raise UnsoundError(f"is altered (no {count}x{row} array of bytes under 'data')")
    try:
        label_bytes = np.frombuffer(bytes(labels if isinstance(labels, list) else ()), np.uint8)
    except (TypeError, ValueError):
        raise UnsoundError("is altered (its labels are not a list of bytes)") from None
    if len(label_bytes) != count:
        raise UnsoundError(f"is altered ({len(label_bytes)} labels, not {count})")
    digest = hashlib.sha256(np.ascontiguousarray(data).data)
    digest.update(label_bytes.data)
    _check_digest(digest.hexdigest(), file)
    return Content(data.reshape(file.shape).transpose(0, 2, 3, 1), label_bytes)


def write_batch(path: Path, data: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Write a CIFAR-10 batch: `data` (n, 3072) in the order R plane, G plane, B plane, and `labels` (n,).

    The pickle's keys are of type str under every encoding that a reader asks for. Raises OSError where `path`
    cannot be written.
    """
    with path.open("wb") as stream:
        pickle.dump({"data": data, "labels": labels.tolist()}, stream, protocol=4)
