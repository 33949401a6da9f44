"""Which layers the memo fill remembers: bytes that they ask for, bytes that are free, and what a refusal says."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from stantune.errors import UsageError
from stantune.process.control_groups import Group, control_groups, lines_of

Precision = Literal["bf16", "fp32"]
Positions = Literal["grid", "changed"]
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Of an entry's change a bfloat16 is kept: 8 bits order the entries well enough, and doubling one is exact.
SCORE = torch.bfloat16


class LayerSpace(NamedTuple):
    """What one layer asks to remember.

    Attributes:
        name: the layer's name in the model.
        shape: one sample's output: (C, H, W) for a convolution (C, L in one dimension), (N,) for a linear layer.
        saved: multiply-adds that the memo fill saves per visit of a sample.
    """

    name: str
    shape: tuple[int, ...]
    saved: float = 0.0

    @property
    def channels(self) -> int:
        """Values in one entry: C, or 1 for a linear layer."""
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def places(self) -> tuple[int, ...]:
        """The shape of one sample's entries: (H, W), or (N,) for a linear layer."""
        return self.shape[1:] if len(self.shape) > 1 else self.shape


def bytes_per_sample(space: LayerSpace, dtype: Precision, positions: Positions) -> int:
    """Return what a `MemoStore` keeps of one sample for one layer, in bytes.

    The values, one byte that counts visits and, where `positions` is "changed", two bytes for each entry's change.
    """
    kept = math.prod(space.shape) * DTYPES[dtype].itemsize + 1
    return kept + (math.prod(space.places) * SCORE.itemsize if positions == "changed" else 0)


class Selection(NamedTuple):
    """Layers that are remembered and layers that are not, each in the model's order."""

    chosen: tuple[LayerSpace, ...]
    left_out: tuple[LayerSpace, ...]


def choose_layers(
    spaces: Sequence[LayerSpace], samples: int, budget: int, dtype: Precision, positions: Positions
) -> Selection:
    """Choose the layers whose outputs for `samples` samples are remembered within `budget` bytes (ours).

    By saved multiply-adds per byte: the layer that saves most is taken first, of equal ones the model's first, and each
    further one that still fits; one that saves nothing is left out.

    Raises:
        UsageError: no layer that saves anything fits.
    """
    costs = [samples * bytes_per_sample(space, dtype, positions) for space in spaces]
    gain = [space.saved / cost for space, cost in zip(spaces, costs, strict=True)]
    worth = sorted((place for place, value in enumerate(gain) if value > 0), key=lambda place: -gain[place])
    taken: set[int] = set()
    left = budget
    for place in worth:
        if costs[place] <= left:
            taken.add(place)
            left -= costs[place]
    if worth and not taken:
        smallest = spaces[min(worth, key=lambda place: costs[place])]
        raise UsageError(_refusal(smallest, samples, budget, dtype, positions))
    return Selection(
        tuple(space for place, space in enumerate(spaces) if place in taken),
        tuple(space for place, space in enumerate(spaces) if place not in taken),
    )


def _refusal(space: LayerSpace, samples: int, budget: int, dtype: Precision, positions: Positions) -> str:
    """Return the sentence about a layer that does not fit: what is missing, and what would fit."""
    need = samples * bytes_per_sample(space, dtype, positions)
    halved = samples * bytes_per_sample(space, "bf16", positions)
    fitting = []
    if dtype != "bf16" and halved <= budget:
        fitting.append(f'dtype="bf16" ({_size(halved)})')
    fewer = budget * samples // need
    if fewer:
        fitting.append(f"{fewer} samples")
    fitting.append("the neighbour fill, which remembers nothing (memo=None)")
    return (
        f"memo needs {_size(need)} to remember {space.name or 'the model'} for {samples} samples in {dtype}, and "
        f"{_size(need - budget)} are missing in its budget of {_size(budget)}; what would fit: {', '.join(fitting)}"
    )


def _size(number: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= unit:
            return f"{number / unit:.2f} {name}"
    return f"{number} bytes"


def free_memory(device: torch.device | str = "cpu", root: Path = Path("/")) -> int:
    """Return how many bytes this process can still have on a device.

    CUDA: what the driver says. Linux: MemAvailable, and for this process's memory control group and each above it the
    limit less what is used and cannot be reclaimed (the kernel's admin-guide: cgroup-v2, and cgroup-v1/memory); the
    least of them. Elsewhere: what os.sysconf knows.

    Args:
        device: where the memory is to be.
        root: where proc and sys are mounted.

    Raises:
        UsageError: the system does not say.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [*_available(root), *(left for group in control_groups("memory", root) for left in _left_in(group))]
    if not found:
        names = getattr(os, "sysconf_names", {})
        pages = next((name for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if name in names), None)
        if pages is None:
            raise UsageError(
                "this system does not say how much memory is free; give memo a budget (Memo(budget=bytes))"
            )
        found = [os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")]
    return max(min(found), 0)


def _available(root: Path) -> Iterator[int]:
    for line in lines_of(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _left_in(group: Group) -> Iterator[int]:
    if group.unified:
        names = "memory.max", "memory.current", "inactive_file"
    else:
        names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    limit, used = ("".join(lines_of(group.folder / name)) for name in names[:2])
    if limit.isdecimal() and used.isdecimal():
        stat = dict(line.split(maxsplit=1) for line in lines_of(group.folder / "memory.stat"))
        yield int(limit) - int(used) + int(stat.get(names[2], "0"))
