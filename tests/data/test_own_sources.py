"""Images in folders and torch Datasets become splits: in order, whole, and with a word where they cannot."""

from __future__ import annotations

import errno
import multiprocessing
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_folders import broken_at
from PIL import EpsImagePlugin, Image

from stantune.errors import DataError, StanWarning, UsageError
from stantune.images.data import ImageFolder, from_torch
from stantune.images.data.reading import torch_data as module
from stantune.images.data.reading.folders import ENDINGS


def picture(path: Path, value: int, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)


def test_folders_are_classes_in_order(tmp_path: Path) -> None:
    for number, name in enumerate(("train/b/2.png", "train/a/1.png", "train/b/10.PNG", "train/a/deep/0.bmp")):
        picture(tmp_path / name, 10 * number)
    picture(tmp_path / "val/b/x.png", 99, (20, 20))
    (tmp_path / "train/b/notes.txt").write_text("no image")
    (tmp_path / "train/empty").mkdir()
    data = ImageFolder(tmp_path, 4)()
    assert (data.name, data.classes) == (tmp_path.name, 2)
    assert data.train.inputs.shape == (4, 4, 4, 3)
    assert data.train.targets.tolist() == [0, 0, 1, 1]
    assert data.train.inputs[:, 0, 0, 0].tolist() == [10, 30, 20, 0]
    assert (data.test.targets.tolist(), int(data.test.inputs[0, 0, 0, 0])) == ([1], 99)


def test_folders_of_classes_alone_have_no_test_images(tmp_path: Path) -> None:
    picture(tmp_path / "pets/cat/1.png", 5)
    picture(tmp_path / "pets/dog/1.png", 6)
    data = ImageFolder("pets", (3, 5), grey=True)(tmp_path)
    assert (data.train.inputs.shape, len(data.test)) == ((2, 3, 5, 1), 0)
    assert data.train.inputs[:, 0, 0, 0].tolist() == [5, 6]


@pytest.mark.parametrize(("train", "test"), [("Training", "Testing"), ("Train", "Val"), ("TRAIN", "test")])
def test_parts_are_known_however_they_are_written(train: str, test: str, tmp_path: Path) -> None:
    for part, number in ((train, 2), (test, 1)):
        for name in "ab":
            for place in range(number):
                picture(tmp_path / part / name / f"{place}.png", 5)
    data = ImageFolder(tmp_path, 4)()
    assert (data.classes, data.train.targets.tolist(), data.test.targets.tolist()) == (2, [0, 0, 1, 1], [0, 1])


def test_parts_by_other_names_are_no_classes(tmp_path: Path) -> None:
    for part in ("seg_train", "seg_test"):
        for name in "ab":
            picture(tmp_path / part / name / "1.png", 5)
    with pytest.raises(UsageError, match=r"seg_test and seg_train in it hold the same folders.*rename them"):
        ImageFolder(tmp_path, 4)()


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_images_of_sixteen_bits_keep_their_levels(grey: bool, ending: str, tmp_path: Path) -> None:
    ramp = np.arange(0, 65536, 16, np.uint16).reshape(64, 64)
    (tmp_path / "a").mkdir()
    Image.fromarray(ramp).save(tmp_path / f"a/1.{ending}")
    data = ImageFolder(tmp_path, 64, grey=grey)()
    assert np.array_equal(data.train.inputs[0, :, :, 0].numpy(), (ramp >> 8).astype(np.uint8))


def test_images_that_eight_bits_do_not_hold_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    file = tmp_path / "a/1.tif"
    for values in (np.full((4, 4), 70_000, np.int32), np.full((4, 4), 0.5, np.float32)):
        Image.fromarray(values).save(file)
        with pytest.raises(DataError, match=r"a/1\.tif .*have more than 8 bits; convert it to 8"):
            ImageFolder(tmp_path, 4)()


