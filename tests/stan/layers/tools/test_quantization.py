"""Quantization, which goes by classes: it says that restore_ is to be called first, and leaves no layer out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from all_kinds import QUIET, all_kinds, images, network
from compared import reduced
from torch import nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx

from stantune import restore_
from stantune.errors import UsageError
from stantune.stan.layers.conv2d import StanConv2d

pytestmark = QUIET

CONFIG = quantization.get_default_qat_qconfig("fbgemm")


def prepared(model: nn.Module, prepare: Callable, training: bool) -> nn.Module:
    model.train(training).qconfig = CONFIG if training else quantization.get_default_qconfig("fbgemm")
    return prepare(model)


QUANTIZATIONS: dict[str, Callable[[nn.Module], object]] = {
    "qat": partial(prepared, prepare=quantization.prepare_qat, training=True),
    "qat in place": partial(prepared, prepare=partial(quantization.prepare_qat, inplace=True), training=True),
    "after training": partial(prepared, prepare=quantization.prepare, training=False),
    "qat, fx": lambda model: quantize_fx.prepare_qat_fx(
        model, quantization.get_default_qat_qconfig_mapping("fbgemm"), (images(),)
    ),
    "after training, fx": lambda model: quantize_fx.prepare_fx(
        model.eval(), quantization.get_default_qconfig_mapping("fbgemm"), (images(),)
    ),
    "a layer": lambda model: setattr(model[0][0], "qconfig", CONFIG),
}


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_layers_are_not_left_out_of_a_quantization_without_a_word(name: str) -> None:
    for accelerated in (reduced, all_kinds):
        model = accelerated(network())
        with pytest.raises(UsageError, match=r"restore_\(model\) first.*quantize"):
            QUANTIZATIONS[name](model)
        restore_(model)
        QUANTIZATIONS[name](model)


def test_a_model_that_was_prepared_before_is_not_converted_without_a_word() -> None:
    model = reduced(prepared(network(), quantization.prepare, training=False))
    model(images())
    with pytest.raises(UsageError, match=r"restore_\(model\) first"):
        quantization.convert(model)
    restore_(model)
    assert "Quantized" in str(quantization.convert(model)[0][0])


def test_layers_that_are_to_be_left_out_of_a_quantization_are() -> None:
    model = reduced(network())
    for layer in (model[0][0], model[1][0]):
        layer.qconfig = None
        assert layer.qconfig is None
        del layer.qconfig
        assert not hasattr(layer, "qconfig")
    dynamic = quantization.quantize_dynamic(model.eval())
    assert type(dynamic[0][0]) is StanConv2d
    assert "Quantized" in str(dynamic[3])


def test_modules_that_are_to_be_fused_are_named() -> None:
    model = reduced(network()).eval()
    with pytest.raises(AssertionError, match="StanConv2d"):
        quantization.fuse_modules(model, [["0.0", "0.1", "0.2"]])
    restore_(model)
    quantization.fuse_modules(model, [["0.0", "0.1", "0.2"]])
