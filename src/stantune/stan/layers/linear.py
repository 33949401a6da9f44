"""A linear layer of which a block of neurons is computed and the others are remembered."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stantune.kernels.gate import common_device, ordinary
from stantune.stan.eligible import class_as_written
from stantune.stan.layers.stan_layer import Memory, StanLayer, result_type
from stantune.stan.layers.stand_in import not_compiled


def neuron_block(neurons: int, parts: int, turn: int) -> slice:
    """Return the neurons of a linear layer's E in its `turn`: one of `parts` runs of almost equal length, in order.

    Neurons have no neighbours, so that any choice is as good as a run, and a run's weights are one block of memory:
    forward and backward together took 0.56 to 0.73 of the exact time at 1/2 where every second neuron took 0.76 to 0.92
    (784-2048, 2048-2048, 800-500 and 1024-64, batch 100, one core).
    """
    part = turn % parts
    return slice(part * neurons // parts, (part + 1) * neurons // parts)


def linear_in_block(input: Tensor, weight: Tensor, bias: Tensor | None, block: slice, remembered: Tensor) -> Tensor:
    """Compute a linear layer's neurons of `block` and take the others from memory (memo fill, ours).

    Args:
        input: (B, I).
        weight: (N, I).
        bias: (N,) or None.
        block: the neurons to compute, without a step.
        remembered: (B, N), the last outputs; written into.

    Returns:
        (B, N), `remembered` itself. Its gradient flows through the computed neurons alone.
    """
    remembered[:, block] = F.linear(input, weight[block], None if bias is None else bias[block]).to(remembered.dtype)
    return remembered


class StanLinear(StanLayer, nn.Linear):
    """An nn.Linear that computes only a drawn run of its neurons while it trains (memo fill).

    Which neurons is the same for all samples of a batch, so that the products stay dense.
    """

    original = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        """Return the layer's output, (B, out_features), of an input (B, in_features).

        Inputs of other shapes, evaluation and a layer without memory are the original's.
        """
        if not isinstance(self, StanLinear):
            return type(self).forward(self, input)
        memory = self.memory
        return super().forward(input) if not self.training or memory is None else self._trained(input, memory)

    @not_compiled
    def _trained(self, input: Tensor, memory: Memory) -> Tensor:
        try:
            if not self._takes(input) or not self._begin():
                return super().forward(input)
            return self._with_memory(input, memory)
        except Exception as error:
            self._named(error)
            raise

    def _takes(self, input: Tensor) -> bool:
        """Tell whether this is a plain batch for the layer; what is not, its original takes or refuses."""
        return (
            input is not None
            and ordinary()
            and class_as_written(nn.Linear)
            and "parametrizations" not in self._modules
            and bool(common_device(input, self.weight, self.bias))
            # What is remembered has no imaginary part.
            and input.dtype.is_floating_point
            and input.dim() == 2
            and len(input) > 0
            and input.shape[1] == self.weight.shape[1]
        )

    def _with_memory(self, input: Tensor, memory: Memory) -> Tensor:
        recalled = memory.recall(result_type(input), (len(input), len(self.weight)))
        if recalled is None:
            output = super().forward(input)
            memory.remember(output.detach(), None)
            return output
        assert isinstance(recalled.entries, slice)
        output = linear_in_block(input, self.weight, self.bias, recalled.entries, recalled.values)
        memory.remember(output.detach(), recalled.entries)
        return output
