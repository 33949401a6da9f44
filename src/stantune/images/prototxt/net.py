"""A network's file: what is trained of it, which module takes whose results, and what data and multipliers it has."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any

from torch import nn

from stantune.images.prototxt.calls import Call
from stantune.images.prototxt.layers.layer import Layer, Multipliers
from stantune.images.prototxt.layers.types import DECAYED, KINDS, MOST_VALUES, MOST_WEIGHTS, Size, learned_by
from stantune.images.prototxt.net_layers import DATA, LOSS, layers_of
from stantune.images.prototxt.syntax.messages import OLD_LAYER
from stantune.images.prototxt.syntax.schema import Node
from stantune.images.prototxt.syntax.text import RefusalError
from stantune.texts import brief

# What a data layer may be told to make of images.
_CHANGING = ("crop_size", "mirror", "force_color", "force_gray", "new_height", "new_width")


@dataclass(frozen=True)
class Step:
    """A module of the network: its name, what makes it, and the places of the steps whose results it takes.

    -1 is the network's own input.
    """

    name: str
    call: Call
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Learned:
    """A parameter of a module, "weight" or "bias", its multipliers, and whether a search may give it its own decay."""

    module: str
    parameter: str
    lr: float
    decay: float
    decayed: bool


@dataclass(frozen=True)
class Net:
    """A network as a file describes it.

    Attributes:
        steps: its modules in their order.
        learned: its parameters.
        batch_size: of the training's data layer; None where it does not say.
        scale: what pixels are multiplied by.
        mean: what is taken off before: "image" for a mean file, "none", or a number for each channel.
    """

    steps: tuple[Step, ...]
    learned: tuple[Learned, ...]
    batch_size: int | None
    scale: float
    mean: Any

    @property
    def decayed(self) -> list[str]:
        """Names of the modules that a search may give a weight decay of their own; none has one whose rate is 0."""
        return list(dict.fromkeys(each.module for each in self.learned if each.decayed and each.decay and each.lr))


def read_net(text: str, size: Size, classes: int) -> Net:
    """Return the network that a file describes, for samples of a size (channels, height, width).

    Raises RefusalError, with the line, for all that is not taken.
    """
    layers = layers_of(text)
    training = [layer for layer in layers if "TRAIN" in layer.phases]
    data = _data_layer(training)
    scale, mean = _transform([layer for layer in layers if layer.type in DATA], size)
    net = _Wiring(size, data)
    for layer in training:
        net.add(layer)
    scores = net.scores(training, classes)
    steps, sources = net.needed(scores)
    batch_size = data.node[DATA[data.type]]["batch_size"]
    if batch_size == 0:
        raise data.refused("has batch_size: 0; give 1 or more", data.node[DATA[data.type]].line_of("batch_size"))
    return Net(steps, tuple(_learned(steps, sources)), batch_size, scale, mean)


def _data_layer(training: Sequence[Layer]) -> Layer:
    found = [layer for layer in training if layer.type in DATA]
    if not found:
        raise RefusalError(1, f"no data layer is there in TRAIN; give one ({', '.join(DATA)}) with two tops")
    if len(found) > 1:
        raise found[1].refused(f"is a second data layer in TRAIN, beside that of line {found[0].line}; leave one")
    if len(found[0].tops) != 2:
        raise found[0].refused(f"has {len(found[0].tops)} tops; give 2, images and labels")
    return found[0]


def _transform(layers: Sequence[Layer], size: Size) -> tuple[float, Any]:
    """Return scale and mean that all data layers have."""
    found: list[tuple[Layer, tuple[float, Any]]] = []
    for layer in layers:
        if not layer.phases:
            continue
        scale: float = 1.0
        mean: Any = None
        # In the old syntax what stands with the data counts, if both say it.
        for name in ("transform_param", DATA[layer.type]):
            node = layer.node[name]
            _check_data(layer, name, node)
            if "scale" in node:
                scale = node["scale"]
            if "mean_file" in node:
                if isinstance(mean, tuple):
                    raise layer.refused("has mean_file and mean_value; leave out one", node.line_of("mean_file"))
                mean = "image"
            if name == "transform_param" and node["mean_value"]:
                values, line = node["mean_value"], node.line_of("mean_value")
                if mean is not None:
                    raise layer.refused("has mean_file and mean_value; leave out one", line)
                if len(values) not in (1, size[0]):
                    raise layer.refused(
                        f"has mean_value {len(values)} times; give it once, or for each of the {size[0]} channels", line
                    )
                mean = tuple(values) if len(values) == size[0] else tuple(values * size[0])
        found.append((layer, (scale, "none" if mean is None else mean)))
        if found[-1][1] != found[0][1]:
            raise layer.refused(
                f"has another scale or mean than that of line {found[0][0].line}, and one is taken; have them alike"
            )
    return found[0][1]


def _check_data(layer: Layer, name: str, node: Node) -> None:
    """Raise RefusalError for what one of a data layer's messages says that is not taken."""
    if name == "transform_param" and name in layer.node and layer.type == "HDF5Data":
        raise layer.refused(
            "has transform_param, and Caffe transforms no such data; remove it", layer.node.line_of(name)
        )
    said = [each for each in ("scale", "mean_file") if each in node]
    if said and name != "transform_param" and layer.node.shape is not OLD_LAYER:
        first = min(said, key=node.line_of)
        raise layer.refused(
            f"has {first} in {name}, which Caffe reads in layers {{ … }} alone; write it into transform_param",
            node.line_of(first),
        )
    if node.values.get("is_color") is False:
        raise layer.refused(
            "has is_color: false, and images keep the data set's channels; remove it", node.line_of("is_color")
        )
    for each in _CHANGING:
        if node.values.get(each):
            raise layer.refused(
                f"has {each}: {str(node[each]).lower()}, which is not taken; remove it, and change images in "
                "the augment of the problem that `stantune import` writes",
                node.line_of(each),
            )


