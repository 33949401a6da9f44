"""A network's file as layers in today's syntax, each looked at by itself, and both phases beside one another."""

from __future__ import annotations

import json
from collections.abc import Sequence

from stantune.images.prototxt.layers.layer import Layer, Multipliers
from stantune.images.prototxt.layers.types import KINDS, learned_by
from stantune.images.prototxt.syntax.messages import NET, OLD_TYPES
from stantune.images.prototxt.syntax.schema import Node, read
from stantune.images.prototxt.syntax.text import RefusalError, parse
from stantune.texts import brief

MOST_LAYERS = 2000
DATA = {
    "Data": "data_param",
    "HDF5Data": "hdf5_data_param",
    "ImageData": "image_data_param",
    "MemoryData": "memory_data_param",
}
LOSS = "SoftmaxWithLoss"
# Which fields hold the parameters of layers that are no modules.
_OTHERS: dict[str, tuple[str, ...]] = {
    **{name: (name_of, "transform_param") for name, name_of in DATA.items()},
    "Accuracy": ("accuracy_param",),
    "Silence": (),
    "Split": (),
    LOSS: ("loss_param", "softmax_param"),
}
# What may be in one phase alone: it changes nothing of what the network says, or is nothing in the other one; a Softmax
# too, of which no module takes the result.
_OF_ONE_PHASE = ("Accuracy", "Dropout", "Silence", LOSS, *DATA)
_PHASES = ("TRAIN", "TEST")


def layers_of(text: str) -> list[Layer]:
    """Return a file's layers; raises RefusalError where one is not taken, or is another one in training and testing."""
    layers = _layers(read(parse(text), NET))
    _check_phases(layers)
    return layers


def _layers(node: Node) -> list[Layer]:
    if "input" in node or "input_dim" in node or "input_shape" in node:
        line = min(node.line_of(name) for name in ("input", "input_dim", "input_shape") if name in node)
        raise RefusalError(
            line, "the network has input: instead of a data layer, as those for deployment; give the one that trains"
        )
    if "state" in node:
        raise RefusalError(node.line_of("state"), "state chooses layers, which is not taken; remove it")
    if "layer" in node and "layers" in node:
        raise RefusalError(node.line_of("layers"), "there are both layer and layers; write all in one syntax")
    given = node["layer"] or node["layers"]
    if not given:
        raise RefusalError(1, "the file has no layer; give the file of a network that trains, with its data layers")
    if len(given) > MOST_LAYERS:
        raise RefusalError(given[MOST_LAYERS].line, f"there are more than {MOST_LAYERS} layers; give fewer")
    shared: dict[str, int] = {}
    layers = [_layer(each, shared, old="layers" in node) for each in given]
    for phase in _PHASES:
        seen: dict[str, Layer] = {}
        for layer in layers:
            if phase in layer.phases and layer.node["name"]:
                other = seen.setdefault(layer.name, layer)
                if other is not layer:
                    raise layer.refused(f"has the name of another one, of line {other.line}; call it otherwise")
    return layers


def _layer(node: Node, shared: dict[str, int], old: bool) -> Layer:
    if old and "layer" in node:
        raise RefusalError(
            node.line_of("layer"), "this is the oldest syntax, layers { layer { … } }; bring it up to date with "
            "Caffe's upgrade_net_proto_text",
        )  # fmt: skip
    kind = node["type"]
    if not kind:
        raise RefusalError(node.line, f"layer {brief(repr(node['name']))} has no type; give one")
    kind = OLD_TYPES[kind][0] if old else kind
    name = node["name"] or f"{kind} of line {node.line}"
    if old:
        names, multipliers = node["param"], _old_multipliers(node)
    else:
        names = [each["name"] for each in node["param"] if each["name"]]
        multipliers = tuple(Multipliers(each["lr_mult"], each["decay_mult"], each.line) for each in node["param"])
    layer = Layer(name, kind, node.line, tuple(node["bottom"]), tuple(node["top"]), node, multipliers, _phases_of(node))
    if kind == "Input":
        raise layer.refused("is of a file for deployment; give the network's file for training, with its data layers")
    if kind not in KINDS and kind not in _OTHERS:
        known = ", ".join(sorted({*KINDS, *_OTHERS}))
        raise layer.refused(f"is of a type that is not taken; there are {known}")
    _check_layer(layer)
    for each in names:
        if each in shared:
            raise layer.refused(
                f"shares the parameter {brief(repr(each))} with the layer of line {shared[each]}, and sharing is not "
                "taken; remove its name",
                node.line_of("param"),
            )
        shared[each] = layer.line
    return layer


def _old_multipliers(node: Node) -> tuple[Multipliers, ...]:
    rates, decays = node["blobs_lr"], node["weight_decay"]
    line = min(node.line_of(name) for name in ("blobs_lr", "weight_decay")) if rates or decays else node.line
    count = max(len(rates), len(decays))
    rates, decays = ([*given, *[1.0] * (count - len(given))] for given in (rates, decays))
    return tuple(Multipliers(*pair, line) for pair in zip(rates, decays, strict=True))


