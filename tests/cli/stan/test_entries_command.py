"""`stantune entries`, run for real on a problem that trains in a blink."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from stantune.report.stan.entries_result import EntriesResult
from stantune.seeds import derive

Stantune = Callable[..., Any]


@pytest.fixture
def entries(stantune: Stantune, tiny_file: Path, tmp_path: Path) -> Callable[..., Any]:
    """Runs the command on two images of the tiny problem; its picture is in picture.png."""

    def run(*options: object) -> Any:
        given = ("--images", 2, "--threads", 1, "--out", tmp_path / "picture.png", "--json", "-")
        return stantune("entries", f"{tiny_file}:problem", *given, *options)

    return run


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the drawing, which takes longer than all else."""
    monkeypatch.setattr("stantune.report.stan.entries_picture.draw_entries", lambda *arguments: None)
    monkeypatch.setattr("stantune.report.stan.entries_picture.png", lambda figure: b"")


def test_picture_and_figures(entries: Callable[..., Any], tmp_path: Path) -> None:
    run = entries("--iterations", 11)
    assert run.code == 0, run.err
    result = EntriesResult.model_validate_json(run.out)
    assert (result.problem, result.seed, result.rate, result.tolerance) == ("tiny", 0, 0.5, None)
    assert result.trained == 11
    assert result.iteration == 13, "11 lies in the cycle of the refresh 10; the next one is 12"
    (layer,) = result.layers
    assert layer.name == "1"
    assert layer.pattern == "columns"
    assert (layer.height, layer.width, layer.kept) == (8, 8, 0.5)
    assert 0.05 < layer.error < 1
    assert min(layer.image_errors) <= layer.error <= max(layer.image_errors)
    assert result.left_alone == []
    assert len(set(result.image_ids)) == 2
    assert result.picture == str(tmp_path / "picture.png")
    assert Image.open(tmp_path / "picture.png").format == "PNG"
    assert "after 11 iterations of training" in run.err
    assert f"{layer.error:.3f}" in run.err
    assert "picture in " in run.err


@pytest.mark.usefixtures("undrawn")
def test_seed_rate_pattern_and_images(entries: Callable[..., Any]) -> None:
    def figures(*options: object) -> Any:
        return entries("--iterations", 0, *options).json

    whole = figures()
    assert (whole["trained"], whole["iteration"]) == (0, 1)
    assert figures() == whole
    other = figures("--seed", 1)
    assert other["image_ids"] != whole["image_ids"]
    assert other["layers"] != whole["layers"]
    quarter = figures("--rate", 0.25, "--images", 5)
    assert (quarter["rate"], quarter["layers"][0]["pattern"], quarter["layers"][0]["kept"]) == (0.25, "blocks", 0.25)
    assert len(quarter["image_ids"]) == len(quarter["layers"][0]["image_errors"]) == 5
    assert quarter["layers"][0]["error"] > whole["layers"][0]["error"]
    assert {figures("--pattern", name)["layers"][0]["pattern"] for name in ("rows", "columns")} == {"rows", "columns"}


@pytest.mark.usefixtures("undrawn")
def test_a_tolerance_lets_the_layer_choose_at_the_refresh_before(entries: Callable[..., Any]) -> None:
    patterns = {
        tolerance: entries("--iterations", 0, "--rate", 0.25, "--tolerance", tolerance).json["layers"][0]["pattern"]
        for tolerance in (0.01, 5)
    }
    assert patterns == {0.01: "all", 5: "blocks"}


