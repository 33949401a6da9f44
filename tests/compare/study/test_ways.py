"""Ways of training as texts, and what they make of an objective."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timed_objective import Timed

from stantune.compare.study.folder import directory_of
from stantune.compare.study.ways import MEMO_BYTES, Way, way_of, ways_of
from stantune.errors import UsageError
from stantune.images.data import Split
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import Splits, find
from stantune.objectives.command.objective import CommandObjective
from stantune.parameters import Float, Integer
from stantune.space import Space
from stantune.stan.config import Memo, Stan
from stantune.stan.layers.meprop import MeProp

LENET = ProblemObjective(find("cq"), source="cq")
DEFAULT = find("cq").stan_layers


def stan_of(text: str) -> Stan | None:
    applied = way_of(text).applied(LENET)
    assert isinstance(applied.objective, ProblemObjective)
    return applied.objective.stan


@pytest.mark.parametrize(
    ("text", "stan"),
    [
        ("none", None),
        ("native", Stan(rate=1, layers=DEFAULT)),
        ("native:no-winograd", Stan(rate=1, layers=DEFAULT)),
        ("stan", Stan(layers=DEFAULT)),
        ("stan:0.25", Stan(rate=0.25, layers=DEFAULT)),
        ("stan/9@*", Stan(period=9)),
        ("stan:0.25/none@conv[12]", Stan(rate=0.25, period=None, layers=("conv[12]",))),
        ("stan:annealed", Stan(rate="annealed", layers=DEFAULT)),
        ("stan:auto", Stan(period=9)),
        ("stan:auto/3@conv2", Stan(period=3, layers=("conv2",))),
        ("memo:0.25", Stan(rate=0.25, layers=DEFAULT, memo=Memo(1, 1, MEMO_BYTES))),
        ("meprop", Stan(rate=1, layers=DEFAULT, meprop=MeProp(80))),
        ("meprop:unified", Stan(rate=1, layers=DEFAULT, meprop=MeProp(80, unified=True))),
        ("meprop:unified:40", Stan(rate=1, layers=DEFAULT, meprop=MeProp(40, unified=True))),
        ("stan:0.25+meprop:20", Stan(rate=0.25, layers=DEFAULT, meprop=MeProp(20))),
    ],
)
def test_what_is_set(text: str, stan: Stan | None) -> None:
    assert stan_of(text) == stan


@pytest.mark.parametrize(
    ("text", "resize", "rate"),
    [
        ("resize", "1/2:1/3", 1),
        ("resize:3/4", "3/4:1/3", 1),
        ("resize:1/2:1/9", "1/2:1/9", 1),
        ("stan:0.25+resize", "1/2:1/3", 0.25),
        ("stan:0.25/9@*+resize:0.5:0.25", "1/2:1/4", 0.25),
    ],
)
def test_small_images(text: str, resize: str, rate: float) -> None:
    objective = way_of(text).applied(LENET).objective
    assert isinstance(objective, ProblemObjective)
    assert objective.stan is not None
    assert (str(objective.resize), objective.stan.rate) == (resize, rate)
    assert way_of("native").applied(objective).objective.resize is None  # type: ignore[attr-defined]
    assert way_of("none").applied(objective).objective.resize is None  # type: ignore[attr-defined]


def test_where_images_cannot_be_small() -> None:
    with pytest.raises(UsageError, match=r"`ways`=resize:2 is no way of training: .*'2' is no share between 0 and 1"):
        way_of("resize:2")
    with pytest.raises(UsageError, match="nothing is called 'resized'"):
        way_of("resized")
    with pytest.raises(UsageError, match="does not go with a memory of entries"):
        way_of("memo+resize").applied(LENET)
    with pytest.raises(UsageError, match="`ways`=resize is for problems, whose images are known, and timed is none"):
        way_of("resize").applied(Timed(Path("/nowhere")))


def test_stock_pytorch_compiled() -> None:
    for text, compiled in (("none", False), ("compiled", True)):
        objective = way_of(text).applied(LENET).objective
        assert isinstance(objective, ProblemObjective)
        assert (objective.compile, objective.stan) == (compiled, None)
    with pytest.raises(UsageError, match="compiled is not said so"):
        way_of("compiled:0.5")


def test_rates_by_rung_and_the_environment() -> None:
    assert way_of("stan:auto").applied(LENET).rates == "auto"
    assert way_of("stan:0.25,0.5,1").applied(LENET).rates == (0.25, 0.5, 1.0)
    assert way_of("stan:0.5").applied(LENET).rates == ()
    assert way_of("native").environment == {}
    assert way_of("native:no-winograd").environment == {"STANTUNE_WINOGRAD": "off"}


def test_a_list_of_ways() -> None:
    assert [way.name for way in ways_of("none, stan:0.25,0.5,1,memo")] == ["none", "stan:0.25,0.5,1", "memo"]
    assert [way.name for way in ways_of(["none", "meprop:80"])] == ["none", "meprop:80"]


def test_folders_are_names_that_every_system_has() -> None:
    ways = ("none", "stan:0.25,0.5,1/9@*", "stan:0.25/9@conv2", "meprop:unified:80", "stan+meprop")
    names = [directory_of("my net/2", way_of(text), 3) for text in ways]
    assert names == [
        "my-net-2-none-seed-3",
        "my-net-2-stan-0.25-0.5-1-9-all-seed-3",
        "my-net-2-stan-0.25-9-conv2-seed-3",
        "my-net-2-meprop-unified-80-seed-3",
        "my-net-2-stan-meprop-seed-3",
    ]


@pytest.mark.parametrize("text", ["", "nothing", "none:1", "native:1", "stan:", "stan:x", "stan:0.5/x", "stan@"])
def test_what_is_no_way(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no way of training: .*; give none, compiled, native"):
        ways_of([text])


@pytest.mark.parametrize(
    "text",
    ["memo:auto", "memo:0.25,0.5", "meprop:0", "meprop:x", "meprop:80:unified", "stan+native", "stan+", "+meprop"],
)
def test_what_is_no_memo_and_no_meprop(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no way of training: .*; give none, compiled, native"):
        ways_of([text])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "is no list of ways"),
        (3, "is no list of ways"),
        (["stan", "stan"], "`ways` has stan and stan, which would share a folder"),
        (["stan:0.5/1", "stan:0.5:1"], "is no way of training"),
        ("stan@conv-1,stan@conv/1", "which would share a folder"),
    ],
)
def test_what_is_no_list(given: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ways_of(given)


def test_rates_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="rate"):
        way_of("stan:0.3").applied(LENET)


def test_a_network_that_does_meprop_itself_is_trained_plainly_otherwise() -> None:
    mlp = ProblemObjective(find("mlp"), source="mlp")
    for text, top_k in (("none", 0), ("native", 0), ("stan", 0), ("meprop:40", 40), ("stan+meprop:40", 40)):
        applied = way_of(text).applied(mlp)
        assert applied.fixed == {"top_k": top_k}
        assert isinstance(applied.objective, ProblemObjective)
        assert applied.objective.stan is None or applied.objective.stan.meprop is None
    with pytest.raises(UsageError, match="has a `top_k` of its own, each example's; give meprop:40"):
        way_of("meprop:unified:40").applied(mlp)


def test_other_objectives(tmp_path: Path) -> None:
    timed = Timed(tmp_path, stan=Stan(rate=0.25))
    kept: Any = way_of("stan:0.5").applied(timed).objective
    assert kept.stan == Stan(rate=0.5)
    stock: Any = way_of("none").applied(timed).objective
    assert stock.stan is None
    for text in ("memo", "stan:annealed", "compiled"):
        with pytest.raises(UsageError, match=f"`ways`={text} is for problems"):
            way_of(text).applied(timed)
    command = CommandObjective(["true", "{x}"], Space({"x": Float(0, 1)}), minimize="value")
    assert way_of("none").applied(command).objective is command
    with pytest.raises(UsageError, match="has no `stan` that could be replaced"):
        way_of("stan").applied(command)


def test_a_way_s_memory_needs_one_batch_size() -> None:

    problem = replace(find("lenet"), space=Space({"batch_size": Integer(10, 100)}))
    with pytest.raises(UsageError, match="counts in epochs, and settings of lenet differ in their batch_size"):
        Way("memo", {}, remembers=True).applied(ProblemObjective(problem))
    few = Split(torch.zeros(60, 28, 28, 1, dtype=torch.uint8), torch.zeros(60, dtype=torch.int64), torch.arange(60))
    splits = Splits(few, few, few, problem.normalise.fit(few), 10)
    held = Way("memo", {}, remembers=True).applied(ProblemObjective(problem), {"batch_size": 20}, splits)
    assert isinstance(held.objective, ProblemObjective)
    assert held.objective.stan is not None
    assert held.objective.stan.memo == Memo(samples=60, epoch=3, budget=MEMO_BYTES)


def test_what_the_ways_say_themselves_cannot_be_held() -> None:
    with pytest.raises(UsageError, match="`fixed` holds top_k of mlp at 40, and the ways say it themselves"):
        way_of("none").applied(ProblemObjective(find("mlp")), {"top_k": 40})
