"""Ways of training that a study compares, as texts: "none", "compiled", "native", "stan:0.25/9@conv2", "meprop:80"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from stantune.arguments import digits, shown, typed_number
from stantune.compare.study.contract import NATIVE, STOCK
from stantune.errors import UsageError
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import Splits
from stantune.images.resizing import Resize
from stantune.kernels.library import WINOGRAD_SWITCH
from stantune.objectives.choose import objective_of
from stantune.protocols import Objective
from stantune.stan.config import Memo, Stan
from stantune.stan.layers.meprop import MeProp
from stantune.texts import brief
from stantune.tuning.compose import BY_RUNG

# What a memory may hold. A number, and not a share of what happens to be free: each training must give the same layers
# one. Checkpoints hold it, too.
MEMO_BYTES = 2**30
# Components that meProp keeps where nothing else is said: its authors' for a layer of 500.
TOP_K = 80
# The sides of small images where nothing else is said.
SMALL = "1/2"
# Stock PyTorch, too, whose network torch.compile compiles.
COMPILED = "compiled"
# Letters of a way in a folder's name, of which others may have 255.
_LONGEST = 100
# A parameter of this name says the same of a network that does meProp by itself, as the built-in mlp.
_TOP_K = "top_k"
_REMEDY = (
    "give none, compiled, native, native:no-winograd, stan, stan:0.25, stan:annealed, stan:auto, stan:0.25,0.5,1, "
    "memo, meprop:80, meprop:unified:80, resize:1/2, stan+meprop or stan+resize; stan and memo with /Z and @LAYERS"
)


class Applied(NamedTuple):
    """What is searched in a way, and what `tune` takes beside it: rates by rung, and parameters that have one value."""

    objective: Objective
    rates: Sequence[float] | Literal["auto"] = ()
    fixed: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Way:
    """A way of training, as data.

    Attributes:
        name: as it is asked for.
        stan: what is set of STAN's settings; None for stock PyTorch.
        rates: by rung.
        remembers: whether the fill is memo.
        winograd: whether native kernels may convolve by minimal filtering; not is the control of its rounding.
        compiles: whether torch.compile compiles a problem's network.
        resize: how small images are in the first part of a trial; None for whole ones.
    """

    name: str
    stan: Mapping[str, Any] | None = field(default_factory=dict)
    rates: tuple[float, ...] | Literal["auto"] = ()
    remembers: bool = False
    winograd: bool = True
    compiles: bool = False
    resize: Resize | None = None

    @property
    def folder(self) -> str:
        """The name as a part of a folder's."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.replace("*", "all").lower())[:_LONGEST].strip("-")

    @property
    def environment(self) -> dict[str, str]:
        """What the processes that train have in their environment."""
        return {} if self.winograd else {WINOGRAD_SWITCH: "off"}

    def applied(
        self, objective: Objective, fixed: Mapping[str, Any] | None = None, splits: Splits | None = None
    ) -> Applied:
        """Return what is searched in this way.

        Args:
            objective: of what kind it trains itself does not count.
            fixed: parameters that have one value in all ways.
            splits: a problem's data, for memo; None while nothing is trained yet.

        Raises:
            UsageError: this cannot be trained so.
        """
        if isinstance(objective, ProblemObjective):
            return self._of_problem(objective, fixed or {}, splits)
        given = self.stan
        if given is not None and (self.remembers or given.get("rate") == "annealed"):
            raise UsageError(
                f"`ways`={self.name} is for problems, whose samples and iterations are known, and {objective.name} is "
                "none; leave it out, or study that apart"
            )
        if self.compiles:
            raise UsageError(
                f"`ways`={self.name} is for problems, whose networks are known, and {objective.name} is none; leave it "
                "out, or call torch.compile in a function of its own"
            )
        if self.resize is not None:
            raise UsageError(
                f"`ways`={self.name} is for problems, whose images are known, and {objective.name} is none; leave it "
                "out, or make images small in a function of its own"
            )
        if getattr(objective, "stan", None) is None and given is None:
            return Applied(objective)
        if given is None:
            return Applied(replace(objective, stan=None))  # type: ignore[type-var]  # it has such a field
        return Applied(objective_of(objective, stan=Stan(**{**self._by_rung, **given})), self.rates)

    @property
    def _by_rung(self) -> dict[str, Any]:
        return BY_RUNG if self.rates else {}

    def _of_problem(self, objective: ProblemObjective, held: Mapping[str, Any], splits: Splits | None) -> Applied:
        problem, given = objective.problem, self.stan
        settings = {"layers": problem.stan_layers, **self._by_rung, **(given or {})}
        fixed = {}
        if _TOP_K in problem.space:
            if _TOP_K in held:
                raise UsageError(
                    f"`fixed` holds top_k of {problem.name} at {shown(held[_TOP_K])}, and the ways say it themselves: "
                    "0, and in meprop:K it is K; leave it out"
                )
            # The network does meProp itself, as its setting says: plainly in all ways but meProp's.
            meprop = settings.pop("meprop", None)
            if meprop is not None and meprop.unified:
                raise UsageError(
                    f"`ways`={self.name}: the network of {problem.name} has a `top_k` of its own, each example's; give "
                    f"meprop:{meprop.top_k}"
                )
            fixed[_TOP_K] = 0 if meprop is None else meprop.top_k
        if given is None:
            return Applied(replace(objective, stan=None, compile=self.compiles, resize=None), (), fixed)
        if self.remembers:
            if "batch_size" in problem.space and "batch_size" not in held:
                raise UsageError(
                    f"`ways`={self.name} counts in epochs, and settings of {problem.name} differ in their batch_size; "
                    "leave it out, or hold batch_size at a value with `fixed`"
                )
            # Samples are known by their ids, which have gaps where others were held out.
            samples = 1 if splits is None else int(splits.train.ids.max()) + 1
            epoch = 1 if splits is None else max(len(splits.train) // problem.batch_size_of(held), 1)
            settings["memo"] = Memo(samples=samples, epoch=epoch, budget=MEMO_BYTES)
        return Applied(replace(objective, stan=Stan(**settings), resize=self.resize), self.rates, fixed)


def ways_of(given: object) -> tuple[Way, ...]:
    """Return ways by their texts, a list of them or one text with commas between; raises UsageError."""
    if isinstance(given, str):
        # A comma before a number is between the rates of one way.
        given = re.split(r",(?!\s*[\d.+-])", given)
    if not isinstance(given, list | tuple) or not given or not all(isinstance(each, str) for each in given):
        raise UsageError(f"`ways`={shown(given)} is no list of ways; {_REMEDY}")
    ways = tuple(way_of(each.strip()) for each in given)
    seen = dict[str, str]()
    for way in ways:
        if way.folder in seen:
            raise UsageError(
                f"`ways` has {seen[way.folder]} and {way.name}, which would share a folder; give one of them"
            )
        seen[way.folder] = way.name
    return ways


def way_of(text: str) -> Way:
    """Return the way of a text; raises UsageError where it is none."""
    if text in (STOCK, COMPILED):
        return Way(text, None, compiles=text == COMPILED)
    if text in (NATIVE, f"{NATIVE}:no-winograd"):
        return Way(text, {"rate": 1}, winograd=text == NATIVE)
    first, plus, second = text.partition("+")
    if not plus and first.partition(":")[0] in ("meprop", "resize"):
        alone = Way(text, {"rate": 1})
        return _resized(alone, first) if first.startswith("resize") else _meprop_too(alone, first)
    way = _thinned(text, first)
    if plus:
        way = _resized(way, second) if second.partition(":")[0] == "resize" else _meprop_too(way, second)
    return way


def _thinned(name: str, text: str) -> Way:
    """Return the way of what stands for STAN's settings: KIND[:RATE][/Z][@LAYERS]."""
    what, at, layers = text.partition("@")
    what, slash, period = what.partition("/")
    kind, colon, rate = what.partition(":")
    if kind in (STOCK, COMPILED, NATIVE, "meprop", "resize"):
        raise _unknown(name, f"{kind} is not said so")
    if kind not in ("stan", "memo"):
        raise _unknown(name, f"nothing is called {kind!r}" if kind else "it is empty")
    given: dict[str, Any] = {}
    if at:
        if not layers:
            raise _unknown(name, "there are no layers behind the @")
        given["layers"] = (layers,)
    if slash:
        reduced = digits(period)
        if reduced is None and period != "none":
            raise _unknown(name, f"/{period} is no number of reduced iterations")
        given["period"] = reduced
    rates: tuple[float, ...] | Literal["auto"] = ()
    if kind == "stan" and rate == "auto":
        rates = "auto"
    elif kind == "stan" and rate == "annealed":
        given["rate"] = rate
    elif colon:
        numbers = [typed_number(each) for each in rate.split(",")]
        if None in numbers or (kind == "memo" and len(numbers) > 1):
            raise _unknown(name, f"{rate!r} is no rate")
        found = tuple(number for number in numbers if number is not None)
        if len(found) > 1:
            rates = found
        else:
            [given["rate"]] = found
    return Way(name, given, rates, kind == "memo")


def _resized(way: Way, text: str) -> Way:
    """Return the way with small images first: resize[:SHARE[:UNTIL]]."""
    kind, colon, shares = text.partition(":")
    if kind != "resize":
        raise _unknown(way.name, f"{text!r} is no resize")
    try:
        return replace(way, resize=Resize.of(shares if colon else SMALL))
    except UsageError as error:
        raise _unknown(way.name, str(error)) from None


def _meprop_too(way: Way, text: str) -> Way:
    """Return the way with meProp in linear layers."""
    return replace(way, stan={**(way.stan or {}), "meprop": _meprop(way.name, text)})


def _meprop(name: str, text: str) -> MeProp:
    kind, *options = text.split(":")
    if kind != "meprop":
        raise _unknown(name, f"{text!r} is no meprop")
    unified = options[:1] == ["unified"]
    options = options[unified:]
    top_k = digits(options[0]) if len(options) == 1 else TOP_K
    if len(options) > 1 or not top_k:
        raise _unknown(name, f"{text!r} does not say how many components are kept")
    return MeProp(top_k, unified)


def _unknown(name: str, why: str) -> UsageError:
    return UsageError(f"`ways`={brief(name)} is no way of training: {why}; {_REMEDY}")