def test_transparent_images_are_told_of(tmp_path: Path) -> None:
    """Beneath what is transparent lies anything, mostly black: shapes that are in it alone are lost."""
    (tmp_path / "a").mkdir()
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[..., 0] = 7
    Image.fromarray(pixels).save(tmp_path / "a/1.png")
    assert ImageFolder(tmp_path, 4)().train.inputs[0, 0, 0].tolist() == [7, 255, 255]
    pixels[0, 0, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a/2.png")
    Image.new("P", (4, 4)).save(tmp_path / "a/3.gif", transparency=0)
    with pytest.warns(StanWarning, match=r"2 of 3 images in .* are transparent in parts, .*a/2\.png the first"):
        assert ImageFolder(tmp_path, 4)().train.inputs[1, 0, 0].tolist() == [7, 255, 255]


def test_classes_may_have_folders_of_equal_names_and_names_in_capitals(tmp_path: Path) -> None:
    for name in ("n01", "n02"):
        picture(tmp_path / "one" / name / "images/1.png", 5)
    for name in ("Bus", "Car", "Train"):
        picture(tmp_path / "two" / name / "1.png", 5)
    for name in ("Bus", "Car", "Train"):
        picture(tmp_path / "four" / name / "images/1.png", 5)
    for name in ("train", "Train", "val", "testing"):
        for number in range(3 if name == "train" else 1):
            picture(tmp_path / "three" / name / f"{name if name in ('Train',) else 'a'}/{number}.png", 5)
    assert [ImageFolder(tmp_path / name, 4)().classes for name in ("one", "two", "four")] == [2, 3, 3]
    picture(tmp_path / "five/Samples/1.png", 5)
    for name in "ab":
        picture(tmp_path / "five/Train" / name / "1.png", 5)
    assert ImageFolder(tmp_path / "five", 4)().classes == 2
    for number, name in enumerate(("Bus", "Car", "Train")):
        picture(tmp_path / "six" / name / f"video{number}/1.png", 5)
    with pytest.raises(UsageError, match=r"six/Train may hold the training images or be a class, as (Bus|Car) beside"):
        ImageFolder(tmp_path / "six", 4)()
    for name in ("Train", "Val", "Unlabelled"):
        picture(tmp_path / "seven" / name / ("x" if name == "Unlabelled" else "a") / "1.png", 5)
    assert ImageFolder(tmp_path / "seven", 4)().classes == 1
    third = ImageFolder(tmp_path / "three", 4)()
    assert (third.classes, len(third.train)) == (1, 3)


def test_numbers_of_a_palette_are_no_colours() -> None:
    with pytest.raises(UsageError, match=r"sample 0 of list is an image with a palette.*convert"):
        from_torch([(Image.new("P", (4, 4)), 0)])


def test_folders_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder nowhere; give ImageFolder the one that holds"):
        ImageFolder("nowhere", 4)()
    with pytest.raises(UsageError, match="has no folders with images; put those of each class into a folder"):
        ImageFolder(tmp_path, 4)()
    picture(tmp_path / "train/a/1.png", 5)
    (tmp_path / "test/a").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"test has no folders with images; put those .* of its own, or take it away"):
        ImageFolder(tmp_path, 4)()
    picture(tmp_path / "test/b/1.png", 5)
    with pytest.raises(UsageError, match=r"has a class 'b' that .*train lacks; add it there, or remove it here"):
        ImageFolder(tmp_path, 4)()
    (tmp_path / "train/b").mkdir()
    (tmp_path / "train/b/1.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"1.png is no image that can be read .*: repair it, or take it out"):
        ImageFolder(tmp_path, 4)()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize("place", ["", "train", "train/b", "train/b/deep"])
def test_no_class_is_left_out_because_it_cannot_be_read(
    place: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "train/b/deep/2.png"):
        picture(tmp_path / name, 5)
    (tmp_path / "train/a/around").symlink_to(tmp_path)
    assert len(ImageFolder(tmp_path, 4)().train) == 3
    broken_at(monkeypatch, tmp_path / place, number)
    with pytest.raises(DataError, match=rf"^{tmp_path / place} cannot be read \(.*\), so that images may be missed"):
        ImageFolder(tmp_path, 4)()


class Squares(torch.utils.data.Dataset):
    def __init__(self, count: int = 40) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int, str]:
        return torch.full((3, 2, 2), float(place)), place * place, "more"


