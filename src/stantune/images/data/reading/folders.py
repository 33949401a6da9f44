"""Images in folders, one folder for each class, as torchvision's ImageFolder has them; read once, into memory."""

from __future__ import annotations

import os
import re
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from stantune.arguments import truth
from stantune.errors import DataError, StanWarning, UsageError
from stantune.files import all_below, mode_of
from stantune.images.data.splits import Dataset, Split

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# What files with these endings hold. Pillow goes by their content, and has a program unpack some other formats.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
TRAIN = ("train", "training")
TEST = ("test", "val", "valid", "validation", "testing")


@dataclass(frozen=True)
class ImageFolder:
    """A data set of images in folders, for a problem's `data`: ROOT/train/CLASS/… and ROOT/test/CLASS/….

    Where ROOT has no folder "train", its folders are the classes, and there are no test images. Classes are numbered by
    their folders' names, in order; so are images, by their paths. As torchvision's does, it leaves images as a camera
    held them, whatever their EXIF says.

    Attributes:
        path: ROOT; relative to where the command runs, or to --data where that is given.
        size: height and width that images are resized to; an image is cut to that shape first, around its middle.
        grey: whether one channel is kept, and not three.
    """

    path: Path | str
    size: tuple[int, int] | int
    grey: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError where `grey` is something else: any text would count as true."""
        truth("grey", self.grey)

    def __call__(self, root: Path | None = None) -> Dataset:
        """Read all images.

        Raises:
            UsageError: there is no such folder, it or test in it holds no classes, or test one that train lacks; or
                what would be classes are parts that have the same ones.
            DataError: a file is no image, or one of which eight bits of each channel are not all; or a folder cannot
                be read.
        """
        from PIL import Image  # noqa: F401  (slow to import, and needed here only: missing, it is missed now)

        path = (root or Path()) / os.path.expanduser(self.path)
        try:
            return self._read(path)
        except OSError as error:
            raise DataError(
                f"{error.filename or path} cannot be read ({error.strerror or error}), so that images may be missed; "
                "mend that, or have the classes in a folder without it"
            ) from error

    def _read(self, path: Path) -> Dataset:
        if not _is_folder(path):
            raise UsageError(f"there is no folder {path}; give ImageFolder the one that holds train/CLASS/… or CLASS/…")
        train = _train(path) or path
        test = _part(path, TEST) if train != path else None
        classes = _classes(train)
        if train == path and (parts := _parts(path, classes)):
            raise UsageError(
                f"{path} has no folder train, and {parts[0]} and {parts[1]} in it hold the same folders, which look "
                f"like the classes: rename them to train and test, or give ImageFolder {path / parts[0]}"
            )
        if not classes:
            raise UsageError(f"{train} has no folders with images; put those of each class into a folder of its own")
        if test is not None:
            tested = _classes(test)
            if not tested:
                raise UsageError(
                    f"{test} has no folders with images; put those of each class into a folder of its own, or take it "
                    "away"
                )
            if other := [name for name in tested if name not in classes]:
                raise UsageError(f"{test} has a class {other[0]!r} that {train} lacks; add it there, or remove it here")
        read = self._split(train, classes)
        held = read.take(0, 0) if test is None else self._split(test, classes)
        return Dataset(path.name, read, held, len(classes))

    def _split(self, folder: Path, classes: list[str]) -> Split:
        # Among the test images a class may have no folder.
        places = [(folder / name, label) for label, name in enumerate(classes) if _is_folder(folder / name)]
        files = [(file, label) for place, label in places for file in _images(place)]
        # Decoders work outside of Python's lock.
        with ThreadPoolExecutor() as pool:
            pixels, transparent = zip(*pool.map(self._pixels, [file for file, _ in files]), strict=True)
        if any(transparent):
            first, _ = files[transparent.index(True)]
            warnings.warn(
                f"{sum(transparent)} of {len(files)} images in {folder} are transparent in parts, {first} the first, "
                "and what is beneath counts, which may be anything; put them on a background",
                StanWarning,
                stacklevel=4,
            )
        return Split(torch.from_numpy(np.stack(pixels)), torch.tensor([label for _, label in files], device="cpu"))

    def _pixels(self, file: Path) -> tuple[np.ndarray, bool]:
        """Return an image's pixels, (H, W, C), and whether it is transparent in parts."""
        from PIL import Image, ImageOps

        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        try:
            with Image.open(file, formats=_FORMATS) as image:
                transparent = _is_transparent(image)
                fitted = ImageOps.fit(_in_eight_bits(image).convert("L" if self.grey else "RGB"), (width, height))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{file} is no image that can be read ({error}): repair it, or take it out") from None
        return np.asarray(fitted).reshape(height, width, -1), transparent


def _in_eight_bits(image: Image) -> Image:
    """Return an image that converting loses nothing of; raises ValueError where there is none."""
    from PIL.Image import fromarray

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # Of 16 bits, as Pillow has had them in either mode. Converting would cut off what is above 255.
        return fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its numbers, of mode {image.mode}, have more than 8 bits; convert it to 8")
    return image


def _is_transparent(image: Image) -> bool:
    """Tell whether something of what is read of an image is not to be seen."""
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return False
    least, _ = image.convert("RGBA").getchannel("A").getextrema()
    return bool(least < 255)  # type: ignore[operator]


def _train(path: Path) -> Path | None:
    """Return the folder with the training images; None where ROOT's folders are the classes."""
    found = _part(path, TRAIN)
    if found is None or found.name in TRAIN or _part(path, TEST):
        return found
    # In capitals it may be a class itself, beside others whose images lie in folders, too.
    others = [each for each in path.iterdir() if each.name.casefold() not in (*TRAIN, *TEST) and _is_folder(each)]
    alike = [other for other in others if _classes(other) and not _has_images(other)]
    if alike and any(_classes(other) != _classes(found) for other in alike):
        raise UsageError(
            f"{found} may hold the training images or be a class, as {alike[0].name} beside it: rename it to train, "
            "or put all classes into a folder train"
        )
    return None if alike else found


def _part(path: Path, names: tuple[str, ...]) -> Path | None:
    """Return the folder with one of these names; in capitals, too, where there is none and it cannot be a class."""
    if found := next((path / name for name in names if _is_folder(path / name)), None):
        return found
    inner = sorted(each for each in path.iterdir() if each.name.casefold() in names and _is_folder(each))
    inner.sort(key=lambda each: names.index(each.name.casefold()))
    return next((each for each in inner if not _has_images(each) and _classes(each)), None)


def _parts(folder: Path, classes: list[str]) -> tuple[str, str] | None:
    """Return two of the classes that are parts of a data set, by their names and by the same classes in both."""
    within: dict[frozenset[str], str] = {}
    for name in classes:
        if set(re.split(r"[^a-z]+", name.casefold())) & {*TRAIN, *TEST} and not _has_images(folder / name):
            own = frozenset(_classes(folder / name))
            if own in within:
                return within[own], name
            within[own] = name
    return None


def _has_images(folder: Path) -> bool:
    return any(map(_is_image, folder.iterdir()))


def _classes(folder: Path) -> list[str]:
    return sorted(inner.name for inner in folder.iterdir() if _is_folder(inner) and _images(inner))


def _images(folder: Path) -> list[Path]:
    return list(filter(_is_image, all_below(folder)))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and stat.S_ISREG(mode_of(file))


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(mode_of(path))
