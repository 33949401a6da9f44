"""Caffe's layers by type: of a layer and the sizes that it is given, the calls that make it, and its result's size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from stantune.images.prototxt.calls import Call, Chosen, Named, Value, call
from stantune.images.prototxt.layers.layer import MOST_LENGTH, Layer, filler_of, pair
from stantune.images.prototxt.syntax.schema import Node
from stantune.texts import brief

# Of one sample: (channels, height, width), or (numbers,).
Size: TypeAlias = tuple[int, ...]
# What a search changes of all LRN layers alike.
LRN_SCALE, LRN_POWER = "lrn_scale", "lrn_power"
# Caffe's largest networks have half of it: 2^28 float32 weights take a gigabyte.
MOST_WEIGHTS = 2**28
MOST_VALUES = 2**27


class Made(NamedTuple):
    """What a layer becomes: the calls of its modules, of which the last is its own, its result's size, its weights."""

    calls: list[Call]
    size: Size
    weights: int = 0


def _short(both: tuple[int, int]) -> Value:
    return both[0] if both[0] == both[1] else both


def _image(layer: Layer, size: Size) -> tuple[int, int, int]:
    if len(size) != 3:
        raise layer.refused(f"is given {size[0]} numbers; have it take images, before any InnerProduct or Flatten")
    return size[0], size[1], size[2]


def _given(layer: Layer, node: Node, name: str, most: int) -> int:
    value = node[name]
    if not value or value > most:
        said = f"has {name}: {value}" if name in node else f"has no {name}"
        raise layer.refused(f"{said}; give 1 to {most}", node.line_of(name))
    return int(value)


def _filled(layer: Layer, node: Node, made: Call) -> Call:
    """Return a call that fills a layer's weight, and its bias, which is zero unless the file says more."""
    filler = filler_of(layer, node, "weight_filler")
    if node["bias_term"] and "bias_filler" in node:
        of_bias = filler_of(layer, node, "bias_filler", bias=True)
        if of_bias != call("partial", Named("constant_"), value=0.0):
            return call("filled", made, filler, of_bias)
    return call("filled", made, filler)


def _out(length: int, kernel: int, stride: int, pad: int) -> int:
    return (length + 2 * pad - kernel) // stride + 1