@pytest.mark.parametrize("worth", [1e9, -1.0])
def test_a_torch_data_set_is_read_in_order(worth: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_SECONDS", worth)
    monkeypatch.setattr(module, "MOST_WORKERS", 2)
    split = from_torch(Squares())
    assert split.inputs.shape == (40, 2, 2, 3)
    assert split.inputs[:, 0, 0, 0].tolist() == list(range(40))
    assert split.targets.tolist() == [place**2 for place in range(40)]
    rows = from_torch(Squares(), lambda sample: (sample[0].flatten(), sample[0].mean()))
    assert (rows.inputs.shape, rows.targets.dtype) == ((40, 12), torch.float32)


def test_a_split_is_in_this_machines_memory() -> None:
    """Wherever tensors are made by default."""
    with torch.device("meta"):
        split = from_torch([(np.zeros(3), 1), (torch.ones(3, dtype=torch.float64, device="cpu"), 2)])
    assert (split.inputs.device.type, split.targets.device.type) == ("cpu", "cpu")
    assert split.targets.tolist() == [1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_reading_by_workers_needs_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker sends takes a file for as long as it lives; where 1024 are allowed, a thousand samples do not."""
    import resource

    monkeypatch.setattr(module, "WORTH_SECONDS", -1.0)
    monkeypatch.setattr(module, "MOST_WORKERS", 2)
    monkeypatch.setattr(module, "BATCH", 8)
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(number) for number in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 60, allowed[1]))
    try:
        split = from_torch(Squares(300))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
    assert split.targets.tolist() == [place**2 for place in range(300)]


def scripts_own(sample: tuple) -> tuple:
    return sample[:2]


@pytest.mark.parametrize(
    ("system", "convert", "workers"),
    [
        ("linux", lambda sample: sample[:2], 2),
        ("darwin", lambda sample: sample[:2], 0),
        ("darwin", scripts_own, 0),
        ("darwin", module.first_two, 2),
    ],
)
def test_what_cannot_be_sent_to_workers_is_read_here(
    system: str, convert: module.Convert, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def loader(read: object, batch: int, *, num_workers: int = 0, **options: object) -> torch.utils.data.DataLoader:
        asked.append(num_workers)
        return torch.utils.data.DataLoader(read, batch, num_workers=num_workers, **options)

    monkeypatch.setattr(module, "WORTH_SECONDS", -1.0)
    monkeypatch.setattr(module, "MOST_WORKERS", 2)
    monkeypatch.setattr(module, "usable_cores", lambda: 8)
    monkeypatch.setattr(module, "DataLoader", loader)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(sys.modules["__main__"], "scripts_own", scripts_own, raising=False)
    monkeypatch.setattr(scripts_own, "__module__", "__main__")
    split = from_torch(Squares(20), convert)
    assert split.targets.tolist() == [place**2 for place in range(20)]
    assert asked == [workers]


SCRIPT = """
import multiprocessing
import torch
from stantune.images.data.reading import torch_data as module

print("runs", flush=True)
multiprocessing.set_start_method("forkserver", force=True)
module.WORTH_SECONDS = -1.0

class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, place):
        return torch.zeros(2), place * place

print(module.from_torch(Squares()).targets.tolist())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="where processes are copies of this one")
def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    """Whatever Python's way of starting processes; that of 3.14 runs it once more in each."""
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == (f"runs\n{[place**2 for place in range(20)]}\n", "")


@pytest.mark.parametrize(
    ("chosen", "asked"),
    [
        (None, {"multiprocessing_context": "fork"}),
        # Python's default from 3.14 on, as a process has it that was started so.
        ("forkserver", {"multiprocessing_context": "fork"}),
        ("fork", {"multiprocessing_context": "fork"}),
        ("spawn", {}),
    ],
)
def test_a_way_to_start_processes_that_was_chosen_stays(
    chosen: str | None, asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose reader hangs in copies has chosen another one."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["forkserver", "fork", "spawn"])
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: chosen)
    assert module._workers(module._Reading([(1, 2)], module.first_two)) == {"num_workers": 2, **asked}


class Elsewhere(Squares):
    """Not to be had by another process."""

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int, str]:
        if torch.utils.data.get_worker_info() is not None:
            os._exit(3)
        return super().__getitem__(place)


class Sometimes(Squares):
    """Not to be had by another process from some sample on; notes which are read here."""

    def __init__(self) -> None:
        super().__init__(60)
        self.here: list[int] = []

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int, str]:
        if torch.utils.data.get_worker_info() is None:
            self.here.append(place)
        elif place >= 40:
            raise OSError("a file that is not to be had here")
        return super().__getitem__(place)


