"""A solver's file: the update rule with its numbers, the policy, and how long it trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stantune.images.prototxt.policies import Exponential, Logistic, Polynomial, Steps
from stantune.images.prototxt.syntax.messages import SOLVER
from stantune.images.prototxt.syntax.schema import Node, read
from stantune.images.prototxt.syntax.text import RefusalError, parse
from stantune.images.solving.solver import Fixed, Inv, Multiplier, MultiStep, Policy, Solver
from stantune.texts import brief

_OLD_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}


@dataclass(frozen=True)
class SolverFile:
    """What a solver's file says of the training.

    Attributes:
        solver: without multipliers, which the network's file has.
        iterations: its max_iter.
        searches_momentum: whether its momentum is one, and no other number of its rule.
    """

    solver: Solver
    iterations: int
    searches_momentum: bool


def read_solver(text: str, multipliers: Mapping[str, Multiplier]) -> SolverFile:
    """Return what a solver's file says; raises RefusalError, with the line, for all that is not taken."""
    node = read(parse(text), SOLVER)
    _check(node)
    kind = _type(node)
    iterations = _least(node, "max_iter", 1)
    if _required(node, "base_lr") <= 0:
        raise _refused(node, "base_lr", "give more than 0")
    for name in ("momentum", "momentum2", "weight_decay", "delta", "rms_decay"):
        if node[name] < 0:
            raise _refused(node, name, "give 0 or more")
    options, momentum = _RULES[kind][1](node)
    solver = Solver(
        lr=node["base_lr"],
        kind=_RULES[kind][0],
        momentum=momentum,
        weight_decay=node["weight_decay"],
        policy=_policy(node, iterations),
        multipliers=multipliers,
        options=options,
    )
    return SolverFile(solver, iterations, kind in ("SGD", "Nesterov"))


def _check(node: Node) -> None:
    """Raise RefusalError for what trains otherwise than it is done here."""
    for name in ("net_param", "train_net_param", "test_net_param"):
        if name in node:
            raise RefusalError(node.line_of(name), f"{name} holds a network; write that into a file of its own")
    if "weights" in node:
        raise RefusalError(
            node.line_of("weights"), "weights begins with others' weights, which is not taken; remove it"
        )
    if "train_state" in node:
        raise RefusalError(node.line_of("train_state"), "train_state chooses layers, which is not taken; remove it")
    if node["clip_gradients"] >= 0:
        raise _refused(node, "clip_gradients", "gradients are not clipped here; remove it")
    if node["iter_size"] != 1:
        raise _refused(node, "iter_size", "gradients are not summed over batches here; remove it, with a larger batch")
    if node["regularization_type"] != "L2":
        raise _refused(node, "regularization_type", "take L2")


def _refused(node: Node, name: str, words: str) -> RefusalError:
    value = repr(node[name]) if isinstance(node[name], str) else node[name]
    return RefusalError(node.line_of(name), f"{name} is {brief(value)}; {words}")


def _required(node: Node, name: str, why: str = "") -> Any:
    if name not in node:
        raise RefusalError(node.line, f"the solver has no {name}{why}; give one")
    return node[name]


def _least(node: Node, name: str, least: int, why: str = "") -> Any:
    value = _required(node, name, why)
    if value < least:
        raise _refused(node, name, f"give {least} or more")
    return value


def _type(node: Node) -> str:
    if "type" in node and "solver_type" in node:
        raise RefusalError(node.line_of("solver_type"), "there are both type and solver_type; leave out one")
    kind = _OLD_TYPES[node["solver_type"]] if "solver_type" in node else node["type"]
    if kind not in _RULES:
        raise _refused(node, "type", f"take {', '.join(_RULES)}")
    return str(kind)


def _sgd(node: Node) -> tuple[dict[str, Any], float]:
    return {}, node["momentum"]


def _nesterov(node: Node) -> tuple[dict[str, Any], float]:
    if not node["momentum"]:
        raise RefusalError(node.line_of("momentum"), 'Nesterov has no momentum; give one above 0, or type: "SGD"')
    return {"nesterov": True}, node["momentum"]


def _adagrad(node: Node) -> tuple[dict[str, Any], float]:
    _without_momentum(node, "AdaGrad")
    return {"eps": node["delta"]}, 0.0


def _rmsprop(node: Node) -> tuple[dict[str, Any], float]:
    _without_momentum(node, "RMSProp")
    if node["rms_decay"] >= 1:
        raise _refused(node, "rms_decay", "RMSProp takes 0 up to, not including, 1")
    return {"alpha": node["rms_decay"], "eps": node["delta"]}, 0.0


def _adadelta(node: Node) -> tuple[dict[str, Any], float]:
    if node["momentum"] > 1:
        raise _refused(node, "momentum", "AdaDelta takes 0 to 1")
    return {"rho": node["momentum"], "eps": node["delta"]}, 0.0


def _adam(node: Node) -> tuple[dict[str, Any], float]:
    for name in ("momentum", "momentum2"):
        if node[name] >= 1:
            raise _refused(node, name, "Adam takes 0 up to, not including, 1")
    return {"betas": (node["momentum"], node["momentum2"]), "eps": node["delta"]}, 0.0


def _without_momentum(node: Node, kind: str) -> None:
    if node["momentum"]:
        raise _refused(node, "momentum", f"{kind} takes none, as in Caffe; remove it")


# By Caffe's names: PyTorch's optimizer, its options, and its momentum.
_RULES: Mapping[str, tuple[str, Callable[[Node], tuple[dict[str, Any], float]]]] = {
    "SGD": ("sgd", _sgd),
    "Nesterov": ("sgd", _nesterov),
    "AdaGrad": ("adagrad", _adagrad),
    "RMSProp": ("rmsprop", _rmsprop),
    "AdaDelta": ("adadelta", _adadelta),
    "Adam": ("adam", _adam),
}


def _policy(node: Node, iterations: int) -> Policy:
    name = _required(node, "lr_policy")
    why = f", which the policy {brief(name)} needs"

    def above_zero(field: str) -> Any:
        if _required(node, field, why) <= 0:
            raise _refused(node, field, "give more than 0")
        return node[field]

    def milestones() -> tuple[int, ...]:
        given = node["stepvalue"]
        if not given or given != sorted(set(given)) or given[0] < 0:
            raise RefusalError(
                node.line_of("stepvalue"),
                "the policy multistep needs stepvalue, each larger than that before; give them so",
            )
        return tuple(given)

    policies: Mapping[str, Callable[[], Policy]] = {
        "fixed": Fixed,
        "step": lambda: Steps(above_zero("stepsize"), above_zero("gamma")),
        "exp": lambda: Exponential(above_zero("gamma")),
        "inv": lambda: Inv(_least(node, "gamma", 0, why), _least(node, "power", 0, why)),
        "multistep": lambda: MultiStep(milestones(), above_zero("gamma")),
        "poly": lambda: Polynomial(_required(node, "power", why), iterations),
        "sigmoid": lambda: Logistic(_required(node, "gamma", why), _least(node, "stepsize", 0, why)),
    }
    if name not in policies:
        raise _refused(node, "lr_policy", f"take {', '.join(policies)}")
    policy = policies[name]()
    # Each of them only rises or only falls.
    for iteration in (0, iterations - 1):
        factor = policy.factor(iteration)
        if not (math.isfinite(factor) and factor > 0):
            raise RefusalError(
                node.line_of("lr_policy"),
                f"the policy {name} multiplies the rate by {factor} at iteration {iteration}; change its numbers, such "
                "that it stays a finite number above 0",
            )
    return policy
