"""The networks against the sizes, fillers and solvers of their Caffe models, and of the meProp study."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stantune.errors import UsageError
from stantune.images.nets.caffe import CaffeBatchNorm2d, WithinChannelLRN
from stantune.images.nets.cifar import ALEXBN_SOLVER, ALEXLRN_SOLVER, CQ_SOLVER, alexbn, alexlrn, cq
from stantune.images.nets.lenet import LENET_SOLVER, lenet
from stantune.images.nets.meprop import MEPROP_SOLVER, meprop
from stantune.images.nets.mlp import MLP_SOLVER, mlp
from stantune.images.solving.solver import Fixed, Solver
from stantune.stan.layers.meprop import MePropLinear

MNIST, CIFAR = (2, 1, 28, 28), (2, 3, 32, 32)
NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...], Solver]] = {
    "lenet": (lenet, MNIST, LENET_SOLVER),
    "cq": (cq, CIFAR, CQ_SOLVER),
    "alexlrn": (alexlrn, CIFAR, ALEXLRN_SOLVER),
    "alexbn": (alexbn, CIFAR, ALEXBN_SOLVER),
    "mlp": (mlp, MNIST, MLP_SOLVER),
    "meprop": (meprop, MNIST, MEPROP_SOLVER),
}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        # Weights and biases by hand: outputs x inputs x 5 x 5 + outputs, and outputs x inputs + outputs.
        ("lenet", {"conv1": 520, "conv2": 25_050, "fc1": 400_500, "fc2": 5_010}),
        ("cq", {"conv1": 2_432, "conv2": 25_632, "conv3": 51_264, "fc1": 65_600, "fc2": 650}),
        ("alexlrn", {"conv1": 2_432, "conv2": 25_632, "conv3": 51_264, "fc1": 10_250}),
        ("alexbn", {"conv1": 2_400, "conv2": 25_600, "conv3": 51_200, "fc1": 10_250}),
        ("mlp", {"fc1": 392_500, "fc2": 5_010}),
        ("meprop", {"fc1": 392_500, "fc2": 250_500, "fc3": 5_010}),
    ],
)
def test_parameter_counts(name: str, sizes: dict[str, int]) -> None:
    network = NETWORKS[name][0]()
    found: dict[str, int] = {}
    for key, parameter in network.named_parameters():
        layer = key.split(".")[0]
        found[layer] = found.get(layer, 0) + parameter.numel()
    assert found == sizes


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("lenet", "conv1:24 pool1:12 conv2:8 pool2:4 flatten fc1 relu1 fc2"),
        (
            "cq",
            "conv1:32 pool1:16 relu1:16 conv2:16 relu2:16 pool2:8 conv3:8 relu3:8 pool3:4 flatten fc1 fc2",
        ),
        (
            "alexlrn",
            "conv1:32 pool1:16 relu1:16 norm1:16 conv2:16 relu2:16 pool2:8 norm2:8 conv3:8 relu3:8 pool3:4 flatten fc1",
        ),
        (
            "alexbn",
            "conv1:32 pool1:16 act1:16 norm1:16 conv2:16 act2:16 pool2:8 norm2:8 "
            "conv3:8 act3:8 pool3:4 norm3:4 flatten fc1",
        ),
        ("mlp", "flatten fc1 relu1 dropout1 fc2"),
    ],
)
def test_layers_follow_in_caffes_order_with_caffes_map_sizes(name: str, order: str) -> None:
    build, shape, _ = NETWORKS[name]
    x = torch.randn(shape)
    found = []
    for layer, module in build().named_children():
        x = module(x)
        assert x.ndim == 2 or x.shape[2] == x.shape[3]
        found.append(f"{layer}:{x.shape[2]}" if x.ndim == 4 else layer)
    assert " ".join(found) == order
    assert x.shape == (2, 10)


@pytest.mark.parametrize("name", ["cq", "alexlrn", "alexbn"])
def test_first_pooling_is_a_maximum_and_the_others_are_averages(name: str) -> None:
    network = NETWORKS[name][0]()
    kinds = [type(m) for m in network if isinstance(m, nn.MaxPool2d | nn.AvgPool2d)]
    assert kinds == [nn.MaxPool2d, nn.AvgPool2d, nn.AvgPool2d]


@pytest.mark.parametrize(
    ("name", "deviations"),
    [
        # lenet: xavier, of standard deviation 1 / sqrt(fan_in); the others: Caffe's gaussian.
        ("lenet", {"conv1": 25**-0.5, "conv2": 500**-0.5, "fc1": 800**-0.5, "fc2": 500**-0.5}),
        ("cq", {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc1": 0.1, "fc2": 0.1}),
        ("alexlrn", {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc1": 0.01}),
        ("alexbn", {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc1": 0.01}),
        # meProp's authors: a normal distribution of variance 6 / (inputs + outputs).
        ("meprop", {"fc1": (6 / 1284) ** 0.5, "fc2": (6 / 1000) ** 0.5, "fc3": (6 / 510) ** 0.5}),
    ],
)
def test_fillers(name: str, deviations: dict[str, float]) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name][0]()
    parameters = dict(network.named_parameters())
    for layer, deviation in deviations.items():
        weight = parameters[f"{layer}.weight"]
        # Five standard errors of an estimated deviation, which is about deviation / sqrt(2 n).
        error = 5.0 / (2.0 * weight.numel()) ** 0.5
        assert float(weight.detach().std()) == pytest.approx(deviation, rel=error), layer
        if f"{layer}.bias" in parameters:
            assert not parameters[f"{layer}.bias"].any(), layer


def test_the_generator_alone_decides_the_weights() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.detach().flatten() for p in cq().parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_last_changes_nothing_but_the_memory(name: str) -> None:
    build, shape, _ = NETWORKS[name]
    outcomes: list[tuple[Tensor, list[Tensor]]] = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(3)
        network = build().to(memory_format=memory_format)  # type: ignore[call-overload]
        x = torch.randn(shape).contiguous(memory_format=memory_format)
        scores = network.double()(x.double())
        scores.square().sum().backward()
        outcomes.append((scores, [p.grad for p in network.parameters() if p.grad is not None]))
    torch.testing.assert_close(outcomes[0], outcomes[1])


@pytest.mark.parametrize(
    ("name", "rates", "decays"),
    [
        ("lenet", {"weight": 0.01, "bias": 0.02}, {"": 5e-4}),
        ("cq", {"weight": 1e-3, "bias": 2e-3}, {"": 4e-3}),
        (
            "alexlrn",
            {"weight": 1e-3, "bias": 2e-3, "conv3.bias": 1e-3},
            {"": 4e-3, "fc1.weight": 1.0, "fc1.bias": 0.0},
        ),
        ("alexbn", {"": 1e-3}, {"": 0.0}),
        ("mlp", {"": 1e-3}, {"": 0.0}),
        ("meprop", {"": 1e-3}, {"": 0.0}),
    ],
)
def test_solvers_give_each_parameter_its_rate_and_decay(
    name: str, rates: dict[str, float], decays: dict[str, float]
) -> None:
    build, _, solver = NETWORKS[name]
    network = build()
    names = {id(parameter): key for key, parameter in network.named_parameters()}

    def expected(table: dict[str, float], key: str) -> float:
        return table[max((ending for ending in table if key.endswith(ending)), key=len)]

    for group in solver.optimizer(network, {}).param_groups:
        for parameter in group["params"]:
            key = names.pop(id(parameter))
            assert group["lr"] == pytest.approx(expected(rates, key)), key
            assert group["weight_decay"] == pytest.approx(expected(decays, key)), key
            assert group.get("momentum", 0.9) == 0.9
    assert not names


def test_rates_at_the_milestones() -> None:
    assert LENET_SOLVER.policy.factor(10_000) == pytest.approx(2.0**-0.75)
    for solver, at, factor in (
        (CQ_SOLVER, 3_999, 1.0),
        (CQ_SOLVER, 4_000, 0.1),
        (ALEXLRN_SOLVER, 59_999, 1.0),
        (ALEXLRN_SOLVER, 60_000, 0.1),
        (ALEXLRN_SOLVER, 65_000, 0.01),
    ):
        assert solver.policy.factor(at) == pytest.approx(factor)
    assert isinstance(ALEXBN_SOLVER.policy, Fixed)
    assert isinstance(MLP_SOLVER.policy, Fixed)
    assert (MLP_SOLVER.kind, ALEXBN_SOLVER.kind) == ("adam", "sgd")


def test_arguments_reach_the_layers() -> None:
    norms = [m for m in alexlrn(lrn_scale=2.0, lrn_power=0.5) if isinstance(m, WithinChannelLRN)]
    assert [(m.scale, m.power, m.size) for m in norms] == [(2.0, 0.5, 3)] * 2
    assert [(m.scale, m.power) for m in alexlrn() if isinstance(m, WithinChannelLRN)] == [(5e-5, 0.75)] * 2
    assert sum(isinstance(m, nn.Sigmoid) for m in alexbn("sigmoid")) == 3
    assert [(m.eps, m.fraction) for m in alexbn() if isinstance(m, CaffeBatchNorm2d)] == [(1e-5, 0.999)] * 3
    network = mlp(hidden=30, dropout=0.25, top_k=7)
    sparse = [m for m in network.modules() if isinstance(m, MePropLinear)]
    assert [(m.out_features, m.top_k) for m in sparse] == [(30, 7)]
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.25]
    network = meprop(hidden=30, hidden_layers=3, dropout=0.5, top_k=7, unified=True, sparse_bias=True)
    sparse = [m for m in network.modules() if isinstance(m, MePropLinear)]
    assert [(m.in_features, m.top_k, m.unified, m.sparse_bias) for m in sparse] == [
        (784, 7, True, True),
        (30, 7, True, True),
        (30, 7, True, True),
    ]
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.5] * 3
    assert type(network[-1]) is nn.Linear


def test_meprop_s_weights_are_normally_distributed() -> None:
    torch.manual_seed(0)
    weight = dict(meprop().named_parameters())["fc1.weight"].detach()
    deviation = (6 / 1284) ** 0.5
    # A normal distribution has 4.55 % of its mass beyond two standard deviations; a uniform one has none.
    assert float((weight.abs() > 2 * deviation).double().mean()) == pytest.approx(0.0455, abs=0.002)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: alexbn("tanh"), "tanh"),
        (lambda: alexbn(order="Caffe"), "order of alexbn is 'Caffe': take source or caffe"),
        (lambda: meprop(hidden=0), "0 neurons"),
        (lambda: meprop(hidden_layers=0), "0 hidden layers"),
        (lambda: meprop(dropout=-0.1), "-0.1"),
        (lambda: alexlrn(lrn_power=-1.0), "-1.0"),
        (lambda: mlp(hidden=0), "0 neurons"),
        (lambda: mlp(dropout=1.0), "1.0"),
        (lambda: mlp(top_k=-1), "-1"),
    ],
)
def test_impossible_arguments_are_refused(build: Callable[[], nn.Module], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        build()