def _convolution(layer: Layer, sizes: Sequence[Size]) -> Made:
    node = layer.node["convolution_param"]
    layer.only(node, axis=1)
    channels, height, width = _image(layer, sizes[0])
    outputs = _given(layer, node, "num_output", MOST_WEIGHTS)
    kernel = pair(layer, node, "kernel_size", ("kernel_h", "kernel_w"), None, 1)
    stride = pair(layer, node, "stride", ("stride_h", "stride_w"), 1, 1)
    pad = pair(layer, node, "pad", ("pad_h", "pad_w"), 0, 0)
    dilation = pair(layer, node, "dilation", ("", ""), 1, 1)
    group = node["group"]
    if not group or channels % group or outputs % group:
        raise layer.refused(
            f"has group: {group}, and {channels} channels make {outputs}; give a number that divides both",
            node.line_of("group"),
        )
    spread = [(one - 1) * by + 1 for one, by in zip(kernel, dilation, strict=True)]
    size = (outputs, *(_out(*each) for each in zip((height, width), spread, stride, pad, strict=True)))
    _check_fits(layer, kernel, (height, width), size)
    weights = outputs * (channels // group) * kernel[0] * kernel[1]
    options: dict[str, Value] = {}
    for name, both, default in (("stride", stride, 1), ("padding", pad, 0), ("dilation", dilation, 1)):
        if both != (default, default):
            options[name] = _short(both)
    if group != 1:
        options["groups"] = group
    if not node["bias_term"]:
        options["bias"] = False
    made = call("nn.Conv2d", channels, outputs, _short(kernel), **options)
    return Made([_filled(layer, node, made)], size, weights)


def _check_fits(layer: Layer, kernel: tuple[int, int], given: tuple[int, int], size: Size) -> None:
    if min(size[1:]) < 1:
        raise layer.refused(
            f"has windows of {kernel[0]} x {kernel[1]}, and is given {given[0]} x {given[1]}; give smaller "
            "ones, or more pad"
        )


def _pooling(layer: Layer, sizes: Sequence[Size]) -> Made:
    node = layer.node["pooling_param"]
    channels, height, width = _image(layer, sizes[0])
    if node["pool"] == "STOCHASTIC":
        raise layer.refused("has pool: STOCHASTIC, which is not taken; take MAX or AVE", node.line_of("pool"))
    kind = "nn.MaxPool2d" if node["pool"] == "MAX" else "nn.AvgPool2d"
    stride = pair(layer, node, "stride", ("stride_h", "stride_w"), 1, 1)
    pad = pair(layer, node, "pad", ("pad_h", "pad_w"), 0, 0)
    if node["global_pooling"]:
        if any(each in node for each in ("kernel_size", "kernel_h", "kernel_w")) or stride != (1, 1) or pad != (0, 0):
            raise layer.refused(
                "has global_pooling, which takes the whole image; leave out kernel_size, stride and pad",
                node.line_of("global_pooling"),
            )
        kernel = (height, width)
    else:
        kernel = pair(layer, node, "kernel_size", ("kernel_h", "kernel_w"), None, 1)
    up = node["round_mode"] == "CEIL"
    size = [channels]
    for length, window, step, edge in zip((height, width), kernel, stride, pad, strict=True):
        if 2 * edge > window:
            raise layer.refused(
                f"has pad: {edge} for windows of {window}, and more than half is not taken; give less",
                node.line_of("pad"),
            )
        out = -(-(length + 2 * edge - window) // step) + 1 if up else _out(length, window, step, edge)
        # The last window begins within the image, or is left out; Caffe looks only where there is a pad.
        outside = (out - 1) * step >= length + edge
        if outside and up and not edge:
            raise layer.refused(
                f"has stride: {step} for windows of {window}, and the last would lie outside of the image; give a "
                "smaller stride",
                node.line_of("stride"),
            )
        size.append(out - 1 if outside else out)
    _check_fits(layer, kernel, (height, width), tuple(size))
    options: dict[str, Value] = {} if pad == (0, 0) else {"padding": _short(pad)}
    if up:
        options["ceil_mode"] = True
    return Made([call(kind, _short(kernel), _short(stride), **options)], tuple(size))


def _inner_product(layer: Layer, sizes: Sequence[Size]) -> Made:
    node = layer.node["inner_product_param"]
    layer.only(node, axis=1, transpose=False)
    outputs = _given(layer, node, "num_output", MOST_WEIGHTS)
    inputs = math.prod(sizes[0])
    flatten = [call("nn.Flatten")] if len(sizes[0]) > 1 else []
    made = call("nn.Linear", inputs, outputs, **({} if node["bias_term"] else {"bias": False}))
    return Made([*flatten, _filled(layer, node, made)], (outputs,), inputs * outputs)


def _relu(layer: Layer, sizes: Sequence[Size]) -> Made:
    slope = layer.node["relu_param"]["negative_slope"]
    return Made([call("nn.LeakyReLU", slope) if slope else call("nn.ReLU")], sizes[0])


def _prelu(layer: Layer, sizes: Sequence[Size]) -> Made:
    node = layer.node["prelu_param"]
    filler = node["filler"]
    if filler["type"] != "constant":
        raise layer.refused(
            f"has a filler of type {brief(repr(filler['type']))}, which is not taken; take constant",
            filler.line_of("type"),
        )
    slope = filler["value"] if "filler" in node else 0.25
    return Made([call("nn.PReLU", 1 if node["channel_shared"] else sizes[0][0], slope)], sizes[0])


def _elu(layer: Layer, sizes: Sequence[Size]) -> Made:
    return Made([call("nn.ELU", layer.node["elu_param"]["alpha"])], sizes[0])


def _plain(what: str) -> Callable[[Layer, Sequence[Size]], Made]:
    return lambda layer, sizes: Made([call(what)], sizes[0])


def _lrn(layer: Layer, sizes: Sequence[Size]) -> Made:
    node = layer.node["lrn_param"]
    _image(layer, sizes[0])
    size = node["local_size"]
    if size % 2 == 0 or size > MOST_LENGTH:
        raise layer.refused(
            f"has local_size: {size}; give an odd number below {MOST_LENGTH}", node.line_of("local_size")
        )
    for field in ("alpha", "beta"):
        if node[field] < 0:
            raise layer.refused(f"has {field}: {node[field]}; give 0 or more", node.line_of(field))
    scale, power = Chosen(LRN_SCALE, node["alpha"]), Chosen(LRN_POWER, node["beta"])
    if node["norm_region"] == "WITHIN_CHANNEL":
        layer.only(node, k=1.0)
        return Made([call("WithinChannelLRN", scale, power, size)], sizes[0])
    if node["k"] <= 0:
        raise layer.refused(f"has k: {node['k']}; give more than 0", node.line_of("k"))
    return Made([call("nn.LocalResponseNorm", size, scale, power, node["k"])], sizes[0])


def _batch_norm(layer: Layer, sizes: Sequence[Size]) -> Made:
    node = layer.node["batch_norm_param"]
    if node["eps"] <= 0:
        raise layer.refused(f"has eps: {node['eps']}; give more than 0", node.line_of("eps"))
    fraction = node["moving_average_fraction"]
    if not 0 < fraction < 1:
        raise layer.refused(
            f"has moving_average_fraction: {fraction}; give a number between 0 and 1",
            node.line_of("moving_average_fraction"),
        )
    return Made([call("CaffeBatchNorm2d", sizes[0][0], node["eps"], fraction)], sizes[0])


def _scale(layer: Layer, sizes: Sequence[Size]) -> Made:
    node = layer.node["scale_param"]
    layer.only(node, axis=1, num_axes=1)
    made = call("Scale", sizes[0][0], **({"bias": True} if node["bias_term"] else {}))
    if "filler" in node or "bias_filler" in node:
        ones = call("partial", Named("constant_"), value=1.0)
        weight = filler_of(layer, node, "filler", bias=True) if "filler" in node else ones
        bias = [filler_of(layer, node, "bias_filler", bias=True)] if node["bias_term"] and "bias_filler" in node else []
        made = call("filled", made, weight, *bias)
    return Made([made], sizes[0])


def _dropout(layer: Layer, sizes: Sequence[Size]) -> Made:
    node = layer.node["dropout_param"]
    share = node["dropout_ratio"]
    if not 0 <= share < 1:
        raise layer.refused(
            f"has dropout_ratio: {share}; give a share from 0 up to, not including, 1", node.line_of("dropout_ratio")
        )
    return Made([call("nn.Dropout", share)], sizes[0])


def _concat(layer: Layer, sizes: Sequence[Size]) -> Made:
    layer.only(layer.node["concat_param"], axis=1, concat_dim=1)
    first = sizes[0]
    for name, size in zip(layer.bottoms, sizes, strict=True):
        if size[1:] != first[1:] or len(size) != len(first):
            raise layer.refused(
                f"is given {brief(name)} of {_by(size)} beside {brief(layer.bottoms[0])} of {_by(first)}; have them "
                "alike but for channels"
            )
    return Made([call("Concat")], (sum(size[0] for size in sizes), *first[1:]))


def _eltwise(layer: Layer, sizes: Sequence[Size]) -> Made:
    node = layer.node["eltwise_param"]
    coefficients = node["coeff"]
    if coefficients and (len(coefficients) != len(sizes) or node["operation"] != "SUM"):
        raise layer.refused(
            f"has coeff {len(coefficients)} times; give one for each of the {len(sizes)} bottoms, of a SUM",
            node.line_of("coeff"),
        )
    for name, size in zip(layer.bottoms, sizes, strict=True):
        if size != sizes[0]:
            raise layer.refused(
                f"is given {brief(name)} of {_by(size)} beside {brief(layer.bottoms[0])} of {_by(sizes[0])}; have them "
                "alike"
            )
    arguments: list[Value] = [node["operation"].lower()]
    if coefficients and set(coefficients) != {1.0}:
        arguments.append(tuple(coefficients))
    return Made([call("Eltwise", *arguments)], sizes[0])


def _flatten(layer: Layer, sizes: Sequence[Size]) -> Made:
    layer.only(layer.node["flatten_param"], axis=1, end_axis=-1)
    return Made([call("nn.Flatten")], (math.prod(sizes[0]),))


def _softmax(layer: Layer, sizes: Sequence[Size]) -> Made:
    layer.only(layer.node["softmax_param"], axis=1)
    return Made([call("nn.Softmax", 1)], sizes[0])


def _by(size: Size) -> str:
    return " x ".join(map(str, size))


@dataclass(frozen=True)
class Kind:
    """What is known of a type of layer.

    Attributes:
        make: from the layer and its inputs' sizes to what makes it.
        field: of the layer, the one that holds its own parameters.
        parameters: names of the learned ones, in Caffe's order; the second is there where the file says so.
        bottoms: how many it takes at least and at most.
        statistics: how many numbers besides a file may give multipliers, which mean nothing.
    """

    make: Callable[[Layer, Sequence[Size]], Made]
    field: str | None = None
    parameters: tuple[str, ...] = ()
    bottoms: tuple[int, int] = (1, 1)
    statistics: int = 0


_MANY = 1000
KINDS: dict[str, Kind] = {
    "BatchNorm": Kind(_batch_norm, "batch_norm_param", statistics=3),
    "Concat": Kind(_concat, "concat_param", bottoms=(1, _MANY)),
    "Convolution": Kind(_convolution, "convolution_param", ("weight", "bias")),
    "Dropout": Kind(_dropout, "dropout_param"),
    "ELU": Kind(_elu, "elu_param"),
    "Eltwise": Kind(_eltwise, "eltwise_param", bottoms=(2, _MANY)),
    "Flatten": Kind(_flatten, "flatten_param"),
    "InnerProduct": Kind(_inner_product, "inner_product_param", ("weight", "bias")),
    "LRN": Kind(_lrn, "lrn_param"),
    "PReLU": Kind(_prelu, "prelu_param", ("weight",)),
    "Pooling": Kind(_pooling, "pooling_param"),
    "ReLU": Kind(_relu, "relu_param"),
    "Scale": Kind(_scale, "scale_param", ("weight", "bias")),
    "Sigmoid": Kind(_plain("nn.Sigmoid"), "sigmoid_param"),
    "Softmax": Kind(_softmax, "softmax_param"),
    "TanH": Kind(_plain("nn.Tanh"), "tanh_param"),
}
# What has one of these learned weights can have a weight decay of its own in a search.
DECAYED = ("Convolution", "InnerProduct")


def learned_by(layer: Layer) -> tuple[str, ...]:
    """Return the names of a layer's learned parameters."""
    kind = KINDS.get(layer.type)
    if kind is None or not kind.parameters:
        return ()
    biased = "bias" in kind.parameters and layer.node[kind.field or ""]["bias_term"]
    return kind.parameters if biased else kind.parameters[:1]
