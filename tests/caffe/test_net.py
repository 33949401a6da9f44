"""A network's file: phases, both syntaxes, names, wiring, multipliers, data; all else is refused by layer and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from caffe_files import DATA, LOSS, layer, network
from caffe_files import layer as of

from stantune.images.prototxt.net import read_net
from stantune.images.prototxt.reading import Network, is_chain
from stantune.images.prototxt.syntax.text import RefusalError

FILES = Path(__file__).parents[2] / "examples" / "caffe"
CONV = "convolution_param { num_output: 4 kernel_size: 3 }"
PLAIN = network(layer("ReLU"))
OLD = """layers { name: "data" type: DATA top: "data" top: "label"
  data_param { source: "s" batch_size: 64 scale: 0.5 mean_file: "m" } }
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1"
  blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
layers { name: "ip" type: INNER_PRODUCT bottom: "conv1" top: "ip" blobs_lr: 3
  inner_product_param { num_output: 10 weight_filler { type: "gaussian" std: 0.1 } } }
layers { name: "accuracy" type: ACCURACY bottom: "ip" bottom: "label" top: "accuracy" include: { phase: TEST } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip" bottom: "label" top: "loss" }
"""
NEW = """layer { name: "data" type: "Data" top: "data" top: "label"
  transform_param { scale: 0.5 mean_file: "m" } data_param { source: "s" batch_size: 64 } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "ip" type: "InnerProduct" bottom: "conv1" top: "ip" param { lr_mult: 3 }
  inner_product_param { num_output: 10 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include: { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_the_old_syntax_says_the_same_as_the_new_one() -> None:
    old, new = (read_net(text, (3, 32, 32), 10) for text in (OLD, NEW))
    assert old == new
    assert (old.batch_size, old.scale, old.mean, old.decayed) == (64, 0.5, "image", ["conv1", "ip"])
    assert [step.name for step in old.steps] == ["conv1", "relu1", "flatten", "ip"]
    assert is_chain(old.steps)
    assert [(each.module, each.parameter, each.lr, each.decay) for each in old.learned] == [
        ("conv1", "weight", 1, 1),
        ("conv1", "bias", 2, 0),
        ("ip", "weight", 3, 1),
        ("ip", "bias", 1, 1),
    ]


def test_in_the_old_syntax_what_stands_with_the_data_counts() -> None:
    both = OLD.replace('  data_param { source: "s"', '  transform_param { scale: 3 } data_param { source: "s"')
    assert read_net(both, (3, 32, 32), 10) == read_net(OLD, (3, 32, 32), 10)
    without = both.replace("scale: 0.5 ", "")
    assert read_net(without, (3, 32, 32), 10).scale == 3
    with pytest.raises(RefusalError, match="has mean_file and mean_value; leave out one"):
        read_net(both.replace("scale: 3", "mean_value: 3"), (3, 32, 32), 10)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('include: { phase: TEST } }\nlayer { name: "loss"', 'include: { stage: "x" } }\nlayer { name: "loss"'),
        ('include: { phase: TEST } }\nlayer { name: "loss"', 'exclude: { phase: TRAIN } }\nlayer { name: "loss"'),
        ('"conv1" top: "conv1" }', '"conv1" top: "r" }\nlayer { type: "Split" bottom: "r" top: "conv2" }'),
        ("top: \"loss\" }", "top: \"loss\" loss_weight: 1 loss_param { normalization: BATCH_SIZE } }"),
        ('top: "data"', 'top: "data" include { max_level: 0 min_level: 0 not_stage: "x" }'),
        ("include: { phase: TEST } }", "include: { phase: TEST } phase: TEST }"),
        ('"conv1" top: "conv1" }', '"conv1" top: "conv1" relu_param { engine: MKLDNN } }'),
        ('layer { name: "accuracy"',
         'layer { type: "Softmax" bottom: "ip" top: "p" include { phase: TEST } }\nlayer { name: "accuracy"'),
    ],
)  # fmt: skip
def test_what_makes_no_difference(old: str, new: str) -> None:
    text = NEW.replace(old, new, 1)
    assert text != NEW
    if "Split" in new:
        text = text.replace('bottom: "conv1" top: "ip"', 'bottom: "conv2" top: "ip"')
    assert read_net(text, (3, 32, 32), 10) == read_net(NEW, (3, 32, 32), 10)


@pytest.mark.parametrize("kind", ["Split", "Softmax"])
def test_what_leads_elsewhere_in_one_phase_is_refused(kind: str) -> None:
    """In testing alone, "x" is made of something else."""
    other = f'layer {{ name: "s" type: "{kind}" bottom: "data" top: "y" include {{ phase: TEST }} }}\n'
    split = other.replace('"s"', '"t"').replace("TEST", "TRAIN").replace(kind, "Split").replace('"data"', '"x"')
    with pytest.raises(RefusalError, match="as it is not in T"):
        read_net(network(layer("ReLU"), other, split, bottom="y"), (3, 32, 32), 10)


def test_dropout_and_frozen_statistics_of_one_phase_are_one_network() -> None:
    norm = 'layer {{ name: "n" type: "BatchNorm" bottom: "data" top: "n" include {{ phase: {} }} {} }}\n'
    text = network(
        norm.format("TRAIN", "batch_norm_param { use_global_stats: false }"),
        norm.format("TEST", "batch_norm_param { use_global_stats: true }"),
        'layer { name: "d" type: "Dropout" bottom: "n" top: "n" include { phase: TRAIN } }\n',
        bottom="n",
    )
    assert [step.name for step in read_net(text, (3, 8, 8), 10).steps] == ["n", "d", "flatten", "scores"]


def test_layers_that_the_loss_does_not_need_are_left_out() -> None:
    silent = layer("Silence", bottom="x", name="s").replace(' top: "s"', "")
    text = network(layer("Convolution", CONV), layer("Softmax", bottom="x", name="prob"), silent)
    text += layer("Softmax", bottom="scores", name="p")
    assert [step.name for step in read_net(text, (3, 8, 8), 10).steps] == ["x", "flatten", "scores"]


def test_what_does_not_train_has_no_decay_to_be_searched() -> None:
    frozen = layer("Convolution", "param { lr_mult: 0 } param { lr_mult: 0 }", CONV)
    assert read_net(network(frozen), (3, 8, 8), 10).decayed == ["scores"]
    assert read_net(network(frozen.replace("0 }", "0.5 }", 1)), (3, 8, 8), 10).decayed == ["x", "scores"]


def test_scores_of_one_pixel_are_taken() -> None:
    text = DATA + layer("Pooling", "pooling_param { pool: AVE global_pooling: true }", name="scores") + LOSS
    net = read_net(text, (12, 8, 8), 10)
    assert Network(net.steps)()(torch.zeros(2, 12, 8, 8)).shape == (2, 12)


def test_names_become_those_that_modules_and_python_can_have() -> None:
    names = ["a/1x1", "a.1x1", "forward", "lambda", "1", "ü", "data", "self", "flatten", "x" * 100]
    # The input's own name cannot be one of the blobs that are made of it.
    tops = [f"{name}2" if name == "data" else name for name in names]
    layers = [
        layer("TanH", name=name, bottom=before).replace(f'top: "{name}"', f'top: "{top}"')
        for before, name, top in zip(["data", *tops], names, tops, strict=False)
    ]
    text = network(*layers, bottom=names[-1]).replace('name: "data"', 'name: "images"', 1)
    net = read_net(text, (1, 4, 4), 10)
    found = [step.name for step in net.steps]
    assert found == [
        "a_1x1", "a_1x1_2", "forward_", "lambda_", "layer_1", "layer__", "data_2", "self_2", "flatten", "x" * 60,
        "flatten_2", "scores",
    ]  # fmt: skip
    assert all(name.isidentifier() for name in found)
    assert Network(net.steps)()(torch.zeros(1, 1, 4, 4)).shape == (1, 10)


@pytest.mark.parametrize(
    ("layers", "line", "words"),
    [
        # Each stands behind the data layer, in line 5.
        (of("Slice"), 5, "layer 'x' (Slice) is of a type that is not taken; there are Accuracy, BatchNorm"),
        (of("Input"), 5, "(Input) is of a file for deployment"),
        (of(""), 5, "layer 'x' has no type; give one"),
        (of("ReLU", "relu_param { negative_slop: 1 }"), 6,
         "layer 'x': ReLUParameter has no field negative_slop (did you mean negative_slope?); mend or remove it"),
        (of("Pooling", "pooling_param { ceil_mode: true }"), 6, "layer 'x': PoolingParameter has no field ceil_mode;"),
        (of("ReLU", "smooth_l1_loss_param { }"), 6, "layer 'x': a layer has no field smooth_l1_loss_param; mend"),
        (of("ReLU", "pooling_param { }"), 6, "(ReLU) has pooling_param, which it does not read; remove that"),
        (of("ReLU", "param { }"), 6, "(ReLU) has no parameters, and 1 are given multipliers"),
        (of("Convolution", "param { } param { }", CONV.replace("}", "bias_term: false }")), 6, "has 1 parameters"),
        (of("Convolution", "param { lr_mult: -1 }", CONV), 6, "has a multiplier below 0"),
        (of("Convolution", "blobs { }", CONV), 6, "holds weights; give a file without blobs"),
        (of("Convolution", "propagate_down: false", CONV), 6, "has propagate_down: false, which is not taken"),
        (of("ReLU", "loss_weight: 1"), 6, "(ReLU) has loss_weight: 1.0; one SoftmaxWithLoss of weight 1 is taken"),
        (of("ReLU", bottom="data data"), 5, "has 2 bottoms and 1 tops; give 1 and 1"),
        (of("Eltwise"), 5, "has 1 bottoms and 1 tops; give 2 or more and 1"),
        (of("ReLU", 'top: "y"'), 5, "has 1 bottoms and 2 tops"),
        (of("ReLU", bottom="nix"), 5, "takes 'nix', which no layer before it makes in TRAIN"),
        (of("ReLU", bottom="label"), 5, "takes 'label', the labels; only the loss and accuracy may"),
        (of("ReLU") + of("ReLU", name="data"), 7, "(ReLU) has the name of another one, of line 1"),
        (of("ReLU") + of("TanH", name="y").replace('top: "y"', 'top: "x"'), 7, "makes 'x', which another layer"),
        (of("ReLU", "include { phase: TEST } exclude { phase: TEST }"), 6, "a layer has both include and exclude"),
        (of("ReLU", "include { phase: TRAIN }"), 5, "is in TRAIN as it is not in TEST, and one network is trained"),
        (of("BatchNorm", "batch_norm_param { use_global_stats: true }"), 6, "use_global_stats: true in TRAIN"),
        (of("BatchNorm", "batch_norm_param { use_global_stats: false }"), 6, "use_global_stats: false in TEST"),
        (of("BatchNorm", "batch_norm_param { eps: 0 }"), 6, "has eps: 0.0; give more than 0"),
        (of("BatchNorm", "batch_norm_param { moving_average_fraction: 1 }"), 6, "give a number between 0 and 1"),
        (of("Convolution"), 5, "has no num_output; give 1 to"),
        (of("Convolution", "convolution_param { num_output: 4 }"), 6, "has no kernel_size; give one"),
        (of("Convolution", CONV.replace("3", "0")), 6, "has kernel_size: 0; give 1 to 65536"),
        (of("Convolution", CONV.replace("}", "stride_h: 1 stride_w: 4294967295 }")), 6, "stride: 4294967295; give"),
        (of("Pooling", "pooling_param { kernel_size: 32 stride: 4294967295 }"), 6, "has stride: 4294967295; give 1"),
        (of("Pooling", "pooling_param { kernel_size: 4294967295 pad: 2147483647 }"), 6, "has pad: 2147483647; give 0"),
        (of("Convolution", CONV.replace("}", 'weight_filler { type: "uniform" min: -3e38 max: 3e38 } }')), 6, "far"),
        (of("Convolution", CONV.replace("}", 'weight_filler { type: "constant" value: 1e39 } }')), 6, "of 32 bits"),
        (of("Convolution", CONV.replace("}", "kernel_h: 2 }")), 6, "has kernel_size and kernel_h or kernel_w"),
        (of("Convolution", "convolution_param { num_output: 4 kernel_h: 3 }"), 6, "has one of kernel_h and kernel_w"),
        (of("Convolution", CONV.replace("}", "stride: [1, 1, 1] }")), 6, "has stride 3 times"),
        (of("Convolution", CONV.replace("}", "group: 2 }")), 6, "has group: 2, and 3 channels make 4; give a number"),
        (of("Convolution", CONV.replace("}", "axis: 2 }")), 6, "has axis: 2; only 1 is taken here"),
        (of("Convolution", CONV.replace("3", "35")), 5, "has windows of 35 x 35, and is given 32 x 32"),
        (of("Convolution", CONV.replace("}", 'weight_filler { type: "bilinear" } }')), 6, "'bilinear', which is not"),
        (of("Convolution", CONV.replace("}", 'bias_filler { type: "xavier" } }')), 6, "take constant, uniform, gauss"),
        (of("Convolution", CONV.replace("4", "4000000000")), 6, "has num_output: 4000000000; give 1 to"),
        (of("InnerProduct", "inner_product_param { num_output: 200000 }"), 5, "weights 614400000 numbers; make them"),
        (of("Convolution", CONV.replace("}", "pad: 9000 }")), 5, "the network's results 1300323600 numbers"),
        (of("InnerProduct", "inner_product_param { num_output: 9 transpose: true }"), 6, "only false is taken here"),
        (of("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }"), 6, "has pool: STOCHASTIC, which is not"),
        (of("Pooling", "pooling_param { kernel_size: 2 pad: 2 }"), 6, "has pad: 2 for windows of 2"),
        (of("Pooling", "pooling_param { kernel_size: 2 global_pooling: true }"), 6, "has global_pooling, which takes"),
        (of("LRN", "lrn_param { local_size: 4 }"), 6, "has local_size: 4; give an odd number"),
        (of("LRN", "lrn_param { local_size: 4294967295 }"), 6, "has local_size: 4294967295; give an odd number below"),
        (of("Dropout", "phase: TEST"), 6, "(Dropout) has phase: TEST, which has it compute so in the other phase too"),
        (of("TanH", "phase: TEST include { phase: TRAIN }"), 6, "(TanH) has phase: TEST"),
        (of("LRN", "lrn_param { alpha: -1 }"), 6, "has alpha: -1.0; give 0 or more"),
        (of("LRN", "lrn_param { k: 0 }"), 6, "has k: 0.0; give more than 0"),
        (of("Dropout", "dropout_param { dropout_ratio: 1 }"), 6, "has dropout_ratio: 1.0; give a share from 0"),
        (of("PReLU", 'prelu_param { filler { type: "gaussian" } }'), 6, "'gaussian', which is not taken"),
        (of("Flatten", "flatten_param { axis: 2 }"), 6, "has axis: 2; only 1"),
        (of("Flatten", name="y") + of("Convolution", CONV, bottom="y"), 7, "is given 3072 numbers; have it take"),
        (of("Pooling", "pooling_param { kernel_size: 2 }", name="y") + of("Concat", bottom="data y"), 7, "is given y"),
        (of("Pooling", "pooling_param { kernel_size: 2 }", name="y") + of("Eltwise", bottom="data y"), 7, "have them"),
        (of("Eltwise", "eltwise_param { coeff: 1 }", bottom="data data"), 6, "has coeff 1 times; give one for each"),
        (DATA.replace('"data" type', '"d" type'), 5, "is a second data layer in TRAIN, beside that of line 1"),
        (of("SoftmaxWithLoss", bottom="data label"), 7, "layer 'scores'"),
        (of("ReLU", 'param { name: "w" }').replace("ReLU", "PReLU") + of("PReLU", 'param { name: "w" }', name="y"), 8,
         "shares the parameter 'w' with the layer of line 5"),
    ],
)  # fmt: skip
def test_what_is_not_taken_is_refused_by_layer_and_line(layers: str, line: int, words: str) -> None:
    with pytest.raises(RefusalError) as caught:
        read_net(network(layers), (3, 32, 32), 10)
    assert words in caught.value.words
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "the file has no layer"),
        ('input: "data"\n' + PLAIN, 1, "input: instead of a data layer"),
        (layer("ReLU"), 1, "no data layer is there in TRAIN"),
        (DATA, 1, "no layer is a SoftmaxWithLoss in TRAIN"),
        (PLAIN + LOSS.replace('"loss" type', '"l" type'), 10, "is a second loss, beside that of line 9"),
        (DATA + LOSS.replace("scores", "data"), 5, "is given scores of 3 x 32 x 32; give one for each class"),
        (PLAIN.replace("num_output: 10", "num_output: 9"), 9, "is given 9 scores, and the data have 10"),
        (PLAIN + "layers { }", 10, "there are both layer and layers"),
        ("layers { layer { } }", 1, "this is the oldest syntax"),
        (PLAIN + 'state { stage: "x" }', 10, "state chooses layers, which is not taken; remove it"),
        (PLAIN.replace(' top: "label"', "", 1), 1, "has 1 tops; give 2, images and labels"),
        (PLAIN.replace("batch_size: 20", "batch_size: 0"), 3, "has batch_size: 0; give 1 or more"),
        (PLAIN.replace("data_param", "transform_param { mirror: true } data_param"), 3, "mirror: true"),
        (PLAIN.replace("batch_size", "crop_size: 9 batch_size"), 3, "has crop_size: 9, which is not taken"),
        (PLAIN.replace("data_param", "transform_param { mean_value: 1 mean_value: 2 } data_param"), 3,
         "has mean_value 2 times; give it once, or for each of the 3 channels"),
        (PLAIN.replace("data_param", 'transform_param { mean_file: "m" mean_value: 2 } data_param'), 3,
         "has mean_file and mean_value; leave out one"),
        (PLAIN.replace("loss\" }", 'loss" loss_param { normalization: NONE } }'), 9, "normalization: NONE"),
        (PLAIN.replace("loss\" }", 'loss" loss_param { ignore_label: 1 } }'), 9, "has ignore_label"),
        (PLAIN.replace("loss\" }", 'loss" loss_weight: 0.3 }'), 9, "has loss_weight: 0.3"),
        (PLAIN.replace("loss\" }", 'loss" loss_weight: 0 }'), 9, "has loss_weight: 0.0; one SoftmaxWithLoss of weight"),
        (PLAIN.replace("loss\" }", 'loss" top: "p" }'), 9, "has a second top, of probabilities; leave it out"),
        (PLAIN.replace("data_param", "image_data_param { is_color: false } data_param").replace('"Data"', '"ImageData"')
         .replace("data_param { batch_size: 20 }", ""), 3, "has is_color: false, and images keep the data set's chan"),
        (PLAIN.replace("batch_size", "scale: 2 batch_size"), 3,
         "has scale in data_param, which Caffe reads in layers { … } alone; write it into transform_param"),
        (PLAIN.replace("batch_size", 'mean_file: "m" batch_size'), 3, "has mean_file in data_param, which Caffe reads"),
        (PLAIN.replace('"Data"', '"HDF5Data"').replace("data_param", "transform_param { } hdf5_data_param"), 3,
         "(HDF5Data) has transform_param, and Caffe transforms no such data"),
        (PLAIN.replace('bottom: "label"', ""), 9, "takes 1 bottoms; give 2, the scores and the data"),
        (DATA.replace("type", "include { phase: TRAIN } type")
         + DATA.replace("type", "include { phase: TEST } transform_param { scale: 2 } type")
         + PLAIN.removeprefix(DATA), 5, "has another scale or mean than that of line 1"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_classifiers_is_refused(text: str, line: int, words: str) -> None:
    with pytest.raises(RefusalError) as caught:
        read_net(text, (3, 32, 32), 10)
    assert words in caught.value.words
    assert caught.value.line == line


def test_mean_values_are_one_per_channel() -> None:
    for said, mean in (("mean_value: 5", (5.0, 5.0, 5.0)), ("mean_value: [1, 2, 3]", (1.0, 2.0, 3.0))):
        text = PLAIN.replace("data_param", f"transform_param {{ {said} }} data_param")
        assert read_net(text, (3, 32, 32), 10).mean == mean


def test_the_examples_are_read_with_either_kind_of_bracket_and_without_layout() -> None:
    text = (FILES / "lenet_train_test.prototxt").read_text()
    flat = re.sub(r"\s+", " ", text.split("\n", 1)[1]).replace("{", "<").replace("}", ">")
    assert read_net(flat, (1, 28, 28), 10) == read_net(text, (1, 28, 28), 10)
