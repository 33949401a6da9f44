"""meProp: linear layers whose backward pass keeps only the largest components of their output's gradient."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from stantune.arguments import names, shown, truth
from stantune.errors import UsageError
from stantune.kernels.derivatives import differentiable_once
from stantune.kernels.gate import ordinary, transformed
from stantune.stan.eligible import class_as_written
from stantune.stan.layers.stand_in import StandIn, stand_in_for_

# Products over the kept components alone cost what dense ones with zeros do where about one in five is kept. Measured,
# the choice included, in CPU time (AVX2, fp32; 256 to 1024 inputs, 500 to 2048 neurons, batches of 32 and 100): 0.88
# to 1.10 of the time at a quarter, 0.81 to 1.08 at a fifth, 0.66 to 0.95 at an eighth, 0.52 to 0.83 at a sixteenth.
# Ordinary back propagation, which has nothing to choose, took 1.2 to 1.6 times as long as these at a sixteenth with
# 784 or 1024 inputs, and 0.6 to 0.8 times with 256.
SPARSE_PAYS = 5
# What a layer has of MeProp.
SETTINGS = ("top_k", "unified", "sparse_bias")
# Set on a layer that was an nn.Linear before `accelerate_`: a model may have some that were always one of these.
BY_SURGERY = "by_surgery"


@dataclass(frozen=True)
class MeProp:
    """Settings of meProp (Sun et al., 2017).

    Attributes:
        top_k: components of each example's output gradient that are kept; 0, or the layer's width or more, for
            ordinary back propagation.
        unified: one choice for all examples of a batch, by the sum of the magnitudes over them.
        layers: names of the linear layers, as shell patterns ("fc1"); every nn.Linear by default.
        sparse_bias: the bias's gradient, too, follows from the kept components alone (ours). By default it is that of
            ordinary back propagation, as in both of the authors' programs.

    Raises:
        UsageError: top_k is negative or no integer, `layers` is one string or none at all, or another is neither True
            nor False.
    """

    top_k: int
    unified: bool = False
    layers: tuple[str, ...] = ("*",)
    sparse_bias: bool = False

    def __post_init__(self) -> None:
        _check_top_k(self.top_k)
        for name in ("unified", "sparse_bias"):
            truth(f"meprop.{name}", getattr(self, name))
        layers = names("meprop.layers", self.layers)
        if not layers:
            raise UsageError("`meprop.layers` names none; give one, such as ('fc1',)")
        object.__setattr__(self, "layers", layers)

    @property
    def identity(self) -> dict[str, Any]:
        """All settings as plain values, to know again what a file was made with.

        Files from before `sparse_bias` was a choice do not have it: it was always so.
        """
        settings = asdict(self)
        if self.sparse_bias:
            del settings["sparse_bias"]
        return settings


def _check_top_k(top_k: object) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0:
        raise UsageError(f"top_k={shown(top_k)} of meProp is not an integer of 0 (off) or more; give how many to keep")


class MePropLinear(StandIn, nn.Linear):
    """nn.Linear with meProp's backward pass (Sun et al., 2017), per example or unified.

    Of the gradient with respect to this layer's output (its last dimension) the `top_k` components of largest
    magnitude are kept, of each example its own or (unified) the same of all, and the others are zero; the gradients of
    weight and input follow from what is left, and with `sparse_bias` the bias's too, which else is whole. Each call of
    the layer chooses anew. Of components of equal magnitude exactly as many are kept as fit, always the same ones for
    the same gradient. The forward pass is nn.Linear's. top_k = 0, or the weight's rows or more, is ordinary back
    propagation, and so is that of a layer in evaluation mode.

    An nn.Linear becomes one by a change of its class: the settings' defaults belong to the class, and there is no
    other state.
    """

    original = nn.Linear
    top_k: int = 0
    unified: bool = False
    sparse_bias: bool = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        top_k: int = 0,
        unified: bool = False,
        sparse_bias: bool = False,
    ) -> None:
        """Make a new layer, its weights as nn.Linear's; raise UsageError for a top_k below 0."""
        _check_top_k(top_k)
        super().__init__(in_features, out_features, bias)
        stand_in_for_(self, nn.Linear)
        self.top_k = top_k
        self.unified = unified
        self.sparse_bias = sparse_bias

    def forward(self, input: Tensor) -> Tensor:
        """Map input (..., in_features) to (..., out_features)."""
        if not isinstance(self, MePropLinear):
            return type(self).forward(self, input)
        chooses = self.training and self.top_k > 0 and class_as_written(nn.Linear)
        if not chooses or not _goes_backward(input):
            return super().forward(input)
        # Once: under a parametrization each look computes it anew.
        weight = self.weight
        # PyTorch refuses numbers of two kinds, in other words where there are no gradients. A weight that was given to
        # the layer may have fewer rows than `out_features` says.
        refused = input.dtype != weight.dtype and not _casts(input.device.type)
        if refused or weight.dim() != 2 or self.top_k >= len(weight):
            return F.linear(input, weight, self.bias)
        linear = linear_unified if self.unified else linear_per_example
        return linear(input, weight, self.bias, self.top_k, self.sparse_bias)

    def extra_repr(self) -> str:
        """Give the settings for the module's printed form."""
        return f"{super().extra_repr()}, top_k={self.top_k}, unified={self.unified}, sparse_bias={self.sparse_bias}"


