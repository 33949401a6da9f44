"""All kinds of STAN's settings, as hypothesis draws them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as some

from stantune import Stan
from stantune.errors import UsageError
from stantune.stan.config import Memo
from stantune.stan.layers.meprop import MeProp

COUNTS = some.integers(1, 30)
MEMOS = some.builds(
    Memo,
    samples=COUNTS,
    epoch=COUNTS,
    budget=some.none() | some.integers(1, 10**9),
    dtype=some.sampled_from(["bf16", "fp32"]),
    positions=some.sampled_from(["grid", "changed"]),
)
MEPROPS = some.builds(
    MeProp,
    top_k=some.integers(0, 30),
    unified=some.booleans(),
    layers=some.sampled_from([("*",), ("fc1", "fc2")]),
    sparse_bias=some.booleans(),
)
# What each field may be, besides what it is by default.
FIELDS: dict[str, some.SearchStrategy[Any]] = {
    "rate": some.sampled_from([0.25, 0.5, 1, "annealed", ((0, 0.25), (10, 1.0))]),
    "pattern": some.sampled_from(["rows", "columns", "blocks"]),
    "period": some.none() | some.integers(0, 9),
    "pretrain": COUNTS,
    "tail": COUNTS,
    "iterations": some.integers(60, 90),
    "layers": some.just(("conv1", "conv2")),
    "tolerance": some.floats(0.1, 1),
    "memo": MEMOS,
    "linear": some.just(("fc1",)),
    "meprop": MEPROPS,
    "offset_sets": some.sampled_from([4, 16]),
    "native": some.just(False),
}


def _settings(given: dict[str, Any]) -> Stan | None:
    try:
        return Stan(**given)
    except UsageError:  # two that contradict each other
        return None


def settings() -> some.SearchStrategy[Stan]:
    """Draw settings, complete ones: "annealed" with the run's length."""

    def whole(stan: Stan | None) -> bool:
        return stan is not None and (stan.rate != "annealed" or stan.iterations is not None)

    return some.fixed_dictionaries({}, optional=FIELDS).map(_settings).filter(whole)  # type: ignore[return-value]
