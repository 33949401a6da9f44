"""Caffe's layers as modules: against its own formulas, in plain loops; sizes as they are inferred and as they are."""

from __future__ import annotations

import math
import random

import pytest
import torch
from caffe_files import layer, read
from torch import Tensor, nn

from stantune.images.prototxt.layers.fillers import fan_xavier_, msra_, unit_ball_
from stantune.images.prototxt.layers.modules import Eltwise
from stantune.images.prototxt.net import Net
from stantune.images.prototxt.reading import Network
from stantune.images.prototxt.syntax.text import RefusalError


def built(net: Net, **keywords: float) -> nn.Module:
    torch.manual_seed(0)
    return Network(net.steps)(**keywords).eval()


def module(*layers: str, bottom: str = "x", size: tuple[int, int, int] = (3, 32, 32)) -> nn.Module:
    """The module of a file's layer called x."""
    return built(read(*layers, bottom=bottom, size=size)).get_submodule("x")


def pooled(x: Tensor, kind: str, kernel: int, stride: int, pad: int) -> Tensor:
    """Caffe's pooling_layer.cpp, in its own words: (C, H, W) to (C, h, w)."""
    height, width = x.shape[1:]
    sizes = [math.ceil((side + 2 * pad - kernel) / stride) + 1 for side in (height, width)]
    if pad:
        sizes = [out - ((out - 1) * stride >= side + pad) for out, side in zip(sizes, (height, width), strict=True)]
    result = torch.zeros(len(x), *sizes, dtype=x.dtype)
    for row in range(sizes[0]):
        for column in range(sizes[1]):
            top, left = row * stride - pad, column * stride - pad
            bottom, right = min(top + kernel, height + pad), min(left + kernel, width + pad)
            count = (bottom - top) * (right - left)
            window = x[:, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)].flatten(1)
            result[:, row, column] = window.amax(1) if kind == "MAX" else window.sum(1) / count
    return result


def test_pooling_is_caffes_for_all_small_windows() -> None:
    x = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tried = 0
    for kind in ("MAX", "AVE"):
        for kernel in range(1, 5):
            for stride in range(1, kernel + 1):
                for pad in range(kernel // 2 + 1):
                    words = f"pooling_param {{ pool: {kind} kernel_size: {kernel} stride: {stride} pad: {pad} }}"
                    made = module(layer("Pooling", words), size=(2, 9, 8))
                    assert torch.allclose(made(x[None])[0], pooled(x, kind, kernel, stride, pad), rtol=1e-12), words
                    tried += 1
    assert tried == 46


@pytest.mark.parametrize(
    ("words", "size", "result"),
    [
        ("global_pooling: true", (2, 9, 8), (2, 1, 1)),
        ("kernel_size: 3 stride: 2 round_mode: FLOOR", (2, 8, 8), (2, 3, 3)),
        ("kernel_size: 3 stride: 2", (2, 8, 8), (2, 4, 4)),
        ("kernel_h: 2 kernel_w: 4 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 2", (2, 8, 8), (2, 5, 4)),
    ],
)
def test_windows_of_other_shapes(words: str, size: tuple[int, int, int], result: tuple[int, ...]) -> None:
    for kind in ("MAX", "AVE"):
        made = module(layer("Pooling", f"pooling_param {{ pool: {kind} {words} }}"), size=size)
        assert tuple(made(torch.zeros(1, *size)).shape[1:]) == result


def test_a_window_beyond_the_image_is_refused() -> None:
    with pytest.raises(RefusalError, match=r"layer 'x' \(Pooling\) has stride: 3 for windows of 1, and the last would"):
        read(layer("Pooling", "pooling_param { kernel_size: 1 stride: 3 }"), size=(3, 9, 9))
    made = module(layer("Pooling", "pooling_param { kernel_size: 1 stride: 3 }"), size=(3, 10, 10))
    assert made(torch.zeros(1, 3, 10, 10)).shape == (1, 3, 4, 4)


def test_sizes_are_inferred_as_pytorch_has_them() -> None:
    rng = random.Random(0)
    right = 0
    for _ in range(120):
        size = (rng.choice((2, 4)), rng.randrange(5, 20), rng.randrange(5, 20))
        if rng.random() < 0.5:
            words = (
                f"convolution_param {{ num_output: {2 * rng.randrange(1, 4)} kernel_size: [{rng.randrange(1, 5)}, "
                f"{rng.randrange(1, 5)}] stride: {rng.randrange(1, 4)} pad: {rng.randrange(3)} dilation: "
                f"{rng.randrange(1, 4)} group: {rng.randrange(1, 3)} }}"
            )
            text = layer("Convolution", words)
        else:
            words = f"kernel_size: {rng.randrange(1, 5)} stride: {rng.randrange(1, 5)} pad: {rng.randrange(3)}"
            text = layer("Pooling", f"pooling_param {{ pool: AVE {words} }}")
        try:
            net = read(text, size=size)
        except RefusalError:
            continue
        # The inner product behind it takes as many numbers as were inferred.
        assert built(net)(torch.zeros(2, *size)).shape == (2, 10)
        right += 1
    assert right > 80


def test_lrn_across_channels_is_caffes() -> None:
    x = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    words = "lrn_param { local_size: 3 alpha: 0.3 beta: 0.6 k: 2 }"
    made = module(layer("LRN", words), size=(6, 3, 3))
    squares = torch.nn.functional.pad(x * x, (0, 0, 0, 0, 1, 1))
    sums = squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]
    assert torch.allclose(made(x), x * (2 + 0.3 / 3 * sums) ** -0.6, rtol=1e-12)


