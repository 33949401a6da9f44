"""The built-in problems, and how any is found: by name, or in a user's own file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from stantune.errors import UsageError
from stantune.images.data import Normalise
from stantune.images.nets import cifar, lenet, mlp
from stantune.images.problem import Problem, Splits
from stantune.space import Float, Integer, Space
from stantune.user_files import load_file

__all__ = ["BUILT_IN", "Problem", "Splits", "find"]


def _logarithmic(low: float, high: float, *names: str) -> dict[str, Float]:
    return {name: Float(low, high, log=True) for name in names}


_L2 = ("conv1_l2", "conv2_l2", "conv3_l2", "fc1_l2")
# The second convolution of these networks does more than half of the arithmetic, and its entries can best be spared:
# the others cost CQ more error for less time (docs/stan.md).
_MOST_ARITHMETIC = ("conv2",)
# The source's: the last images.
_LAST: dict[str, Any] = {"validation": 10_000, "hold_out": "last"}
_LESS_MEAN_IMAGE = Normalise(mean="image")

# The spaces are tables 1 to 5 of the source; most of each diverges.
BUILT_IN: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem(
            name="lenet",
            network=lenet.lenet,
            data="mnist",
            space=Space(
                _logarithmic(5e-5, 5, "lr", "conv1_l2", "conv2_l2") | {"momentum": Float(0.001, 0.99, log=True)}
            ),
            solver=lenet.LENET_SOLVER,
            iterations=10_000,
            normalise=Normalise(scale=1 / 256),
            recordable=True,
            **_LAST,
        ),
        Problem(
            name="cq",
            network=cifar.cq,
            data="cifar10",
            space=Space(_logarithmic(5e-5, 5, "lr", *_L2, "fc2_l2")),
            solver=cifar.CQ_SOLVER,
            iterations=4_000,
            full_iterations=5_000,
            normalise=_LESS_MEAN_IMAGE,
            stan_layers=_MOST_ARITHMETIC,
            recordable=True,
            **_LAST,
        ),
        Problem(
            name="alexlrn",
            network=cifar.alexlrn,
            data="cifar10",
            space=Space(
                _logarithmic(5e-5, 5, "lr", *_L2) | {"lrn_scale": Float(5e-6, 5, log=True), "lrn_power": Float(0.01, 3)}
            ),
            solver=cifar.ALEXLRN_SOLVER,
            iterations=60_000,
            full_iterations=70_000,
            normalise=_LESS_MEAN_IMAGE,
            stan_layers=_MOST_ARITHMETIC,
            recordable=True,
            **_LAST,
        ),
        Problem(
            name="alexbn",
            network=cifar.alexbn,
            data="cifar10",
            space=Space(_logarithmic(5e-5, 5, "lr", "momentum", *_L2)),
            solver=cifar.ALEXBN_SOLVER,
            iterations=60_000,
            normalise=_LESS_MEAN_IMAGE,
            stan_layers=_MOST_ARITHMETIC,
            recordable=True,
            **_LAST,
        ),
        Problem(
            name="mlp",
            network=mlp.mlp,
            data="mnist",
            space=Space({"hidden": Integer(100, 8192), "dropout": Float(0, 0.999), "top_k": Integer(0, 100)}),
            solver=mlp.MLP_SOLVER,
            # 20 epochs of the 50 000 images of a search, and of all 60 000.
            iterations=10_000,
            full_iterations=12_000,
            normalise=Normalise(scale=1 / 255),
            recordable=True,
            **_LAST,
        ),
    )
}


def find(name: str) -> Problem:
    """Return the built-in problem called `name`, or the one that `FILE.py:ATTRIBUTE` defines.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    file, colon, attribute = name.rpartition(":")
    if not colon:
        near = difflib.get_close_matches(name.lower(), BUILT_IN, n=1, cutoff=0.3)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(
            f"no problem is called {name!r}{hint}: there are {', '.join(BUILT_IN)}, or give your own as FILE.py:NAME"
        )
    return _from_file(Path(file), attribute)


def _from_file(path: Path, attribute: str) -> Problem:
    module = load_file(path, f"stantune_problem_{path.stem}")
    problem = getattr(module, attribute, None)
    if not isinstance(problem, Problem):
        have = [key for key, value in vars(module).items() if isinstance(value, Problem)]
        raise UsageError(f"{path} has no Problem called {attribute!r}; it has {', '.join(have) or 'none'}")
    return problem