def _casts(device: str) -> bool:
    """Tell whether autocast makes numbers on a device of one kind."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _goes_backward(input: Tensor) -> bool:
    """Tell whether a backward pass of our own will be that of what is computed now.

    Not so where a program is made of it: tracers and exports record the forward pass alone, without gradients. Nor
    under transforms of torch.func other than one `grad`: there is no rule for a choice, and under two of them the
    second would take the choice, and all that depends on it, for constant.
    """
    if not isinstance(input, Tensor):  # a tracer's
        return False
    if input.layout is not torch.strided or input.is_nested:
        # Its rows are not those of one matrix.
        return False
    if torch.compiler.is_compiling():
        return not torch.compiler.is_exporting()
    if torch._C._functorch.peek_interpreter_stack() is None:
        return ordinary()
    levels = torch._C._functorch.get_interpreter_stack() or []
    return len(levels) == 1 and levels[0].key() == torch._C._functorch.TransformType.Grad and transformed()


def linear_per_example(
    input: Tensor, weight: Tensor, bias: Tensor | None, top_k: int, sparse_bias: bool = False
) -> Tensor:
    """Apply F.linear; backward, each example keeps its own largest components (Sun et al., 2017).

    Args:
        input: (..., inputs); every row of all leading dimensions is an example.
        weight: (outputs, inputs).
        bias: (outputs,) or None.
        top_k: components that are kept, 1 to outputs.
        sparse_bias: whether the bias's gradient follows from them, too.

    Returns:
        (..., outputs). It can be differentiated once; a second time raises RuntimeError.
    """
    return _Linear.apply(input, weight, bias, top_k, False, sparse_bias)  # type: ignore[no-untyped-call, no-any-return]


def linear_unified(input: Tensor, weight: Tensor, bias: Tensor | None, top_k: int, sparse_bias: bool = False) -> Tensor:
    """Apply F.linear; backward, the outputs of largest sum of magnitudes over all examples are kept.

    This is the authors' simple unified top-k: its products are dense and as small as top_k. Arguments and result
    are those of `linear_per_example`.
    """
    return _Linear.apply(input, weight, bias, top_k, True, sparse_bias)  # type: ignore[no-untyped-call, no-any-return]


class _Linear(torch.autograd.Function):
    """F.linear with one of meProp's backward passes."""

    @staticmethod
    def forward(
        input: Tensor, weight: Tensor, bias: Tensor | None, top_k: int, unified: bool, sparse_bias: bool
    ) -> Tensor:
        # Autocast keeps its casts of Parameters for their next use. In older PyTorch one made in here, where no graph
        # is recorded, would cut off the gradient of that use; of a detached tensor it keeps none.
        return F.linear(input, weight.detach(), None if bias is None else bias.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, _, ctx.top_k, ctx.unified, ctx.sparse_bias = inputs
        wanted = ctx.needs_input_grad
        ctx.save_for_backward(input if wanted[1] else None, weight if wanted[0] else None)
        ctx.input_shape = input.shape

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        # Under autocast the gradient is of lower precision than what was saved; the products are of the gradient's.
        if input is not None:
            input = input.reshape(len(rows), input.shape[-1]).to(grad.dtype).conj()
        if weight is not None:
            weight = weight.conj()
        back = _unified if ctx.unified else _per_example
        sparse_bias = ctx.needs_input_grad[2] and ctx.sparse_bias
        of_input, of_weight, of_bias = back(rows, input, weight, sparse_bias, ctx.top_k)
        if ctx.needs_input_grad[2] and not sparse_bias:
            of_bias = rows.sum(0)
        of_input = None if of_input is None else of_input.reshape(ctx.input_shape)
        return of_input, of_weight, of_bias, None, None, None


_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def _unified(grad: Tensor, input: Tensor | None, weight: Tensor | None, bias: bool, top_k: int) -> _Gradients:
    """Return the gradients of input (n, inputs), weight (outputs, inputs) and bias (outputs,) that are wanted.

    Args:
        grad: of the output, (n, outputs).
        input: (n, inputs), None where the weight's gradient is not wanted.
        weight: (outputs, inputs), None where the input's gradient is not wanted.
        bias: whether the bias's gradient is wanted, of the kept components.
        top_k: outputs that are kept.
    """
    # Sums of half precision would tie, and overflow.
    magnitudes = grad.abs()
    sums = magnitudes.sum(0, dtype=torch.promote_types(magnitudes.dtype, torch.float32))
    chosen = sums.topk(top_k, sorted=False).indices
    kept = grad.index_select(1, chosen)
    of_input = of_weight = of_bias = None
    if weight is not None:
        of_input = kept @ weight.index_select(0, chosen).to(kept.dtype)
    if input is not None:
        # Autograd keeps this tensor: a buffer used again would have to be copied, which costs more than clearing.
        product = (kept.t() @ input).to(grad.dtype)
        of_weight = grad.new_zeros(grad.shape[1], input.shape[1]).index_copy_(0, chosen, product)
    if bias:
        of_bias = grad.new_zeros(grad.shape[1]).index_copy_(0, chosen, kept.sum(0))
    return of_input, of_weight, of_bias


def _per_example(grad: Tensor, input: Tensor | None, weight: Tensor | None, bias: bool, top_k: int) -> _Gradients:
    """Return what `_unified` does, of each row's own choice."""
    if SPARSE_PAYS * top_k <= grad.shape[1] and _on_numpy(grad):
        return _sparse(grad, input, weight, bias, top_k)
    grad = grad.where(largest(grad, top_k), 0)
    return (
        None if weight is None else grad @ weight.to(grad.dtype),
        None if input is None else grad.t() @ input,
        grad.sum(0) if bias else None,
    )


def _sparse(grad: Tensor, input: Tensor | None, weight: Tensor | None, bias: bool, top_k: int) -> _Gradients:
    """Return what `_per_example` does, by multiply-adds in proportion to top_k."""
    examples, outputs = grad.shape
    places = np.flatnonzero(largest(grad, top_k).numpy())
    values = grad.take(torch.from_numpy(places))
    rows, columns = np.divmod(places, outputs)
    of_input = of_weight = of_bias = None
    if weight is not None:
        of_input = _weighted_sums(weight, columns, values, rows, examples)
    if input is not None:
        # The same components in the order of their columns; a stable sort of 16-bit integers is a radix sort.
        order = np.argsort(columns.astype(np.min_scalar_type(outputs)), kind="stable")
        of_weight = _weighted_sums(input, rows[order], values[torch.from_numpy(order)], columns[order], outputs)
    if bias:
        of_bias = grad.new_zeros(outputs).index_add_(0, torch.from_numpy(columns), values)
    return of_input, of_weight, of_bias


def _weighted_sums(
    matrix: Tensor, rows: NDArray[np.int64], weights: Tensor, sums: NDArray[np.int64], count: int
) -> Tensor:
    """Return (count, width): sum i has each weight times its row of `matrix` (m, width) whose number in `sums` is i.

    This is the product of a sparse and a dense matrix. An embedding bag is faster at it on a CPU than a CSR matrix, and
    writes the empty rows in the same pass.

    Args:
        matrix: (m, width).
        rows: (p,), numbers of its rows.
        weights: (p,).
        sums: (p,), ascending.
        count: of the sums.
    """
    if not matrix.numel() or not len(rows):
        return matrix.new_zeros(count, matrix.shape[1])  # an embedding bag wants something to sum
    sizes = torch.from_numpy(np.bincount(sums, minlength=count))
    starts = sizes.cumsum(0) - sizes
    return F.embedding_bag(torch.from_numpy(rows), matrix, starts, mode="sum", per_sample_weights=weights)


def largest(grad: Tensor, top_k: int) -> Tensor:
    """Return which are the `top_k` components of largest magnitude of each row of grad (n, width): bool (n, width).

    A NaN counts as larger than every number, so that a diverged gradient stays visible. 1 <= top_k <= width.
    """
    magnitudes = grad.abs()
    if not _on_numpy(grad):
        return torch.zeros_like(grad, dtype=torch.bool).scatter_(1, _topk(magnitudes, top_k), True)
    # NumPy's partition takes 0.4 to 0.9 of topk's time; it finds the least of the largest and not their places. Equal
    # numbers make it slow, and before a ReLU many are zeros: these become -1, -2, ..., without a branch, which would
    # cost more than it saves.
    array = magnitudes.numpy()
    width = array.shape[1]
    array += (array == 0) * -np.arange(1, width + 1, dtype=array.dtype)
    least = np.partition(array, width - top_k, axis=1)[:, width - top_k, None]
    kept = ~(array < least)
    if np.count_nonzero(kept) > kept.shape[0] * top_k:  # other components equal the least, or too many are NaN
        crowded = np.flatnonzero(np.count_nonzero(kept, axis=1) > top_k)
        kept[crowded] = False
        kept[crowded[:, None], _topk(magnitudes[crowded], top_k).numpy()] = True
    return torch.from_numpy(kept)


def _topk(magnitudes: Tensor, top_k: int) -> Tensor:
    return magnitudes.topk(top_k, dim=1, sorted=False).indices


def _on_numpy(grad: Tensor) -> bool:
    """Tell whether NumPy can read the gradient, and it is no compiler that asks."""
    if grad.dtype not in (torch.float32, torch.float64) or torch.compiler.is_compiling():
        return False
    try:
        grad.numpy()
    except (RuntimeError, TypeError):  # it is on another device, or torch.func's
        return False
    return True
