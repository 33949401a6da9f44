"""Loading: what comes out of the files, the real data sets' known facts, and one sentence for all that is wrong."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stantune.errors import DataError, UsageError
from stantune.images.data import NAMES, Dataset, Split, data_root, hold_out, is_present, load


def numbered(count: int) -> Split:
    return Split(torch.zeros(count, 2, 2, 1, dtype=torch.uint8), torch.arange(count) % 10, torch.arange(count))


@pytest.mark.parametrize("fixture", ["tiny", "tiny_batches"])
def test_load_gives_images_labels_and_ids_in_file_order(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data = request.getfixturevalue(fixture)
    data.write(tmp_path / "root")
    loaded = load(data.description.name, tmp_path / "root")
    assert (loaded.name, loaded.classes) == (data.description.name, 10)
    for part, split in (("train", loaded.train), ("test", loaded.test)):
        assert split.images.is_contiguous()
        assert split.images.permute(0, 3, 1, 2).is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(split.images.numpy(), data.images[part])
        assert split.labels.tolist() == data.labels[part].tolist()
        assert split.ids.tolist() == list(range(len(data.labels[part])))


def test_load_accepts_gz_beside_plain_files(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path)
    name = tiny.description.files[0].name
    (folder / f"{name}.gz").write_bytes(gzip.compress(tiny.contents[name]))
    (folder / name).unlink()
    assert is_present("tiny", tmp_path)
    assert np.array_equal(load("tiny", tmp_path).train.images.numpy(), tiny.images["train"])


def test_what_is_missing_is_told_with_the_command(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.write(tmp_path / "a b")
    (folder / "train-labels").unlink()
    assert not is_present("tiny", tmp_path / "a b")
    with pytest.raises(DataError) as caught:
        load("tiny", tmp_path / "a b")
    command = f"`stantune data fetch tiny --data '{tmp_path / 'a b'}'`"
    assert str(caught.value) == f"tiny is not in {folder} (train-labels is missing): run {command}."
    monkeypatch.setenv("STANTUNE_DATA", str(tmp_path / "a b"))
    with pytest.raises(DataError, match=r"run `stantune data fetch tiny`\.$"):
        load("tiny")


@pytest.mark.parametrize(
    ("damage", "told"), [(lambda b: b[:-1], "is cut short"), (lambda b: b[:-1] + b"\0", "is altered")]
)
def test_a_damaged_file_is_named_with_the_remedy(damage: Any, told: str, tiny: Any, tmp_path: Path) -> None:
    path = tiny.write(tmp_path) / "test-images"
    assert path.read_bytes()[-1] != 0
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        load("tiny", tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path} {told} (")
    assert "): delete it and run `stantune data fetch tiny" in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_named(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"train-images cannot be read \(Permission denied\)"):
        load("tiny", tmp_path)


@pytest.mark.parametrize("call", [load, is_present])
def test_an_unknown_name_is_refused_with_the_nearest(call: Any) -> None:
    with pytest.raises(UsageError, match=r"no data set 'minst' \(did you mean 'mnist'\?\)") as caught:
        call("minst")
    assert all(name in str(caught.value) for name in NAMES)


def test_data_root_is_argument_then_variable_then_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STANTUNE_DATA", str(tmp_path / "variable"))
    assert data_root(tmp_path / "argument") == tmp_path / "argument"
    assert data_root() == tmp_path / "variable"
    monkeypatch.setenv("STANTUNE_DATA", "")
    assert data_root() == Path(platformdirs.user_cache_dir("stantune")) / "data"
    assert data_root("~/x") == Path.home() / "x"


@given(count=st.integers(1, 50), data=st.data())
def test_hold_out_takes_the_last_images(count: int, data: st.DataObject) -> None:
    validation = data.draw(st.integers(0, count - 1))
    train, held = hold_out(numbered(count), validation)
    assert train.ids.tolist() == list(range(count - validation))
    assert held.ids.tolist() == list(range(count - validation, count))
    assert train.labels.tolist() == [i % 10 for i in range(count - validation)]


@pytest.mark.parametrize("validation", [-1, 10, 11])
def test_hold_out_leaves_something_to_train_on(validation: int) -> None:
    with pytest.raises(UsageError, match=f"cannot hold out {validation} of 10 .* choose 0 to 9"):
        hold_out(numbered(10), validation)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 11)])
def test_take_refuses_what_is_not_there(start: int, stop: int) -> None:
    with pytest.raises(UsageError, match=f"samples {start} to {stop}"):
        numbered(10).take(start, stop)


def test_mnist_is_mnist(mnist: Dataset) -> None:
    assert mnist.train.images.shape == (60000, 28, 28, 1)
    assert mnist.test.images.shape == (10000, 28, 28, 1)
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    # The mean and deviation that are used everywhere to normalise MNIST.
    pixels = mnist.train.images.float() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)


def test_cifar10_is_cifar10(cifar10: Dataset) -> None:
    assert cifar10.train.images.shape == (50000, 32, 32, 3)
    assert cifar10.test.images.shape == (10000, 32, 32, 3)
    assert cifar10.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert cifar10.test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert torch.bincount(cifar10.train.labels).tolist() == [5000] * 10
    assert torch.bincount(cifar10.test.labels).tolist() == [1000] * 10
    # The channel means (red, green, blue) that are used everywhere to normalise CIFAR-10.
    means = torch.stack([image.double().mean((0, 1, 2)) for image in cifar10.train.images.split(5000)]).mean(0) / 255
    assert means.tolist() == pytest.approx([0.49139968, 0.48215841, 0.44653091], abs=5e-9)
    # Image 0 is a frog on brown ground; its first pixels are published with many tutorials.
    assert cifar10.train.images[0, 0, :2].tolist() == [[59, 62, 63], [43, 46, 45]]


def test_importing_needs_no_image_library_and_no_search() -> None:
    code = "import sys, stantune.images.data; print([m for m in ('PIL', 'optuna', 'sqlalchemy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