@pytest.mark.usefixtures("undrawn")
def test_a_checkpoint_is_looked_at_as_if_just_trained(
    entries: Callable[..., Any], stantune: Stantune, tiny_file: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.pt"
    train = ("train", f"{tiny_file}:problem", "--accelerate", "stan", "--iterations", 12, "--threads", 1)
    assert stantune(*train, "--checkpoint", kept).code == 0
    before = kept.read_bytes()
    assert entries("--checkpoint", kept).json == entries("--iterations", 12).json
    assert kept.read_bytes() == before
    # Whatever was trained: an exact training, of other values.
    exact = tmp_path / "exact.pt"
    train = ("train", f"{tiny_file}:problem", "--set", "momentum=0.1", "--iterations", 13, "--threads", 1)
    assert stantune(*train, "--checkpoint", exact).code == 0
    assert entries("--checkpoint", exact).json["trained"] == 13


@pytest.mark.usefixtures("undrawn")
def test_under_a_rate_that_changes_the_least_one_is_looked_at(entries: Callable[..., Any]) -> None:
    # At 3 the rate is 1/4 still, and at 50 of 60 it is 1.
    for trained, iteration in ((3, 5), (50, 51)):
        found = entries("--rate", "annealed", "--iterations", trained).json
        assert (found["rate"], found["trained"], found["iteration"]) == (0.25, trained, iteration)
        assert [layer["pattern"] for layer in found["layers"]] == ["blocks"]
    quarter = entries("--rate", 0.25, "--iterations", 3).json
    assert entries("--rate", "annealed", "--iterations", 3).json == quarter


@pytest.mark.usefixtures("undrawn")
def test_other_convolutions_are_reported(stantune: Stantune, tiny_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        tiny_file.read_text() + "\n\ndef two():\n"
        "    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, CLASSES))\n\n"
        "problem = Problem('two', two, images, Space({'lr': Float(1, 2)}), Solver(lr=1e-3), 5, 10, validation=60, "
        "stan_layers=('1',))\n"
    )
    run = stantune("entries", f"{file}:problem", "--iterations", 0, "--out", tmp_path / "x.PNG", "--json", "-")
    assert run.code == 0, run.err
    result = EntriesResult.model_validate_json(run.out)
    assert [layer.name for layer in result.layers] == ["1"]
    assert [(line.name, line.reason) for line in result.left_alone] == [("0", "not among layers=1")]
    assert "layer 0 is left alone: not among layers=1" in run.err


def test_the_default_picture_is_named_after_the_problem(
    stantune: Stantune, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stantune("entries", f"{tiny_file}:problem", "--iterations", 0, "--threads", 1).code == 0
    assert [file.name for file in tmp_path.iterdir()] == ["tiny-entries.png"]


BAD_USE = [
    # what is typed after the problem's name, what the sentence must hold
    ("{file}:problm", (), ("'problm'",)),
    ("{file}:flat", (), ("'flat'", "has no convolution")),
    ("mlp", ("--data", "{directory}/none"), ("'mlp'", "has no convolution")),
    ("{file}:problem", ("--images", 0), ("--images 0", "give 1 to 32")),
    ("{file}:problem", ("--images", 33), ("--images 33", "give 1 to 32")),
    ("{file}:few", ("--images", 3), ("--images 3", "2 training images")),
    ("{file}:problem", ("--rate", "1"), ("rate=1", "'tiny'")),
    ("{file}:problem", ("--rate", "most"), ("--rate most", "0.5")),
    ("{file}:problem", ("--pattern", "spiral"), ("'spiral'", "rows")),
    ("{file}:problem", ("--tolerance", "0"), ("tolerance=0", "above 0")),
    ("{file}:problem", ("--iterations", -1), ("--iterations -1", "0 or more")),
    ("{file}:problem", ("--iterations", 3, "--checkpoint", "x.pt"), ("--iterations 3", "x.pt", "one of them")),
    ("{file}:problem", ("--checkpoint", "{directory}/none.pt"), ("none.pt", "is no file")),
    ("{file}:problem", ("--checkpoint", "{lenet}"), ("'lenet'", "'tiny'")),
    ("{file}:problem", ("--out", "{directory}/x.jpg"), ("x.jpg", "ends in .png")),
    ("{file}:problem", ("--out", "{directory}/missing/x.png"), ("missing", "name another file")),
    ("{file}:problem", ("--out", "{file}/x.png"), ("x.png", "name another file")),
    ("{file}:problem", ("--out", "{directory}/folder.png"), ("folder.png", "name another file")),
    ("{file}:problem", ("--json", "{directory}"), ("--json", "name another file")),
    ("{file}:problem", ("--device", "tpu"), ("--device tpu",)),
]


@pytest.mark.parametrize(("problem", "options", "said"), BAD_USE)
def test_bad_use_is_one_sentence_before_any_work(
    stantune: Stantune,
    tiny_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem: str,
    options: tuple[object, ...],
    said: tuple[str, ...],
) -> None:
    from stantune.training import checkpoint

    file = tmp_path / "mine.py"
    file.write_text(
        tiny_file.read_text() + "\n\ndef two_images(root):\n"
        "    whole = images(root)\n"
        "    return Dataset('few', whole.train.take(0, 3), whole.test, CLASSES)\n\n"
        "few = Problem('few', network, two_images, problem.space, problem.solver, 5, 2, validation=1)\n"
    )
    (tmp_path / "folder.png").mkdir()
    checkpoint.save(tmp_path / "lenet.pt", json.dumps({"problem": "lenet", "setting": {}}), {})
    places = {"file": file, "directory": tmp_path, "lenet": tmp_path / "lenet.pt"}
    log = tmp_path / "log"
    monkeypatch.setenv("TINY_LOG", str(log))
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    run = stantune("entries", problem.format(**places), *(str(option).format(**places) for option in options))
    assert (run.code, run.out) == (2, ""), run
    assert len(run.err.splitlines()) == 1, run.err
    assert run.err.startswith("stantune: ")
    for words in said:
        assert words in run.err
    assert not log.exists(), "nothing was trained"
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "__pycache__"}


def test_damaged_and_foreign_checkpoints(entries: Callable[..., Any], stantune: Stantune, tmp_path: Path) -> None:
    from stantune.training import checkpoint

    damaged = tmp_path / "damaged.pt"
    checkpoint.save(damaged, json.dumps({"problem": "tiny", "setting": {}}), {"model": {}, "iteration": 3})
    content = bytearray(damaged.read_bytes())
    run = entries("--checkpoint", damaged)
    assert (run.code, run.out) == (1, "")
    assert "does not fit the network that problem 'tiny' has now" in run.err
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    foreign = tmp_path / "foreign.pt"
    torch.save({"weight": torch.zeros(3)}, foreign)
    for file in (damaged, foreign):
        run = entries("--checkpoint", file)
        assert (run.code, run.out) == (1, "")
        assert f"checkpoint {file} is cut short or altered" in run.err
        assert len(run.err.splitlines()) == 1


def test_missing_matplotlib_is_told_before_any_work(
    entries: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setenv("TINY_LOG", str(tmp_path / "log"))
    run = entries()
    assert (run.code, run.out) == (1, "")
    assert run.err == ("stantune: drawing needs Matplotlib, which is not installed; pip install 'stantune[plots]'\n")
    assert not (tmp_path / "log").exists()


def test_a_training_that_ends_early_leaves_no_picture(
    entries: Callable[..., Any],
    stantune: Stantune,
    tiny_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = stantune("entries", f"{tiny_file}:hopeless", "--threads", 1, "--out", tmp_path / "picture.png")
    assert run.code == 1
    assert "stantune: the training diverged at iteration" in run.err
    monkeypatch.setenv("TINY_INTERRUPT_AT", "5")
    run = entries()
    assert (run.code, run.out) == (1, "")
    assert run.err.splitlines()[-1] == "stantune: interrupted at iteration 5; nothing is kept of it"
    assert not (tmp_path / "picture.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_images_are_drawn_from_the_training_images_by_the_seed(entries: Callable[..., Any]) -> None:
    order = torch.randperm(240, generator=torch.Generator().manual_seed(derive("pictured", 7)))
    assert entries("--iterations", 0, "--seed", 7).json["image_ids"] == order[:2].tolist()