def test_the_searchs_lrn_parameters_stand_in_for_each_layers_own() -> None:
    net = read(
        layer("LRN", "lrn_param { local_size: 3 alpha: 0.3 }", name="a"),
        layer("LRN", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 5 alpha: 0.1 beta: 2 }", bottom="a"),
    )
    own = built(net)
    assert [(own.a.alpha, own.a.beta, own.x.scale, own.x.power, own.x.size)] == [(0.3, 0.75, 0.1, 2.0, 5)]
    chosen = built(net, lrn_scale=0.7)
    assert (chosen.a.alpha, chosen.a.beta, chosen.x.scale, chosen.x.power) == (0.7, 0.75, 0.7, 2.0)


@pytest.mark.parametrize(
    ("kind", "words", "function"),
    [
        ("ReLU", "", lambda x: x.clamp(min=0)),
        ("ReLU", "relu_param { negative_slope: 0.1 }", lambda x: torch.where(x > 0, x, 0.1 * x)),
        ("Sigmoid", "", lambda x: 1 / (1 + (-x).exp())),
        ("TanH", "", torch.tanh),
        ("ELU", "elu_param { alpha: 2 }", lambda x: torch.where(x > 0, x, 2 * (x.exp() - 1))),
        ("PReLU", "", lambda x: torch.where(x > 0, x, 0.25 * x)),
        ("PReLU", "prelu_param { channel_shared: true filler { value: 0.5 } }", lambda x: torch.where(x > 0, x, x / 2)),
        ("Scale", "scale_param { bias_term: true filler { value: 3 } bias_filler { value: 1 } }", lambda x: 3 * x + 1),
        ("Scale", "", lambda x: x),
        ("Softmax", "", lambda x: x.exp() / x.exp().sum(1, keepdim=True)),
        ("Dropout", "dropout_param { dropout_ratio: 0.4 }", lambda x: x),
        ("Flatten", "", lambda x: x.flatten(1)),
    ],
)
def test_a_layer_computes_what_caffes_does(kind: str, words: str, function) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(module(layer(kind, words), size=(3, 4, 4))(x), function(x), atol=1e-6)


