"""benchmarks/networks/models.py: its figures by hand, what is kept and gone on from, each part on a tiny network."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.common.kept import Kept
from benchmarks.common.side_by_side import Mixture, Side, interleave
from benchmarks.networks import model_results as results
from benchmarks.networks import model_step, models, zoo
from benchmarks.networks import model_training as training
from stantune import Stan, accelerate_
from stantune.images.data import Dataset, Split
from stantune.stan import surgery

TINY = "tiny"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)
        )

    monkeypatch.setitem(zoo.ZOO, TINY, zoo.Network("plain", make))
    return TINY


@pytest.fixture
def quick_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surgery, "plan_for", partial(surgery.plan_for, budget=0.0))


def turns(*ms: float, stock: float = 100.0, **other: Any) -> Any:
    told = {"peak": 60.0, "stock_peak": 50.0, **other}
    return results.Turns("channels_last", "contiguous", list(ms), [stock] * len(ms), **told)


def record(way: str = "1", batch: int = 4, network: str = "one", **other: Any) -> Any:
    return results.Record(network, batch, way, 1, "sgd", "1 thread, PyTorch", **other)


def test_speed_is_the_median_of_the_rounds_and_their_spread_half_the_quartiles_distance() -> None:
    found = turns(50.0, 40.0, 80.0, stock=100.0)
    assert found.ratios == [2.0, 2.5, 1.25]
    assert found.speedup == 2.0
    assert found.spread == pytest.approx((2.5 - 1.25) / 2)


def kept(file: Path) -> Any:
    return Kept(file, results.record_of, lambda each: each.key)


def test_records_are_kept_one_by_one_and_the_last_of_a_key_counts(tmp_path: Path) -> None:
    file = tmp_path / "results" / "models.jsonl"
    first = record(best=turns(50.0, 51.0), gradients=results.Gradients(1e-6, 2e-6, 3e-6, 4e-6))
    kept(file).add(first)
    kept(file).add(record(way="0.5", failed="its process died"))
    assert kept(file).records[first.key] == first
    again = record(best=turns(25.0, 25.0))
    kept(file).add(again)
    found = kept(file).records
    assert len(found) == 2
    assert found[first.key] == again
    assert len(file.read_text().splitlines()) == 3, "nothing is taken away"


def test_a_line_that_was_cut_off_costs_that_line_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.jsonl"
    whole = record()
    file.write_text(json.dumps(asdict(whole)) + "\n" + '{"network": "tw')
    kept(file).add(record(network="three"))
    found = kept(file).records
    assert [each.network for each in found.values()] == ["one", "three"]
    assert "line 2 is no record" in capsys.readouterr().err


def test_tables_by_hand() -> None:
    found = [
        record(
            best=turns(50.0, 50.0),
            user=turns(125.0, 125.0),
            gradients=results.Gradients(1e-6, 2e-6, 3e-6, 4e-6, 0.5, 1.25),
        ),
        record(way="auto", best=turns(80.0, 80.0, planning=2.5, predicted=1.3)),
        record(network="two", best=turns(100.0, 100.0, peak=50.0)),
        record(network="two", batch=16, failed="its process died"),
        record(network="unknown"),
    ]
    text = results.tables(reversed(found), {"one": "a kind", "two": "a kind"}, ["1", "auto", "0.5"])
    lines = text.splitlines()
    assert lines[0] == "1 thread, PyTorch, sgd"
    # Of two networks the median and the lowest.
    assert "| a kind | 2 | 4 | 1.50 (1.00) | 1.25 | 0.80 | – |" in lines
    assert (
        "| one | 4 | 100.0 | contiguous | 2.00 ± 0.00 | 1.25 ± 0.00 | 1.30 | 100.0 | 0.80 ± 0.00 | – | – | 2.5 |"
        in lines
    )
    errors = "1.0e-06 (2.0e-06) | 3.0e-06 (4.0e-06) | – | 1.25 (0.50) | –"
    assert f"| one | 4 | {errors} | 50 | 60 | 60 |" in lines
    assert "- two, batch 16, 1: its process died" in lines
    assert "- one, batch 4, 1: 60 MiB for 50; speed 0.80 in the user's setting; " in text
    assert "60 MiB for 50 in the user's setting; gradient error 3.0e-06 for 1.0e-06" in text
    assert "unknown" not in text
    assert not [line for line in lines if line.startswith("- two, batch 4")]


def test_what_is_timed_of_a_cycle() -> None:
    def phases(stan: Stan) -> list[tuple[float, str, int, int]]:
        model = nn.Conv2d(3, 4, 3)
        return list(model_step.cycle(accelerate_(model, stan)))

    assert phases(Stan(rate=1)) == [(1.0, "exact", 0, 1)]
    assert phases(Stan(rate=0.5)) == [(0.5, "refresh", 0, 2), (0.5, "reduced", 1, 2)]
    assert phases(Stan(rate=0.5, period=3)) == [(0.25, "refresh", 0, 4), (0.75, "reduced", 1, 4)]
    assert phases(Stan(rate=0.5, period=None)) == [(1.0, "reduced", 0, 1)]


def test_a_side_trains_the_iterations_of_its_phases(tiny: str) -> None:
    mixture = model_step.sided(tiny, 2, "0.5", "channels_last", "sgd", best=True)
    assert [share for share, _ in mixture.parts] == [0.5, 0.5]
    for _, work in mixture.parts:
        work()
    (part,) = model_step.sided(tiny, 2, None, "contiguous", "adamw", best=False).parts
    part[1]()


@pytest.mark.usefixtures("quick_planner")
def test_the_planner_s_words_come_with_its_side(tiny: str) -> None:
    told = model_step.sided(tiny, 2, "auto", "channels_last", "sgd", best=True).told
    assert told["planning"] > 0
    assert told["predicted"] > 0
    assert told["planned"] is not None


def test_gradients_are_compared_with_float64(tiny: str) -> None:
    found = models.gradients(tiny, 2, ("contiguous", "channels_last"), {"1": None, "0.5": None})
    assert 0 < found["1"].stock <= found["1"].stock_worst < 1e-5
    assert 0 < found["1"].exact <= found["1"].exact_worst < 1e-5
    assert found["1"].reduced is None
    assert found["0.5"].exact == found["1"].exact
    assert found["0.5"].reduced > 1e-3, "an approximation"
    assert 0.1 < found["0.5"].reduced_size < 10


def test_errors_by_hand() -> None:
    exact = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0]), "nothing": torch.tensor([1e-9])}
    mine = {"a": torch.tensor([3.0, 0.3]), "b": torch.tensor([4.4]), "nothing": torch.tensor([1.0e-3])}
    whole, worst = models.errors(mine, exact)
    assert whole == pytest.approx(0.1, rel=1e-3)
    assert worst == pytest.approx(0.1), "not that of a parameter whose gradient is nothing beside the others"


@pytest.mark.parametrize(
    ("network", "output", "loss"),
    [
        ("image", torch.zeros(2, 10), 2.302585),
        ("pixels", torch.zeros(2, 10, 3, 3), 2.302585),
        ("box", torch.tensor(0.7), 0.7),
    ],
    ids=["image", "pixels", "box"],
)
def test_losses_of_the_zoo(network: Any, output: Tensor, loss: float) -> None:
    made = zoo.Network("a kind", nn.Identity, network)
    assert float(made.loss(output, torch.tensor([1, 2]))) == pytest.approx(loss)


def test_no_dropout_where_gradients_are_compared() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), nn.Dropout2d(0.5)).train()
    zoo.without_chance(model)
    assert [module.training for module in model] == [False, True, False]


def test_a_network_that_is_not_there_is_named() -> None:
    assert models.named("resnet18,vgg*") == ["resnet18", "vgg11_bn"]
    with pytest.raises(SystemExit, match="names no network; there are resnet18"):
        models.named("alexnet")


def data() -> Dataset:
    images = torch.randint(256, (1000, 8, 8, 3), dtype=torch.uint8)
    split = Split(images, torch.arange(1000) % 10)
    return Dataset("cifar10", split, split, 10)


def test_trainings_of_one_seed_see_the_same_and_are_not_done_twice(
    tiny: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    held = data()
    done = []

    def here(work: Callable[..., object], *given: object) -> object:
        done.append(given[:3])
        return work(*given)

    monkeypatch.setattr(training, "load", lambda name: held)
    monkeypatch.setattr(training, "tune_process", lambda threads: threads)
    monkeypatch.setattr(training, "apart", here)
    asked = types.SimpleNamespace(keep=tmp_path / "t.jsonl", table=False, again=False, seeds=2, threads=1)
    training.run([tiny], ["1", "auto"], asked)
    assert len(done) == 6
    training.run([tiny], ["1", "auto"], asked)
    assert len(done) == 6
    found = results_of(asked.keep)
    exact, stock = found[tiny, "1", 0], found[tiny, "stock", 0]
    assert len(stock.losses) == 30
    assert exact.losses[0] == pytest.approx(stock.losses[0], abs=1e-3), "same weights, same images"
    assert exact.loss == pytest.approx(stock.loss, abs=1e-2)
    assert found[tiny, "stock", 1].losses[0] != stock.losses[0]
    assert found[tiny, "auto", 0].planned == found[tiny, "auto", 1].planned, "planned once"
    assert f"| {tiny} |" in capsys.readouterr().out


def results_of(file: Path) -> dict[object, Any]:
    found: dict[object, Any] = Kept(file, training.trained_of, lambda each: each.key).records
    return found


def test_losses_are_within_where_their_mean_is_no_higher_than_a_seed_of_stock() -> None:

    def trained(way: str, *losses: float | None) -> list[Any]:
        return [
            training.Trained("one", way, seed, "", [], loss, failed="" if loss else "it died")
            for seed, loss in enumerate(losses)
        ]

    records = trained("stock", 1.0, 1.2, 1.4) + trained("0.5", 1.5, 1.3, 1.4) + trained("auto", 1.5, 1.6, None)
    lines = training.loss_table(records, ["one", "two"], ["0.5", "auto", "1"]).splitlines()
    assert lines[2] == "| one | 1.200 | 1.000 … 1.400 | 1.400 (+0.200) | yes | 1.550 (+0.450) | **no** | – | – |"
    assert lines[-1] == "- one, auto, seed 2: it died"


def test_a_side_that_fails_leaves_the_others_their_turns() -> None:
    works = Side("works", partial(Mixture, [(0.25, int), (0.75, int)], {"said": 1}))
    fails = Side("fails", partial(int, "x"))
    made = interleave([works, fails], 1, 3, 1, preload=["side_by_side"])
    assert len(made["works"].milliseconds) == 3
    assert made["works"].told == {"said": 1}
    assert made["works"].peak >= made["works"].before > 0
    assert made["fails"].failed.startswith("ValueError: invalid literal")
    assert not made["fails"].milliseconds
