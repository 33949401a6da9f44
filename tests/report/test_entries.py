"""The numbers of an entries report, against the layers' own reduced outputs and loops over the definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stantune import Stan, accelerate_
from stantune.errors import UsageError
from stantune.report.stan.entries import entries_report, layer_entries
from stantune.stan.entries.entries import PATTERNS, EntryMatrix, Grid


def norms(output: torch.Tensor) -> torch.Tensor:
    return output.square().sum(1).sqrt()


@settings(max_examples=30)
@given(
    st.integers(1, 3),
    st.integers(4, 12),
    st.integers(4, 12),
    st.sampled_from([("rows", 0.5), ("columns", 0.5), ("blocks", 0.25)]),
    st.integers(0, 1000),
)
def test_maps_and_figures_are_those_of_the_layers_own_reduced_output(batch, height, width, pattern, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1))
    name, rate = pattern
    accelerate_(model, Stan(rate=rate, pattern=name, period=None, seed=seed))
    images = torch.randn(batch, 2, height, width)
    (layer,) = entries_report(model, images).layers
    # With gradients: a pass without is exact.
    filled, exact = model(images).detach(), model.eval()(images).detach()
    assert layer.pattern == name
    torch.testing.assert_close(layer.exact, norms(exact))
    torch.testing.assert_close(layer.filled, norms(filled))
    same = (filled - exact).abs().amax(1) < 1e-5
    assert same[layer.entries].all(), "computed entries are exact"
    torch.testing.assert_close(layer.error, float((filled - exact).norm() / exact.norm()), atol=1e-5, rtol=1e-4)
    for image in range(batch):
        one = float((filled[image] - exact[image]).norm() / exact[image].norm())
        torch.testing.assert_close(float(layer.image_errors[image]), one, atol=1e-5, rtol=1e-4)
        mean_square = float(layer.errors[image].square().mean())
        assert math.sqrt(mean_square) == pytest.approx(one, abs=1e-5, rel=1e-4)
    computed = [
        [grid_computes(model[0].grid, height, width, row, column) for column in range(width)] for row in range(height)
    ]
    assert layer.entries.tolist() == [computed] * batch
    assert layer.kept == pytest.approx(sum(map(sum, computed)) / (height * width))


def grid_computes(grid: Grid, height: int, width: int, row: int, column: int) -> bool:
    rows, columns = grid.pattern
    if (rows > 1 and height < 3 * rows) or (columns > 1 and width < 3 * columns):
        return True
    return row % rows == grid.top and column % columns == grid.left


def test_an_error_map_is_in_units_of_its_own_images_norm():
    exact = torch.tensor([[[[1.0, 3.0] * 3]], [[[10.0, 30.0] * 3]]])
    layer = layer_entries("conv", exact, Grid(PATTERNS["columns"], 0, 0))
    torch.testing.assert_close(layer.errors, torch.tensor([[[0.0, 2 / 5**0.5] * 3]] * 2))
    torch.testing.assert_close(layer.image_errors, torch.tensor([(12 / 30) ** 0.5] * 2))
    assert layer.error == pytest.approx((404 / 1010) ** 0.5)
    assert layer.kept == 0.5


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_an_entry_matrix_of_any_form(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    entries = torch.rand(2, height, width, generator=generator) < 0.3
    entries[:, 0, 0] = True
    exact = torch.randn(2, 4, height, width, generator=generator)
    layer = layer_entries("conv", exact, EntryMatrix(entries))
    filled = torch.empty_like(exact)
    for image in range(2):
        computed = entries[image].nonzero().tolist()
        for row in range(height):
            for column in range(width):
                from_row, from_column = min(
                    computed, key=lambda at: ((at[0] - row) ** 2 + (at[1] - column) ** 2, at[0] * width + at[1])
                )
                filled[image, :, row, column] = exact[image, :, from_row, from_column]
    assert layer.pattern == "chosen"
    assert torch.equal(layer.entries, entries)
    torch.testing.assert_close(layer.filled, norms(filled))
    assert layer.error == pytest.approx(float((filled - exact).norm() / exact.norm()), abs=1e-6)
    assert layer.kept == pytest.approx(float(entries.float().mean()))


def test_layers_see_exact_inputs_and_the_model_is_left_as_it_was():
    torch.manual_seed(0)
    frozen = nn.BatchNorm2d(4).eval()
    model = nn.Sequential(nn.Conv2d(1, 4, 3), frozen, nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Dropout(), nn.BatchNorm2d(2))
    accelerate_(model, Stan(rate=0.25, period=None))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    grids = [model[0].grid, model[3].grid]
    images = torch.randn(5, 1, 9, 9)
    first, second = entries_report(model, images).layers
    assert [module.training for module in model.modules()] == modes
    assert modes.count(False) == 1
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [model[0].grid, model[3].grid] == grids
    assert not any(module._forward_hooks for module in model.modules())
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(first.exact, norms(model[:1](images)))
        torch.testing.assert_close(second.exact, norms(model[:4](images)))
    assert [first.name, second.name] == ["0", "3"]


def test_uses_in_order_and_lines():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Conv1d(4, 4, 3, padding=1)
            self.plane = nn.Conv2d(1, 4, 3)
            self.unused = nn.Conv2d(1, 1, 1)

        def forward(self, images):
            return self.line(self.line(self.plane(images).flatten(2)))

    model = Model()
    accelerate_(model, Stan(rate=0.25, period=None))
    layers = entries_report(model, torch.randn(2, 1, 8, 8)).layers
    assert [layer.name for layer in layers] == ["plane", "line", "line (use 2)"]
    assert [tuple(layer.entries.shape) for layer in layers] == [(2, 6, 6), (2, 1, 36), (2, 1, 36)]
    assert [layer.pattern for layer in layers] == ["blocks", "quarter", "quarter"]
    assert [layer.kept for layer in layers] == [0.25] * 3


def test_a_layer_that_computes_everything():
    model = nn.Sequential(nn.Conv2d(1, 4, 3))
    accelerate_(model, Stan(period=9))  # a refresh
    (layer,) = entries_report(model, torch.randn(2, 1, 6, 6)).layers
    assert (layer.pattern, layer.kept, layer.error) == ("all", 1.0, 0.0)
    assert layer.entries.all()
    assert not layer.errors.any()
    assert torch.equal(layer.exact, layer.filled)


def test_outputs_of_zeros_and_of_enormous_numbers():
    grid = Grid(PATTERNS["rows"], 0, 0)
    exact = torch.randn(3, 2, 4, 4)
    small = layer_entries("conv", exact, grid)
    exact[1] = 0.0
    exact[0] *= 1e30
    layer = layer_entries("conv", exact, grid)
    assert layer.image_errors[1] == 0
    assert not layer.errors[1].any()
    torch.testing.assert_close(layer.image_errors[[0, 2]], small.image_errors[[0, 2]])
    assert layer.error == pytest.approx(float(small.image_errors[0])), "the enormous image is all that counts"
    assert layer_entries("conv", torch.zeros(1, 2, 4, 4), grid).error == 0


def test_what_cannot_be_reported_is_named():
    images = torch.randn(2, 1, 6, 6)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))
    with pytest.raises(UsageError, match="no convolution of the model is accelerated"):
        entries_report(model, images)
    accelerate_(model, Stan(period=None))
    model[1].weight.data[0, 0, 0, 0] = math.nan
    with pytest.raises(UsageError, match="the exact output of layer '1' is not finite"):
        entries_report(model, images)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    model[1].memory = object()
    with pytest.raises(UsageError, match="layer '1' is under the memo fill"):
        entries_report(model, images)

    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.idle = nn.Conv2d(1, 1, 1)

        def forward(self, images):
            return images

    idle = Idle()
    accelerate_(idle, Stan(period=None))
    with pytest.raises(UsageError, match="uses none of its accelerated layers idle"):
        entries_report(idle, images)