@dataclass
class _Wiring:
    """The training network while it is put together, layer by layer.

    A blob is what a name stands for at the moment: the place of a step, and the size of its result.
    """

    size: Size
    data: Layer
    steps: list[Step] = field(default_factory=list)
    sources: list[Layer | None] = field(default_factory=list)  # of each step, the layer that it has the weights of
    blobs: dict[str, tuple[int, Size] | None] = field(default_factory=dict)  # None for the labels
    names: set[str] = field(default_factory=lambda: {"data", "self"})  # of steps, and what Python of them takes
    weights: int = 0
    values: int = 0
    judged: list[tuple[int, Size] | None] = field(default_factory=list)  # what the loss takes

    def __post_init__(self) -> None:
        images, labels = self.data.tops
        if images == labels:
            raise self.data.refused("has one name for both tops; give two")
        self.blobs = {images: (-1, self.size), labels: None}

    def add(self, layer: Layer) -> None:
        """Take a layer in; raises RefusalError."""
        if layer is self.data:
            return
        taken = [self._blob(layer, name) for name in layer.bottoms]
        if layer.type not in ("Accuracy", "Silence", LOSS) and None in taken:
            raise layer.refused(f"takes {brief(repr(self.data.tops[1]))}, the labels; only the loss and accuracy may")
        if layer.type == LOSS:
            self.judged = taken
        if layer.type in ("Accuracy", "Silence", LOSS):
            return
        found = [each for each in taken if each is not None]
        if layer.type == "Split":
            if len(found) != 1:
                raise layer.refused(f"has {len(found)} bottoms; give 1")
            for top in layer.tops:
                self._name(layer, top, found[0])
            return
        calls, size, weights = KINDS[layer.type].make(layer, [size for _, size in found])
        self.values += math.prod(size)
        self.weights += weights
        if self.values > MOST_VALUES:
            raise layer.refused(f"makes the network's results {self.values} numbers for an image; make them smaller")
        if self.weights > MOST_WEIGHTS:
            raise layer.refused(f"makes the network's weights {self.weights} numbers; make them fewer")
        places = tuple(place for place, _ in found)
        for each in calls[:-1]:
            self._step("flatten", each, places, None)
            places = (len(self.steps) - 1,)
        self._step(layer.name, calls[-1], places, layer)
        self._name(layer, layer.tops[0], (len(self.steps) - 1, size))

    def scores(self, training: Sequence[Layer], classes: int) -> int:
        """Return the place of the step that gives the scores; raises RefusalError where there is no such loss."""
        losses = [layer for layer in training if layer.type == LOSS]
        if not losses:
            raise RefusalError(1, f"no layer is a {LOSS} in TRAIN; give a classifier's file, which has one")
        if len(losses) > 1:
            raise losses[1].refused(f"is a second loss, beside that of line {losses[0].line}; leave one")
        loss = losses[0]
        blobs = self.judged
        if len(loss.bottoms) != 2 or blobs[1] is not None or blobs[0] is None:
            raise loss.refused(f"takes {len(loss.bottoms)} bottoms; give 2, the scores and the data layer's labels")
        node = loss.node["loss_param"]
        if "ignore_label" in node:
            raise loss.refused("has ignore_label, which is not taken; remove it", node.line_of("ignore_label"))
        if node["normalization"] == "NONE":
            raise loss.refused("has normalization: NONE; take BATCH_SIZE, with a smaller base_lr", node.line)
        loss.only(loss.node["softmax_param"], axis=1)
        place, size = blobs[0]
        if math.prod(size[1:]) != 1:
            raise loss.refused(f"is given scores of {' x '.join(map(str, size))}; give one for each class")
        if size[0] < classes:
            raise loss.refused(f"is given {size[0]} scores, and the data have {classes} classes; give as many or more")
        if place < 0:
            raise loss.refused("is given the images themselves; put layers between")
        if len(size) > 1:
            self._step("flatten", Call("nn.Flatten"), (place,), None)
            place = len(self.steps) - 1
        return place

    def needed(self, last: int) -> tuple[tuple[Step, ...], list[Layer | None]]:
        """Return the steps that a result needs, in their order, and the layers that they are of."""
        needed = {last}
        for place in range(last, -1, -1):
            if place in needed:
                needed.update(self.steps[place].inputs)
        places = sorted(needed - {-1})
        new = {old: at for at, old in enumerate(places)} | {-1: -1}
        steps = tuple(
            Step(step.name, step.call, tuple(new[each] for each in step.inputs))
            for step in (self.steps[place] for place in places)
        )
        return steps, [self.sources[place] for place in places]

    def _blob(self, layer: Layer, name: str) -> tuple[int, Size] | None:
        if name not in self.blobs:
            raise layer.refused(f"takes {brief(repr(name))}, which no layer before it makes in TRAIN; name another")
        return self.blobs[name]

    def _name(self, layer: Layer, top: str, blob: tuple[int, Size]) -> None:
        if top in self.blobs and top not in layer.bottoms:
            raise layer.refused(f"makes {brief(repr(top))}, which another layer made before; name it otherwise")
        self.blobs[top] = blob

    def _step(self, name: str, call: Call, inputs: tuple[int, ...], layer: Layer | None) -> None:
        word = plain = _word(name)
        number = 2
        while word in self.names:
            word = f"{plain}_{number}"
            number += 1
        self.names.add(word)
        self.steps.append(Step(word, call, inputs))
        self.sources.append(layer)


# What a module has of its own, and no module in it may be called.
_TAKEN = frozenset(dir(nn.Sequential()))


def _word(name: str) -> str:
    """Return a layer's name as one of Python's, which a module may have."""
    word = re.sub(r"\W", "_", name, flags=re.ASCII)[:60] or "layer"
    word = f"layer_{word}" if not word[0].isalpha() else word
    return f"{word}_" if iskeyword(word) or word in _TAKEN else word


def _learned(steps: Sequence[Step], sources: Sequence[Layer | None]) -> Iterator[Learned]:
    """Yield the parameters of steps, with the multipliers that the file says."""
    for step, layer in zip(steps, sources, strict=True):
        if layer is not None:
            for place, name in enumerate(learned_by(layer)):
                said = layer.multipliers[place : place + 1] or (Multipliers(1.0, 1.0, layer.line),)
                yield Learned(step.name, name, said[0].lr, said[0].decay, layer.type in DECAYED)