def test_layers_of_several_inputs() -> None:
    a, b = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Eltwise("sum", (2.0, -1.0))(a, b), 2 * a - b)
    assert torch.equal(Eltwise("prod")(a, b), a * b)
    assert torch.equal(Eltwise("max")(a, b), torch.maximum(a, b))
    net = read(
        layer("TanH", name="a"),
        layer("Eltwise", "eltwise_param { operation: SUM coeff: 1 coeff: -2 }", bottom="a data", name="b"),
        layer("Concat", bottom="b data a"),
        size=(3, 4, 4),
    )
    made = built(net)
    taken = made.scores.weight.view(10, 9, 4, 4)
    stacked = torch.cat([a.tanh() - 2 * a, a, a.tanh()], 1)
    expected = torch.einsum("bchw,ochw->bo", stacked, taken) + made.scores.bias
    assert torch.allclose(made(a), expected, atol=1e-5)


def test_fillers_are_caffes() -> None:
    torch.manual_seed(0)
    shape = (40, 30, 5, 4)
    out, average = 40 * 5 * 4, (40 + 30) * 5 * 4 / 2
    for fan, numbers in (("in", 30 * 5 * 4), ("out", out), ("average", average)):
        weight = fan_xavier_(torch.empty(shape), fan)  # type: ignore[arg-type]
        assert weight.abs().max() <= math.sqrt(3 / numbers)
        assert weight.std().item() == pytest.approx(math.sqrt(1 / numbers), rel=0.02)
        assert msra_(torch.empty(shape), fan).std().item() == pytest.approx(math.sqrt(2 / numbers), rel=0.02)  # type: ignore[arg-type]
    ball = unit_ball_(torch.empty(shape))
    assert torch.allclose(ball.flatten(1).sum(1), torch.ones(40))
    assert ball.min() >= 0


@pytest.mark.parametrize(
    ("weight", "bias", "check"),
    [
        ('type: "constant" value: 2', "value: 1", lambda w, b: bool((w == 2).all() and (b == 1).all())),
        ("", "", lambda w, b: not w.any() and not b.any()),
        ('type: "uniform" min: -2 max: -1', "", lambda w, b: -2 <= w.min() <= w.max() < -1 and not b.any()),
        ('type: "gaussian" mean: 5 std: 0.1', "", lambda w, b: abs(w.mean() - 5) < 0.1 and w.std() < 0.2),
        ('type: "msra" variance_norm: FAN_OUT', 'type: "gaussian"', lambda w, b: bool(b.all())),
    ],
)
def test_weights_and_biases_begin_as_the_file_says(weight: str, bias: str, check) -> None:  # type: ignore[no-untyped-def]
    words = f"num_output: 20 weight_filler {{ {weight} }} bias_filler {{ {bias} }}"
    made = module(layer("InnerProduct", f"inner_product_param {{ {words} }}"))
    assert check(made.weight.detach(), made.bias.detach())


def test_batch_norm_has_caffes_numbers() -> None:
    net = read(layer("BatchNorm", "batch_norm_param { eps: 0.1 moving_average_fraction: 0.5 }"), size=(3, 4, 4))
    made = built(net).x
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    y = made.train()(x)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    assert torch.allclose(y, (x - mean) / (var + 0.1).sqrt(), atol=1e-5)
    assert torch.allclose(made.eval()(x), (x - mean) / (x.var((0, 2, 3), keepdim=True) + 0.1).sqrt(), atol=1e-5)


def test_batch_norm_and_scale_stand_behind_inner_products_too() -> None:
    net = read(
        layer("InnerProduct", 'inner_product_param { num_output: 7 weight_filler { type: "xavier" } }', name="a"),
        layer("BatchNorm", bottom="a", name="b"),
        layer("Scale", bottom="b", name="c"),
        layer("PReLU", bottom="c"),
        size=(3, 4, 4),
    )
    made = built(net).train()
    made(torch.randn(6, 3, 4, 4)).sum().backward()
    assert {name for name, each in made.named_parameters() if each.grad is not None} == {
        "a.weight", "a.bias", "c.weight", "x.weight", "scores.weight", "scores.bias",
    }  # fmt: skip
