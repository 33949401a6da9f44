"""What the built-in problems are called and what they search, in plain values: known without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from stantune.parameters import Float, Integer
from stantune.space import Space


@dataclass(frozen=True)
class Facts:
    """The fields of a built-in Problem, by the same names, that are no network, solver or function."""

    name: str
    data: str
    space: Space
    iterations: int
    full_iterations: int | None = None
    batch_size: int = 100


def _logarithmic(low: float, high: float, *names: str) -> dict[str, Float]:
    return {name: Float(low, high, log=True) for name in names}


_L2 = ("conv1_l2", "conv2_l2", "conv3_l2", "fc1_l2")

# The first five spaces are tables 1 to 5 of the source; most of each diverges.
FACTS: dict[str, Facts] = {
    facts.name: facts
    for facts in (
        Facts(
            "lenet",
            "mnist",
            Space(_logarithmic(5e-5, 5, "lr", "conv1_l2", "conv2_l2") | {"momentum": Float(0.001, 0.99, log=True)}),
            iterations=10_000,
        ),
        Facts(
            "cq",
            "cifar10",
            Space(_logarithmic(5e-5, 5, "lr", *_L2, "fc2_l2")),
            iterations=4_000,
            full_iterations=5_000,
        ),
        Facts(
            "alexlrn",
            "cifar10",
            Space(
                _logarithmic(5e-5, 5, "lr", *_L2) | {"lrn_scale": Float(5e-6, 5, log=True), "lrn_power": Float(0.01, 3)}
            ),
            iterations=60_000,
            full_iterations=70_000,
        ),
        Facts(
            "alexbn",
            "cifar10",
            Space(_logarithmic(5e-5, 5, "lr", "momentum", *_L2)),
            iterations=60_000,
        ),
        Facts(
            "mlp",
            "mnist",
            Space({"hidden": Integer(100, 8192), "dropout": Float(0, 0.999), "top_k": Integer(0, 100)}),
            # 20 epochs of the 50 000 images of a search, and of all 60 000.
            iterations=10_000,
            full_iterations=12_000,
        ),
        # Not the source's: what the authors of meProp train, in the ranges of their paper.
        Facts(
            "meprop",
            "mnist",
            Space(
                {"hidden": Integer(100, 1000), "hidden_layers": Integer(1, 4), "top_k": Integer(0, 160)},
            ),
            # 20 epochs of the 55 000 images that they train on, and of all 60 000.
            iterations=11_000,
            full_iterations=12_000,
        ),
    )
}


def names_built_in(name: str) -> bool:
    """Tell whether this is a built-in problem's name, NAME or NAME:OPTION=VALUE,…, and not a file's."""
    plain, colon, options = name.partition(":")
    return plain in FACTS and (not colon or "=" in options)
