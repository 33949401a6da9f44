"""Small images first: what they are, where a trial sees them, and that a search with them is one like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import corners
import pytest
import torch
from corners import CORNERS, SHOWN
from torch import Tensor, nn
from typer.testing import CliRunner

import stantune as st
from stantune.cli import app
from stantune.images.data import Dataset, Split
from stantune.images.objective import ProblemObjective
from stantune.images.resizing import Resize, resized
from stantune.protocols import Place, Segment
from stantune.search.directory.directory import SearchDirectory
from stantune.search.stopping import Stop
from stantune.search.table import studies
from stantune.seeds import derive
from stantune.stan.config import Memo
from stantune.training.train import run
from stantune.training.trial import Trial

pytestmark = pytest.mark.usefixtures("one_thread")


def of_one_size() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4))


def tune(where: Path, problem: st.Problem = CORNERS, **options: Any) -> st.SearchResult:
    settings = {"max_resource": 27, "min_resource": 3, "threads": 1, "device": "cpu", "out": where, "resize": "1/2"}
    return st.tune(problem, **{**settings, **options})


def table(where: Path) -> list[Any]:
    directory = SearchDirectory(where)
    there = studies.table_of(directory.url, directory.study)
    assert there is not None
    return [replace(row, costs={}) for row in there[1]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("undisturbed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tune(where)
    finally:
        torch.set_num_threads(threads)
    return where


@pytest.mark.parametrize(
    ("given", "resize"),
    [
        ("1/2", Resize(Fraction(1, 2), Fraction(1, 3))),
        ("0.5:1/4", Resize(Fraction(1, 2), Fraction(1, 4))),
        (0.75, Resize(Fraction(3, 4))),
        (Resize(Fraction(1, 3)), Resize(Fraction(1, 3), Fraction(1, 3))),
        (" 1/2 : 1/3 ", Resize(Fraction(1, 2))),
    ],
    ids=str,
)
def test_what_is_meant(given: Any, resize: Resize) -> None:
    assert Resize.of(given) == resize
    assert Resize.of(str(resize)) == resize


@pytest.mark.parametrize(
    "given",
    [
        *("", "half", "0", "1", "3/2", "-1/2", "1/0", "1/2:", "1/2:1", "1/2:1/3:1/4", 2, True, "nan", "inf"),
        # Not as people write them, though Python reads some.
        *("\N{ARABIC-INDIC DIGIT ONE}/\N{ARABIC-INDIC DIGIT TWO}", "1_0/2_0", "1/0_2", "1 / 2", b"1/2", (1, 2)),
        # Python makes no text of such, or takes very long.
        *("1e-400", "1e-5000", "1e-999999999"),
    ],
    ids=str,
)
def test_what_is_none_is_refused(given: object) -> None:
    with pytest.raises(st.UsageError, match=r"`resize`=.*give the share of the sides, 1/2 say, or with the share of"):
        Resize.of(given)


@pytest.mark.parametrize("given", ["x" * 100_000, "1" * 5000 + "/" + "2" * 5000, 10**5000], ids=["word", "text", "int"])
def test_what_is_long_is_refused_in_a_sentence(given: object) -> None:
    with pytest.raises(st.UsageError, match="is no share between 0 and 1") as refused:
        Resize.of(given)
    assert len(str(refused.value)) < 400


def test_one_that_is_made_by_hand_is_checked_too() -> None:
    assert Resize(0.5, "1/4") == Resize.of("1/2:1/4")  # type: ignore[arg-type]
    for shares in ((Fraction(2),), (Fraction(1, 2), 1), (Fraction(1, 10**5000),)):
        with pytest.raises(st.UsageError, match="is no share between 0 and 1"):
            Resize(*shares)  # type: ignore[arg-type]


def test_up_to_a_rung_and_no_further() -> None:
    assert [Resize.of("1/2").iterations(length) for length in (27, 400, 1000, 300, 2)] == [9, 133, 333, 100, 0]
    assert Resize.of("1/2:0.3").iterations(10) == 3


def test_a_pixel_is_the_mean_of_those_that_it_covers() -> None:
    whole = torch.randn(2, 3, 8, 6).contiguous(memory_format=torch.channels_last)
    half = Resize.of("1/2").shrunk(whole)
    assert half.shape == (2, 3, 4, 3)
    assert half.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(half, whole.unflatten(2, (4, 2)).unflatten(4, (3, 2)).mean((3, 5)), atol=1e-6)
    assert Resize.of("2/3").shrunk(torch.randn(1, 1, 28, 1)).shape == (1, 1, 19, 1)


def test_low_rungs_see_small_images_the_last_one_and_final_trainings_whole_ones(tmp_path: Path) -> None:
    SHOWN.clear()
    tune(tmp_path, brackets=1)
    # 9 trials to iteration 3, 3 of them to 9, one to 27, and the final training.
    assert sum(training and side == 4 for training, side in SHOWN) == 9 * 3 + 3 * 6
    assert sum(training and side == 8 for training, side in SHOWN) == 18 + 27
    looks = [side for training, side in SHOWN if not training]
    # Before anything trains both kinds are shown; then each rung is evaluated by what it was trained on last.
    assert looks.count(4) >= 9 + 3
    assert {side for _, side in SHOWN} == {4, 8}


@pytest.mark.parametrize(("start", "stop", "recorded"), [(0, 9, True), (9, 27, True), (0, 27, False), (3, 9, True)])
def test_steps_are_recorded_where_all_are_of_one_size(start: int, stop: int, recorded: bool) -> None:
    problem = replace(CORNERS, recordable=True)
    assert resized(problem, Resize.of("1/2"), 27, start, stop).recordable is recorded
    assert not resized(CORNERS, Resize.of("1/2"), 27, start, stop).recordable


def test_by_hand_in_any_pieces(tmp_path: Path) -> None:
    """Trained in one piece, or in two with a checkpoint between them: the same, and small images are what it saw."""
    splits, resize = CORNERS.load(), Resize.of("1/2")
    seed = derive("train", 0)

    def piece(file: Path | None, start: int, stop: int) -> dict[str, float]:
        problem = resized(CORNERS, resize, 27, start, stop)
        return dict(run(problem, {}, file, start, stop, splits=splits, seed=seed).metrics)

    file = tmp_path / "trial.pt"
    pieces = [piece(file, start, stop) for start, stop in ((0, 3), (3, 9), (9, 27))]
    assert piece(None, 0, 27) == pieces[2]
    assert piece(None, 0, 9) == pieces[1]
    trial = Trial(CORNERS, {}, splits, seed=seed, stan=None)
    batches: Any = trial.batches

    class Small:
        def at(self, iteration: int) -> Any:
            batch = batches.at(iteration)
            return batch._replace(inputs=nn.functional.avg_pool2d(batch.inputs, 2)) if iteration < 9 else batch

    trial.batches = Small()
    trial.train(9, lambda: False, lambda iteration: None)
    small = CORNERS.evaluate(trial.model, resize.small(splits), "validation", "cpu")
    assert small == pieces[1]
    trial.train(27, lambda: False, lambda iteration: None)
    assert CORNERS.evaluate(trial.model, splits, "validation", "cpu") == pieces[2]


@pytest.mark.parametrize("options", [{"workers": 2}, {"together": 3}], ids=["workers", "turns"])
def test_one_result_for_any_number_of_workers(undisturbed: Path, tmp_path: Path, options: dict[str, int]) -> None:
    tune(tmp_path, **options)
    assert table(tmp_path) == table(undisturbed)


def test_ended_in_good_order_and_gone_on_with(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = 0
    while True:
        asked, stop = 0, Stop()

        def ask(asking: Callable[[], bool] = stop.asked) -> bool:
            nonlocal asked
            asked += 1
            return asked > 150 or asking()

        monkeypatch.setattr(stop, "asked", ask)
        if tune(tmp_path, stop=stop).complete:
            break
        ends += 1
    assert ends >= 1
    assert table(tmp_path) == table(undisturbed)
    with pytest.raises(st.UsageError, match="resize"):
        tune(tmp_path, resize=None)
    with pytest.raises(st.UsageError, match="resize"):
        tune(tmp_path, resize="1/2:1/4")


def test_a_final_training_sees_whole_images_but_one_that_is_continued(tmp_path: Path) -> None:
    def trained(resize: str | None, start: int) -> Any:
        objective = ProblemObjective(CORNERS, resize=resize)  # type: ignore[arg-type]  # as `tune` is given it
        trainer = objective.trainer(Place())
        file = tmp_path / f"{resize is None}-{start}.pt"
        trial = Segment(0, {"lr": 0.01}, 0, 27, 5, file, bracket=0, length=27)
        if start:
            trainer.train(trial, lambda: False, lambda iteration: None)
        final = replace(trial, start=start, bracket=None, finalist=0)
        return trainer.train(final, lambda: False, lambda iteration: None).metrics

    assert trained("1/2", 0) == trained(None, 0)
    SHOWN.clear()
    trained("1/2", 27)
    assert sum(training and side == 4 for training, side in SHOWN) == 9, "what it goes on from is the trial's own"


def cut(images: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
    return images[..., 2:6, 2:6]


def of_setting(images: Tensor, ids: Tensor, generator: torch.Generator, setting: dict[str, Any]) -> Tensor:
    return images * setting["lr"]


def masks(root: Path | None) -> Dataset:
    pixels = torch.rand(60, 8, 8, 1, generator=torch.Generator().manual_seed(0))
    lit = Split(pixels, (pixels[..., 0] > 0.5).float())
    return Dataset("masks", lit, lit)


def apart(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.squeeze(1) - targets).square().mean()


def grown(outputs: Tensor, targets: Tensor) -> Tensor:
    return apart(nn.functional.interpolate(outputs, targets.shape[1:]), targets)


def wrongly(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.flatten(1).argmax(1) != targets).float().mean())


SEGMENTATION: dict[str, Any] = {
    "network": lambda: nn.Conv2d(1, 1, 3, padding=1),
    "data": masks,
    "augment": None,
    "validation": 10,
    "loss": apart,
    "measure": apart,
}


@pytest.mark.parametrize(
    ("changed", "options", "words"),
    [
        (
            {"network": of_one_size},
            {},
            "`resize`=1/2:1/3 does not go with this: problem 'corners': the network fails on inputs of shape "
            r"\(2, 1, 4, 4\) .*AdaptiveAvgPool2d",
        ),
        ({}, {"stan": st.Stan(memo=Memo(90, 9))}, "`resize`=1/2:1/3 does not go with a memory of entries"),
        ({}, {"resize": "2"}, "'2' is no share between 0 and 1"),
        (
            {"augment": cut},
            {},
            r"`resize`=1/2:1/3 does not go with this: problem 'corners': the network fails on images of a training "
            r"batch, which are \(2, 1, 2, 2\) then",
        ),
        (
            SEGMENTATION,
            {},
            "`resize`=1/2:1/3 does not go with this: problem 'corners': its loss fails on what the netw",
        ),
        (
            {**SEGMENTATION, "loss": grown},
            {},
            "`resize`=1/2:1/3 does not go with this: problem 'corners': its measure fails on what the network says",
        ),
        # Which PyTorch would compare with each pixel.
        (SEGMENTATION, {"resize": "1/8"}, r"makes \(2, 1, 1, 1\) of small images, and \(2, 1, 8, 8\) of whole ones"),
        ({}, {"resize": "0.99"}, "`resize`=99/100:1/3 makes no image small: 99/100 of 8 by 8 pixels is as many"),
        ({}, {"max_resource": 2}, "`resize`=1/2:1/3 makes no image small: 1/3 of 2 iterations is less than one"),
    ],
    ids=["network", "memo", "share", "cut", "loss", "measure", "spread", "as many", "short"],
)
def test_what_does_not_go_together(
    tmp_path: Path, changed: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    settings = {"max_resource": 27, "out": tmp_path, "resize": "1/2", **options}
    with pytest.raises(st.UsageError, match=words):
        st.tune(replace(CORNERS, **changed), **settings)


@pytest.mark.parametrize(
    "changed",
    [{"augment": of_setting}, {**SEGMENTATION, "loss": grown, "measure": grown}, {"measure": wrongly}],
    ids=["setting", "segmentation", "measure"],
)
def test_what_goes_together(tmp_path: Path, changed: dict[str, Any]) -> None:
    problem = replace(CORNERS, **changed)
    before = torch.get_rng_state()
    Resize.of("1/2").check(problem, problem.load(), 9)
    assert torch.equal(torch.get_rng_state(), before)
    result = st.tune(problem, max_resource=3, threads=1, device="cpu", out=tmp_path, resize="1/2")
    assert result.complete
    assert not result.summary.failures


def deep(depth: int = 1) -> nn.Module:
    first, further = nn.Conv2d(1, 4, 3), [nn.Conv2d(4, 4, 3) for _ in range(depth - 1)]
    return nn.Sequential(first, *further, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


def test_what_is_fixed_is_what_is_looked_at(tmp_path: Path) -> None:
    space = st.Space({**CORNERS.space, "depth": st.Integer(1, 3)})
    problem = replace(CORNERS, network=deep, space=space)
    deeper = replace(problem, network=lambda depth=3: deep(depth))
    with pytest.raises(st.UsageError, match="the network fails on inputs of shape"):
        tune(tmp_path / "deep", problem=problem, max_resource=3, min_resource=1, fixed={"depth": 3})
    with pytest.raises(st.UsageError, match=r"`ways`=resize: .* the network fails on inputs of shape"):
        st.study(problem, ways="resize", seeds=1, max_resource=9, fixed={"depth": 3}, out=tmp_path / "study")
    assert tune(tmp_path / "low", problem=deeper, max_resource=3, min_resource=1, fixed={"depth": 1}).complete


def test_tables_and_functions_have_no_images(tmp_path: Path) -> None:
    rows = Split(torch.rand(40, 5), torch.arange(40) % 4)
    flat = replace(
        CORNERS,
        network=lambda: nn.Linear(5, 4),
        data=lambda root: Dataset("rows", rows, rows),
        augment=None,
        validation=10,
    )
    with pytest.raises(st.UsageError, match="is for images, and the inputs of problem 'corners' are none"):
        st.tune(flat, max_resource=9, out=tmp_path, resize="1/2")
    with pytest.raises(st.UsageError, match="`resize`=1/2 says how a Problem is trained, and search says that itself"):
        st.tune(lambda run: 1.0, st.Space({"x": st.Float(0, 1)}), minimize="x", name="search", resize="1/2")


def test_a_plan_is_for_whole_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[object] = []

    def planned(stan: st.Stan, problem: object, *rest: Any, **options: Any) -> st.Stan:
        timed.append(problem)
        return st.Stan(rate=1)

    monkeypatch.setattr("stantune.training.train.planned_stan", planned)
    asked = "--iterations 9 --accelerate stan --rate auto --resize 1/2 --device cpu"
    run = CliRunner().invoke(app, ["train", f"{corners.__file__}:CORNERS", *asked.split()])
    assert run.exit_code == 0, run.output
    assert [type(each) for each in timed] == [st.Problem]


def test_as_a_way_of_a_study_it_goes_with_all_problems_or_none(tmp_path: Path) -> None:
    other = replace(CORNERS, name="other", network=of_one_size)
    with pytest.raises(st.UsageError, match="`ways`=resize: `resize`=1/2:1/3 does not go with this: problem 'other'"):
        st.study([CORNERS, other], ways="native,resize", seeds=1, max_resource=9, out=tmp_path / "none")
    assert not (tmp_path / "none").exists(), "before anything is trained"


@pytest.mark.slow
def test_as_a_way_of_a_study(tmp_path: Path) -> None:
    result = st.study(CORNERS, ways="native,resize", seeds=1, max_resource=9, threads=1, out=tmp_path / "out")
    assert result.complete
    (problem,) = result.summary.problems
    assert problem.predicted["resize"] is None
    alone = tune(tmp_path / "alone", max_resource=9, min_resource=None, stan=st.Stan(rate=1))
    found = [search for search in result.summary.searches if search.way == "resize"]
    assert [search.best for search in found] == [alone.best.value]
