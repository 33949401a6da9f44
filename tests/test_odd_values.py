"""Fields of what users make, given values of other kinds: each is refused in one sentence that names the field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stantune as st
from stantune.images.data import Normalise
from stantune.stan.config import Memo
from stantune.stan.layers.meprop import MeProp


class Mute:
    """It cannot say what it is, nor be compared."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")

    __eq__ = __repr__  # type: ignore[assignment]
    __hash__ = object.__hash__


def nested(depth: int = 100_000) -> Any:
    """A tuple in a tuple, and so on."""
    made: Any = ()
    for _ in range(depth):
        made = (made,)
    return made


ODD: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (st.Metric, {"name": "a", "unit": None}, "the unit of metric 'a' is None, which is no text"),
    (st.Metric, {"name": "a", "bounds": None}, "the bounds of metric 'a' are None; give its lowest and its highest"),
    (st.Metric, {"name": "a", "bounds": (1, 0)}, "the bounds of metric 'a' are (1, 0); give its lowest and"),
    (st.Metric, {"name": "a", "bounds": (0, 0.5, 1)}, "the bounds of metric 'a' are (0, 0.5, 1)"),
    (st.Metric, {"name": "a", "bounds": (0, "1")}, "`bounds`='1' is no finite number"),
    (st.Metric, {"name": "a", "bounds": (0, float("nan"))}, "`bounds`=nan is no finite number"),
    (st.Metric, {"name": "a", "bounds": (Mute(), 1)}, "`bounds`=a Mute is no finite number"),
    (st.Stan, {"rate": Mute()}, "rate=a Mute"),
    (st.Stan, {"rate": [(0, 10**400)]}, "is no course of a rate"),
    (st.Stan, {"rate": torch.ones(2)}, "is no course of a rate"),
    (st.Stan, {"pattern": ["rows"]}, "`pattern`=['rows'] is no text"),
    (st.Stan, {"period": "1"}, "`period`='1' is no whole number"),
    (st.Stan, {"period": 10**5000}, "`period`=a int is too large"),
    (st.Stan, {"pretrain": torch.ones(2)}, "`pretrain`=tensor"),
    (st.Stan, {"pretrain": -1}, "`pretrain`=-1 is too small; give 0 or more"),
    (st.Stan, {"tail": None}, "`tail`=None is no whole number"),
    (st.Stan, {"iterations": nested()}, "`iterations`=a tuple is no whole number"),
    (st.Stan, {"layers": "conv1"}, "`layers`='conv1' is no tuple of names; give one"),
    (st.Stan, {"layers": (1,)}, "`layers`=(1,) is no tuple of names; give one"),
    (st.Stan, {"linear": 3}, "`linear`=3 is no tuple of names; give one"),
    (st.Stan, {"seed": 0.5}, "`seed`=0.5 is no whole number"),
    (st.Stan, {"tolerance": "0.5"}, "`tolerance`='0.5' is no finite number"),
    (st.Stan, {"tolerance": np.array([1, 2])}, "`tolerance`=array([1, 2]) is no finite number"),
    (st.Stan, {"memo": True}, "`memo`=True is no Memo; give one, or None"),
    (st.Stan, {"meprop": 80}, "`meprop`=80 is no MeProp; give one, or None"),
    (st.Stan, {"plan": [1]}, "`plan`=[1] is no tuple of LayerPlan"),
    (st.Stan, {"offset_sets": "4"}, "`offset_sets`='4' is no whole number"),
    (Memo, {"samples": "5", "epoch": 1}, "`memo.samples`='5' is no whole number"),
    (Memo, {"samples": 5, "epoch": 0}, "`memo.epoch`=0 is too small; give 1 or more"),
    (Memo, {"samples": 5, "epoch": 1, "dtype": np.array([1, 2])}, "`memo.dtype`=array([1, 2]) is unknown"),
    (MeProp, {"top_k": Mute()}, "top_k=a Mute"),
    (MeProp, {"top_k": 1, "layers": [None]}, "`meprop.layers`=[None] is no tuple of names"),
    (MeProp, {"top_k": 1, "unified": "no"}, "`meprop.unified`='no' is neither True nor False; give one of them"),
    (MeProp, {"top_k": 1, "sparse_bias": 0}, "`meprop.sparse_bias`=0 is neither True nor False"),
    (st.Stan, {"native": "0"}, "`native`='0' is neither True nor False"),
    (st.ImageFolder, {"path": "a", "size": 8, "grey": "False"}, "`grey`='False' is neither True nor False"),
    (st.load, {"directory": "a", "accept_changes": "0"}, "`accept_changes`='0' is neither True nor False"),
    (st.study, {"objectives": "none such", "accept_changes": "0"}, "`accept_changes`='0' is neither True nor False"),
    (st.Solver, {"lr": nested()}, "The solver's lr is a tuple: take a finite number"),
    (st.Solver, {"lr": 10**400}, "take a finite number"),
    (st.Solver, {"lr": 1, "kind": Mute()}, "no optimizer a Mute"),
    (st.Solver, {"lr": 1, "options": 5}, "The options of sgd are 5: give a dict"),
    (st.Solver, {"lr": 1, "options": {3: 1}}, "sgd has no option 3"),
    (st.Solver, {"lr": 1, "multipliers": {"*.bias": 2}}, "The solver's multipliers are {'*.bias': 2}: give a dict"),
    (st.Solver, {"lr": 1, "policy": True}, "True is no schedule"),
    (st.Space, {"parameters": {"a" * 5000: st.Float(0, 1)}}, "is too long a text; give one of at most 2000 letters"),
    (st.Solver, {"lr": 1, "policy": "0" * 5000}, "no schedule is called '000"),
    (st.Solver, {"lr": 1, "policy": st.Solver}, "is no schedule"),
    (Normalise, {"scale": "1"}, "`scale`='1' is no finite number"),
    (Normalise, {"mean": np.array([1.0, 2.0])}, "mean=array([1., 2.]) is not a kind of mean"),
    (st.Categorical, {"choices": (nested(),)}, "give"),
    (st.Categorical, {"choices": np.array(2.0)}, "give a list or a tuple of choices"),
    (st.Float, {"low": nested(), "high": 1}, "which is no number"),
    (st.Space, {"parameters": nested()}, "give a mapping"),
]