def _check_layer(layer: Layer) -> None:
    """Raise RefusalError for fields of a layer that another type reads, or that none does."""
    node, kind = layer.node, KINDS.get(layer.type)
    own = _OTHERS[layer.type] if kind is None else (kind.field,)
    for name in node.values:
        if name.endswith("_param") and name not in own and not (name == "transform_param" and layer.type in DATA):
            raise layer.refused(f"has {name}, which it does not read; remove that", node.line_of(name))
    if "phase" in node and layer.phases - {node["phase"]}:
        raise layer.refused(
            f"has phase: {node['phase']}, which has it compute so in the other phase too, and is not taken; remove it, "
            f"or write include {{ phase: {node['phase']} }}",
            node.line_of("phase"),
        )
    if "blobs" in node:
        raise layer.refused("holds weights; give a file without blobs", node.line_of("blobs"))
    if "propagate_down" in node and not all(node["propagate_down"]):
        raise layer.refused("has propagate_down: false, which is not taken; remove it", node.line_of("propagate_down"))
    if node["loss_weight"] != [1.0] if layer.type == LOSS and node["loss_weight"] else any(node["loss_weight"]):
        raise layer.refused(
            f"has loss_weight: {node['loss_weight'][0]}; one SoftmaxWithLoss of weight 1 is taken",
            node.line_of("loss_weight"),
        )
    if layer.type == LOSS and len(layer.tops) > 1:
        raise layer.refused("has a second top, of probabilities; leave it out, and take a Softmax for these")
    most = 0 if kind is None else kind.statistics + len(learned_by(layer))
    if len(layer.multipliers) > most:
        what = f"{most} parameters" if most else "no parameters"
        raise layer.refused(
            f"has {what}, and {len(layer.multipliers)} are given multipliers; remove some", layer.multipliers[most].line
        )
    for each in layer.multipliers:
        if each.lr < 0 or each.decay < 0:
            raise layer.refused("has a multiplier below 0; give 0 or more", each.line)
    if kind is not None:
        least, many = kind.bottoms
        if not least <= len(layer.bottoms) <= many or len(layer.tops) != 1:
            raise layer.refused(
                f"has {len(layer.bottoms)} bottoms and {len(layer.tops)} tops; give {_count(least, many)} and 1"
            )


def _count(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} or more"


def _phases_of(node: Node) -> frozenset[str]:
    include, exclude = node["include"], node["exclude"]
    if include and exclude:
        raise RefusalError(node.line_of("exclude"), "a layer has both include and exclude; leave out one")
    if include:
        return frozenset(phase for phase in _PHASES if any(_is_met(rule, phase) for rule in include))
    return frozenset(phase for phase in _PHASES if not any(_is_met(rule, phase) for rule in exclude))


def _is_met(rule: Node, phase: str) -> bool:
    """Tell whether a rule is met in a phase, at level 0 and without stages."""
    if rule["phase"] not in (None, phase) or rule["stage"]:
        return False
    return (rule["min_level"] or 0) <= 0 <= (rule["max_level"] or 0)


def _check_phases(layers: Sequence[Layer]) -> None:
    """Raise RefusalError where the network that is trained is another than the one that is tested."""
    # What is in both phases is alike in both.
    lists = {
        phase: [
            layer
            for place, layer in enumerate(layers)
            if layer.phases == {phase} and layer.type not in _OF_ONE_PHASE and not _is_shown(layer, layers[place + 1 :])
        ]
        for phase in _PHASES
    }
    for phase, other in (_PHASES, _PHASES[::-1]):
        if not any(layer.type in (LOSS, "Accuracy") and other in layer.phases for layer in layers):
            continue
        there = {_told(layer) for layer in lists[other]}
        for layer in lists[phase]:
            if _told(layer) not in there:
                raise layer.refused(
                    f"is in {phase} as it is not in {other}, and one network is trained and evaluated; have it alike "
                    "in both, or in a file of its own"
                )
    for layer in layers:
        if layer.type == "BatchNorm" and "use_global_stats" in layer.node["batch_norm_param"]:
            node = layer.node["batch_norm_param"]
            for phase, wrong in (("TRAIN", True), ("TEST", False)):
                if phase in layer.phases and node["use_global_stats"] is wrong:
                    raise layer.refused(
                        f"has use_global_stats: {str(wrong).lower()} in {phase}, which is not taken; remove it",
                        node.line_of("use_global_stats"),
                    )


def _is_shown(layer: Layer, behind: Sequence[Layer]) -> bool:
    """Tell whether it is a Softmax of whose result nothing more is computed."""
    taken = any(
        layer.tops[0] in each.bottoms
        for each in behind
        if each.phases & layer.phases and each.type in (*KINDS, "Split")
    )
    return layer.type == "Softmax" and not taken


def _told(layer: Layer) -> str:
    """Return what is to be alike in both phases, as a text."""
    content = layer.node.content("include", "exclude", "phase", "param", "blobs_lr", "weight_decay", "batch_norm_param")
    if layer.type == "BatchNorm":
        content["batch_norm_param"] = layer.node["batch_norm_param"].content("use_global_stats")
    return json.dumps(content, sort_keys=True)