def test_what_workers_have_sent_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_SECONDS", -1.0)
    monkeypatch.setattr(module, "BATCH", 8)
    data = Sometimes()
    assert from_torch(data).targets.tolist() == [place**2 for place in range(60)]
    assert data.here == [*range(module.TRIED), *range(40, 60)]


def test_what_workers_fail_at_is_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_SECONDS", -1.0)
    assert from_torch(Elsewhere(20)).targets.tolist() == [place**2 for place in range(20)]
    with pytest.raises(UsageError, match=r"^sample 18 of list is an image with a palette"):
        from_torch([(Image.new("P" if place == 18 else "L", (4, 4)), 0) for place in range(20)])
    # As in a process that runs an unguarded script once more, which is not to go on there.
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RuntimeError):
        from_torch(Elsewhere(20))


def test_shapes_that_differ_are_told_of_workers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_SECONDS", -1.0)
    monkeypatch.setattr(module, "MOST_WORKERS", 2)
    for batch in (4, 256):
        monkeypatch.setattr(module, "BATCH", batch)
        samples = [(torch.zeros(3 + (place >= 24)), 1) for place in range(32)]
        with pytest.raises(UsageError, match=r"the samples of list do not make one tensor \(.*\); have each") as error:
            from_torch(samples)
        assert "Traceback" not in str(error.value)


def test_other_things_are_refused() -> None:
    with pytest.raises(UsageError, match=r"the samples of list do not make one tensor .*; have each of the same shape"):
        from_torch([])
    with pytest.raises(UsageError, match="a generator has no length or no samples by index; give a map-style Dataset"):
        from_torch(each for each in range(3))
    with pytest.raises(UsageError, match=r"the samples of list do not make one tensor .*; have each of the same shape"):
        from_torch([(torch.zeros(3), 1), (torch.zeros(4), 1)])


EPS = """%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 6 4
%%EndComments
%%EndProlog
showpage
%%EOF
"""


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_program_unpacks_what_is_called_an_image(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a/1.png", 9)
    (tmp_path / f"a/2{ending}").write_text(EPS)
    started = []
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *given, **named: started.append(given) or Image.new("RGB", (6, 4)).im
    )
    with pytest.raises(DataError, match=f"2{ending} is no image that can be read"):
        ImageFolder(tmp_path, 4)()
    assert started == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_each_ending_s_format_is_read_by_whichever_ending_it_has(ending: str, tmp_path: Path) -> None:
    picture(tmp_path / f"a/1{ending}", 96)
    (tmp_path / f"a/1{ending}").rename(tmp_path / "a/1.png")
    assert (ImageFolder(tmp_path, 4)().train.inputs.int() - 96).abs().max() <= 1


def test_photographs_that_hold_a_second_one_are_read(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (6, 4), (value, value, value)) for value in (96, 7)]
    (tmp_path / "a").mkdir()
    pictures[0].save(tmp_path / "a/1.jpg", "MPO", save_all=True, append_images=pictures[1:])
    assert Image.open(tmp_path / "a/1.jpg").format == "MPO"
    assert (ImageFolder(tmp_path, 4)().train.inputs.int() - 96).abs().max() <= 1


def test_an_image_of_400_megapixels_is_told_and_not_unpacked(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    (tmp_path / "a").mkdir()
    # 50 MB of zeros, 50 KB of a file: black and white, 20 000 x 20 000.
    rows = zlib.compress(bytes(20_000 * 2_501), 9)
    header = struct.pack(">2I5B", 20_000, 20_000, 1, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "a/1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(
        DataError, match=r"1.png is no image that can be read \(Image size \(400000000 pixels\) exceeds"
    ):
        ImageFolder(tmp_path, 4)()


def test_folders_below_that_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    picture(tmp_path / "pets/cat/1.png", 5)
    for root in (None, tmp_path / "elsewhere"):
        assert ImageFolder("~/pets", 4)(root).name == "pets"
    with pytest.raises(UsageError, match="there is no folder ~nosuchuser/pets"):
        ImageFolder("~nosuchuser/pets", 4)()