@pytest.mark.parametrize(
    ("of", "given", "said"), ODD, ids=[f"{of.__name__}-{number}" for number, (of, *_) in enumerate(ODD)]
)
def test_a_value_of_another_kind_is_refused_in_one_sentence(
    of: Callable[..., Any], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(st.UsageError) as refused:
        of(**given)
    sentence = str(refused.value)
    assert said in sentence
    assert sentence.isprintable()
    assert len(sentence) < 500


def test_numbers_of_numpy_are_numbers() -> None:
    assert st.Metric("a", bounds=[np.float32(0.5), np.inf]).bounds == (0.5, float("inf"))  # type: ignore[arg-type]
    stan = st.Stan(period=np.int64(9), tolerance=np.float32(0.5), layers=["conv1"])  # type: ignore[arg-type]
    assert (stan.period, stan.tolerance, stan.layers) == (9, 0.5, ("conv1",))
    assert type(stan.period) is int
    assert Normalise(scale=np.float64(0.5)).scale == 0.5


DEEP: list[object] = []
for _ in range(9999):
    DEEP = [DEEP]


def square(run: st.Run) -> float:
    return float(run.params["x"]) ** 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rates": 0.5}, "`rates`=0.5 is no list"),
        ({"rates": np.array([0.5, 1])}, "is no list; give auto"),
        ({"rates": (np.array([0.5, 1]), 1)}, "is no finite number"),
        ({"mode": np.array([1, 2])}, "`mode`=array([1, 2]) is no text"),
        ({"variant": "9" * 5000}, "is too long a text; give one of at most 2000 letters"),
        ({"lag": None}, "`lag`=None is no whole number"),
        ({"device": 3}, "`device`=3 is no text"),
        ({"checkpoints": 1.0}, "`checkpoints`=1.0 is no text"),
        ({"executor": np.array([1, 2])}, "`executor`=array([1, 2]) is none"),
        ({"enqueue": np.array(2.0)}, "`enqueue` a list of such dicts"),
        ({"enqueue": [DEEP]}, "it is a list; give a dict of parameters and their values"),
        ({"watching": "yes"}, "`watching`='yes' is no function"),
        ({"watching": len}, "`watching`=<built-in function len> cannot be called as it is; give a function that takes"),
        ({"say": True}, "`say`=True is no function"),
        ({"say": list.append}, "cannot be called as it is; give a function of (line)"),
        ({"executor": divmod}, "cannot be called as it is; give a function of (order)"),
        ({"stop": 5}, "`stop`=5 is no Stop"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_search_is_given_beside_its_numbers(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(st.UsageError) as refused:
        st.tune(square, st.Space({"x": st.Float(0, 1)}), minimize="loss", max_resource=3, out=tmp_path / "o", **given)
    assert said in str(refused.value)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"watching": dict}, "`watching` returned {}; have it return a context manager"),
        ({"executor": str}, "which is no Executor; see stantune.Executor"),
    ],
    ids=["watching", "executor"],
)
def test_what_functions_return_to_a_search_is_looked_at(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(st.UsageError) as refused:
        st.tune(square, st.Space({"x": st.Float(0, 1)}), minimize="loss", max_resource=3, out=tmp_path / "o", **given)
    assert said in str(refused.value)


def test_a_step_beyond_doubles_comes_back_as_it_is() -> None:
    parameter = st.Float(0, 2**54, step=2**53 + 1)
    assert parameter.step == float(2**53)
