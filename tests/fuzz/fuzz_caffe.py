"""Caffe's files, damaged: networks and solvers are read or refused by line; what is read can be made and written."""

from __future__ import annotations

import ast
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from stantune.errors import StantuneError
from stantune.images.prototxt.reading import from_caffe
from stantune.images.prototxt.writing import as_python

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from caffe_files import layer, network  # isort: skip
from fuzz import Make  # isort: skip

FILES = Path(__file__).parents[2] / "examples" / "caffe"
FILL = 'weight_filler { type: "msra" variance_norm: AVERAGE } bias_filler { type: "constant" value: 0.1 }'
# What the examples do not have, of every kind of layer that is taken.
RICH = network(
    layer("Convolution", f"convolution_param {{ num_output: 6 kernel_size: [3, 2] dilation: 2 {FILL} }}", name="a"),
    layer("PReLU", "prelu_param { channel_shared: false filler { value: 0.1 } }", bottom="a", name="b"),
    layer("LRN", "lrn_param { local_size: 3 alpha: 0.1 k: 2 }", bottom="b", name="c"),
    layer("Split", 'top: "d2"', bottom="c", name="d"),
    layer("ELU", "elu_param { alpha: 0.5 }", bottom="d", name="e"),
    layer("TanH", bottom="d2", name="f"),
    layer("Eltwise", "eltwise_param { operation: SUM coeff: 1 coeff: -1 }", bottom="e f", name="g"),
    layer("Concat", "concat_param { axis: 1 }", bottom="g e", name="h"),
    layer("BatchNorm", "batch_norm_param { eps: 1e-4 }", bottom="h", name="i"),
    layer("Scale", "scale_param { bias_term: true filler { value: 2 } }", bottom="i", name="j"),
    layer("Dropout", "dropout_param { dropout_ratio: 0.2 }", bottom="j", name="n").replace('top: "n"', 'top: "j"'),
    layer("Sigmoid", bottom="j", name="k"),
    layer("Pooling", "pooling_param { pool: AVE kernel_h: 3 kernel_w: 2 stride: 2 pad: 1 }", bottom="k", name="l"),
    layer("Flatten", bottom="l", name="m"),
    layer("Softmax", bottom="m"),
)  # fmt: skip
OLD = """layers { name: "data" type: DATA top: "data" top: "label"
  data_param { batch_size: 64 scale: 0.5 mean_file: "m" } }
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1" blobs_lr: 1 blobs_lr: 2 weight_decay: 1
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" exclude { stage: "x" } }
layers { name: "ip" type: INNER_PRODUCT bottom: "conv1" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "uniform" min: -0.1 max: 0.1 } } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip" bottom: "label" top: "loss" }
"""
POLICIES = (
    '"fixed"',
    '"step" gamma: 0.1 stepsize: 50',
    '"exp" gamma: 0.999',
    '"multistep" gamma: 0.5 stepvalue: [5, 9]',
    '"poly" power: 0.5',
    '"sigmoid" gamma: -0.1 stepsize: 20',
)
RULES = ('"SGD"', '"Nesterov" momentum: 0.9', '"Adam"', '"AdaGrad"', '"RMSProp" rms_decay: 0.9', '"AdaDelta"')
NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "3",
    "1e9",
    "4294967295",
    "99999999999999999999",
    "0x7f",
    "1e-300",
    "nan",
    "inf",
    "0.5",
    "1000",
)
_WORD = re.compile(r'"[^"\n]*"|[A-Za-z_]\w*|-?[0-9.][\w.]*|\S')
# So much is made and called, and what is larger is only read: that is what the limits are for.
MOST_MADE = 1 << 21


