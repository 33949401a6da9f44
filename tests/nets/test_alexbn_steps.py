"""AlexBN's training steps and moving averages against a reference in NumPy, in float64, that knows no PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from stantune.images.problem.built_in import find

Array = NDArray[np.float64]
Back = Callable[[Array], Array]
EPS, FRACTION = 1e-5, 0.999
SETTING = {"lr": 0.02, "momentum": 0.9, "conv1_l2": 0.3, "conv2_l2": 0.01, "conv3_l2": 0.2, "fc1_l2": 0.1}
# Caffe's files and the source: what stands behind each convolution.
BLOCKS = {
    "source": (("max", "act", "norm"), ("act", "mean", "norm"), ("act", "mean", "norm")),
    "caffe": (("max", "norm", "act"), ("norm", "act", "mean"), ("norm", "act", "mean")),
}


def windows(x: Array, size: int, stride: int) -> Array:
    """Return (B, C, H', W', size, size), a view of x (B, C, H, W)."""
    return sliding_window_view(x, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]


def convolved(x: Array, weight: Array) -> Array:
    """Correlate x (B, C, H, W) with weight (O, C, 5, 5), padded by 2: (B, O, H, W)."""
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    return np.tensordot(windows(padded, 5, 1), weight, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)


def pooled(x: Array, maximum: bool) -> tuple[Array, Back]:
    """Pool 3x3 windows, two apart; the last of an even side is clipped, and a mean is of what is left."""
    side = x.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=-np.inf if maximum else 0.0)
    seen = windows(padded, 3, 2).reshape(*x.shape[:2], side // 2, side // 2, 9)
    counts = windows(np.pad(np.ones((1, 1, side, side)), ((0, 0), (0, 0), (0, 1), (0, 1))), 3, 2).sum((4, 5))
    shares = seen == seen.max(-1, keepdims=True) if maximum else np.ones_like(seen) / counts[..., None]

    def back(grad: Array) -> Array:
        of_padded = np.zeros_like(padded)
        for place in range(9):
            row, column = divmod(place, 3)
            part = of_padded[:, :, row : row + side : 2, column : column + side : 2]
            part += (grad * shares[..., place])[:, :, : part.shape[2], : part.shape[3]]
        return of_padded[:, :, :side, :side]

    return (seen.max(-1) if maximum else seen.sum(-1) / counts), back


class Reference:
    """The network, its momentum and Caffe's three blobs of each batch norm."""

    def __init__(self, weights: dict[str, Array], activation: str, order: str) -> None:
        self.weights = {name: value.copy() for name, value in weights.items()}
        self.velocity = {name: np.zeros_like(value) for name, value in weights.items()}
        self.activation, self.order = activation, order
        self.means = [np.zeros(width) for width in (32, 32, 64)]
        self.variances = [np.zeros(width) for width in (32, 32, 64)]
        self.scale = 0.0

    def act(self, x: Array) -> tuple[Array, Back]:
        if self.activation == "relu":
            return np.maximum(x, 0.0), lambda grad: grad * (x > 0.0)
        y = 1.0 / (1.0 + np.exp(-x))
        return y, lambda grad: grad * y * (1.0 - y)

    def norm(self, x: Array, block: int, training: bool) -> tuple[Array, Back]:
        of_channel = (None, slice(None), None, None)
        if not training:
            mean, variance = self.means[block] / self.scale, self.variances[block] / self.scale
            return (x - mean[of_channel]) / np.sqrt(variance + EPS)[of_channel], lambda grad: grad
        count = x.size // x.shape[1]
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
        self.means[block] = FRACTION * self.means[block] + mean
        self.variances[block] = FRACTION * self.variances[block] + variance * count / (count - 1)
        deviation = np.sqrt(variance + EPS)[of_channel]
        y = (x - mean[of_channel]) / deviation

        def back(grad: Array) -> Array:
            about = grad.mean((0, 2, 3), keepdims=True) + y * (grad * y).mean((0, 2, 3), keepdims=True)
            return (grad - about) / deviation

        return y, back

    def scores(self, x: Array, training: bool) -> tuple[Array, list[tuple[str, Any]]]:
        """Return (B, 10), and what leads back: weights' names with their inputs, and functions of gradients."""
        if training:
            self.scale = FRACTION * self.scale + 1.0
        trace: list[tuple[str, Any]] = []
        for block, kinds in enumerate(BLOCKS[self.order]):
            name = f"conv{block + 1}.weight"
            trace.append((name, x))
            x = convolved(x, self.weights[name])
            for kind in kinds:
                if kind == "act":
                    x, back = self.act(x)
                elif kind == "norm":
                    x, back = self.norm(x, block, training)
                else:
                    x, back = pooled(x, kind == "max")
                trace.append(("", back))
        flat = x.reshape(len(x), -1)
        trace.append(("fc1.weight", flat))
        return flat @ self.weights["fc1.weight"].T + self.weights["fc1.bias"], trace

    def step(self, x: Array, labels: NDArray[np.int64]) -> float:
        scores, trace = self.scores(x, training=True)
        shares = np.exp(scores - scores.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        loss = float(-np.log(shares[range(len(x)), labels]).mean())
        grad = (shares - np.eye(10)[labels]) / len(x)
        gradients = {"fc1.bias": grad.sum(0), "fc1.weight": grad.T @ trace.pop()[1]}
        grad = (grad @ self.weights["fc1.weight"]).reshape(len(x), 64, 4, 4)
        for name, kept in reversed(trace):
            if not name:
                grad = kept(grad)
                continue
            padded = np.pad(kept, ((0, 0), (0, 0), (2, 2), (2, 2)))
            gradients[name] = np.tensordot(grad, windows(padded, 5, 1), ((0, 2, 3), (0, 2, 3)))
            turned = self.weights[name].transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
            grad = convolved(grad, turned)
        for name, gradient in gradients.items():
            layer, _, kind = name.partition(".")
            decay = SETTING[f"{layer}_l2"] if kind == "weight" else 0.0
            change = SETTING["momentum"] * self.velocity[name]
            self.velocity[name] = change + SETTING["lr"] * (gradient + decay * self.weights[name])
            self.weights[name] = self.weights[name] - self.velocity[name]
        return loss


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("order", ["source", "caffe"])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32], ids=["double", "single"])
def test_steps_and_moving_averages(activation: str, order: str, kind: torch.dtype) -> None:
    problem = find(f"alexbn:activation={activation},order={order}")
    torch.manual_seed(0)
    # Larger weights than Caffe's, so that every variance is far above eps and every part of the gradient counts.
    network = problem.build({}).to(kind)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.05)
    reference = Reference(
        {name: value.detach().double().numpy() for name, value in network.named_parameters()}, activation, order
    )
    optimizer = problem.optimizer(network, SETTING)
    generator = np.random.default_rng(0)
    for iteration in range(4):
        x, labels = generator.normal(0.3, 1.0, (5, 3, 32, 32)), generator.integers(0, 10, 5)
        problem.scheduled(optimizer, SETTING)(iteration)
        loss = F.cross_entropy(network(torch.from_numpy(x).to(kind)), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        close = 1e-9 if kind == torch.float64 else 2e-3
        assert loss.item() == pytest.approx(reference.step(x, labels), rel=close)
    for name, value in network.named_parameters():
        got, wanted = value.detach().double().numpy(), reference.weights[name]
        assert np.abs(got - wanted).max() < close * np.abs(wanted).max(), name
    network.eval()
    x = generator.normal(0.3, 1.0, (5, 3, 32, 32))
    wanted, _ = reference.scores(x, training=False)
    with torch.no_grad():
        got = network(torch.from_numpy(x).to(kind)).double().numpy()
    assert np.abs(got - wanted).max() < close * np.abs(wanted).max()
    # Evaluation looks at the averages alone.
    assert int(network.norm1.num_batches_tracked) == 4
