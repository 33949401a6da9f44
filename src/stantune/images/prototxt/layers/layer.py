"""A layer as a file has it, and what several types of layers read alike: sizes by axis, fillers."""

from __future__ import annotations

from dataclasses import dataclass

from stantune.images.prototxt.calls import Named, Value, call
from stantune.images.prototxt.syntax.schema import LARGEST, Node
from stantune.images.prototxt.syntax.text import RefusalError
from stantune.texts import brief

# No image is as long, and what reads larger numbers counts them in 32 bits with a sign.
MOST_LENGTH = 2**16


@dataclass(frozen=True)
class Multipliers:
    """Of one parameter's rate and decay, and where they stand."""

    lr: float
    decay: float
    line: int


@dataclass(frozen=True)
class Layer:
    """A layer as a file has it, in today's syntax.

    Attributes:
        name: its own; a word made of its type where it has none.
        type: such as "Convolution".
        line: where it begins.
        bottoms: names of what it takes.
        tops: names of what it makes.
        node: the whole of it.
        multipliers: of its weight and its bias, as far as the file says them.
        phases: those in which it is there, of TRAIN and TEST.
    """

    name: str
    type: str
    line: int
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    node: Node
    multipliers: tuple[Multipliers, ...]
    phases: frozenset[str]

    def refused(self, words: str, line: int | None = None) -> RefusalError:
        """Return a refusal that names the layer."""
        return RefusalError(
            self.line if line is None else line, f"layer {brief(repr(self.name))} ({brief(self.type)}) {words}"
        )

    def only(self, node: Node, **values: object) -> None:
        """Raise RefusalError where a field has another value than the one that is taken."""
        for field, value in values.items():
            if node[field] != value:
                shown = str(value).lower() if isinstance(value, bool) else value
                raise self.refused(
                    f"has {field}: {_shown(node[field])}; only {shown} is taken here", node.line_of(field)
                )


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else brief(value)


def pair(
    layer: Layer, node: Node, name: str, apart: tuple[str, str], default: int | None, least: int
) -> tuple[int, int]:
    """Return height and width of what a file says once, twice or by axis; raises RefusalError."""
    whole = node[name]
    values = whole if isinstance(whole, list) else [] if whole is None else [whole]
    line = node.line_of(name)
    if any(each in node for each in apart):
        if values:
            raise layer.refused(f"has {name} and {apart[0]} or {apart[1]}; leave out one or the others", line)
        line = min(node.line_of(each) for each in apart if each in node)
        height, width = (default if node[each] is None else node[each] for each in apart)
        if height is None or width is None:
            raise layer.refused(f"has one of {apart[0]} and {apart[1]}; give both", line)
    elif len(values) > 2:
        raise layer.refused(f"has {name} {len(values)} times; give it once, or for height and width", line)
    elif not values:
        if default is None:
            raise layer.refused(f"has no {name}; give one", node.line)
        return default, default
    else:
        height, width = values[0], values[-1]
    for value in (height, width):
        if not least <= value <= MOST_LENGTH:
            raise layer.refused(f"has {name}: {value}; give {least} to {MOST_LENGTH}", line)
    return height, width


def filler_of(layer: Layer, node: Node, name: str, bias: bool = False) -> Value:
    """Return what fills a parameter; raises RefusalError for one that is not taken."""
    filler = node[name]
    kind = filler["type"]
    where = filler.line_of("type")
    if kind == "constant":
        return call("partial", Named("constant_"), value=filler["value"])
    if kind == "uniform":
        if filler["min"] > filler["max"]:
            raise layer.refused(f"has a {name} from {filler['min']} to {filler['max']}; swap them", where)
        if filler["max"] - filler["min"] > LARGEST:
            raise layer.refused(
                f"has a {name} from {filler['min']} to {filler['max']}, too far apart for float32; have them closer",
                where,
            )
        return call("partial", Named("uniform_"), low=filler["min"], high=filler["max"])
    if kind == "gaussian":
        layer.only(filler, sparse=-1)
        if filler["std"] < 0:
            raise layer.refused(f"has a {name} with std: {filler['std']}; give 0 or more", filler.line_of("std"))
        if filler["mean"]:
            return call("partial", Named("normal_"), mean=filler["mean"], std=filler["std"])
        return call("partial", Named("gaussian_"), std=filler["std"])
    if bias or kind not in ("xavier", "msra", "positive_unitball"):
        known = "constant, uniform, gaussian" + ("" if bias else ", xavier, msra or positive_unitball")
        raise layer.refused(f"has a {name} of type {brief(repr(kind))}, which is not taken; take {known}", where)
    if kind == "positive_unitball":
        return Named("unit_ball_")
    fan = {"FAN_IN": "in", "FAN_OUT": "out", "AVERAGE": "average"}[filler["variance_norm"]]
    plain, of_fan = ("xavier_", "fan_xavier_") if kind == "xavier" else ("msra_", "msra_")
    return Named(plain) if fan == "in" else call("partial", Named(of_fan), fan=fan)