def prepare(place: Path) -> Make:
    """Have files damaged in `place`."""
    texts = [file.read_text() for file in sorted(FILES.glob("*train_test.prototxt"))] + [RICH, OLD]
    solvers = [
        f"base_lr: 0.1 lr_policy: {policy} max_iter: 100 type: {rule}\n" for policy in POLICIES for rule in RULES
    ]
    known = sorted({word for text in (*texts, *solvers) for word in _WORD.findall(text)})

    def damaged(text: str, rng: random.Random) -> bytes:
        for _ in range(rng.choice((0, 1, 1, 1, 2, 4, 12))):
            found = list(_WORD.finditer(text))
            if not found:
                break
            one = rng.choice(found)
            way = rng.randrange(7)
            if way == 0:
                text = text[: one.start()] + text[one.end() :]
            elif way in (1, 2):
                text = text[: one.start()] + rng.choice(known) + text[one.end() :]
            elif way == 3:
                numbers = [each for each in found if each.group()[0].isdigit()] or found
                one = rng.choice(numbers)
                text = text[: one.start()] + rng.choice(NUMBERS) + text[one.end() :]
            elif way == 4:
                other = rng.choice(found)
                first, last = sorted((one.start(), other.end()))
                copied = text[first:last]
                text = text[:last] + " " + copied[:3000] + text[last:]
            elif way == 5:
                lines = text.split("\n")
                at = rng.randrange(len(lines))
                lines[at : at + rng.randrange(1, 8)] = []
                text = "\n".join(lines)
            else:
                odd = rng.choice(
                    ("{" * 50, "<" * 2000, '"', "'", "\\", "\0", "ü", "\u2028", "#", "[", "]", "}", '"\\377"', "'''")
                )
                text = text[: one.start()] + odd + text[one.start() :]
        content = text.encode()
        if rng.random() < 0.05:
            at = rng.randrange(len(content) + 1)
            content = content[:at] + rng.randbytes(rng.randrange(1, 9)) + content[at:]
        return content if rng.random() < 0.998 else content * rng.randrange(2, 1000)

    def make(rng: random.Random) -> tuple[str, Callable[[], str]]:
        net, solver = place / "net.prototxt", place / "solver.prototxt"
        which = rng.randrange(3)
        text, how = rng.choice(texts), rng.choice(solvers)
        net.write_bytes(damaged(text, rng) if which else text.encode())
        solver.write_bytes(damaged(how, rng) if which != 1 else how.encode())
        data, looked_at = rng.choice(("mnist", "cifar10")), rng.randrange(4)

        def tries() -> str:
            try:
                problem = from_caffe(net, solver, data)
            except StantuneError as error:
                said = str(error)
                fine = said.isprintable() and len(said) < 3000 and re.search(r"prototxt(, line [0-9]+: | )", said)
                return "refused" if fine else f"words: {said!r}"
            if looked_at == 0 and (others := other_calls(as_python(net, solver, data))):
                return f"calls: {others}"
            size = (1, 28, 28) if data == "mnist" else (3, 32, 32)
            if looked_at <= 1 and sum(made_of(step.call) for step in problem.network.steps) < MOST_MADE:  # type: ignore[attr-defined]
                model = problem.build({})
                problem.optimizer(model, {})
                scores = model.train()(torch.zeros(2, *size))
                if scores.shape[0] != 2 or scores.dim() != 2 or scores.shape[1] < 10:
                    return f"scores: {scores.shape}"
            return "works"

        return f"{data}: {net.read_bytes()!r:.2000} {solver.read_bytes()!r}", tries

    return make


def other_calls(written: str) -> set[str]:
    """What Python of a file calls or imports beside what it may."""
    found = set()
    for node in ast.walk(ast.parse(written)):
        if isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
        elif isinstance(node, ast.ImportFrom):
            found.add(f"{node.module}.x")
    own = {name for name in found if name.startswith(("nn.", "st.", "self.", "stantune.images."))}
    own |= {"torch.x", "functools.x", "collections.x", "OrderedDict", "partial", "filled", "super", "super().__init__"}
    own |= {"Concat", "Eltwise", "Scale", "CaffeBatchNorm2d", "WithinChannelLRN"}
    return found - own - {"Steps", "Exponential", "Polynomial", "Logistic"}


def made_of(call: object) -> int:
    """A bound of the work that a call makes: the product of its whole numbers."""
    product = 1
    for each in getattr(call, "arguments", ()):
        product *= each if isinstance(each, int) and each > 0 else made_of(each)
        if isinstance(each, tuple):
            product *= max(each) ** 2
    return product
