"""Compiles the Triton programs, as a training launches them, for an architecture: python compile_triton.py 80."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from triton import compile as triton_compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stantune.kernels.cuda import triton_conv, triton_kernels
from stantune.stan.entries.entries import PATTERNS, Grid
from stantune.stan.entries.filled import Convolution, by_triton

# The least that a device of compute capability 8 or 9 has for one program, in bytes.
SHARED = 99 * 1024
NAMES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32"}
PROGRAMS = ("forward", "fold", "weight_gradient", "input_gradient")
# dtype, channels, filters, whether float32 may be multiplied in tf32.
LAYERS = {
    80: [(torch.bfloat16, 64, 128, True), (torch.float32, 3, 32, False)],
    90: [(torch.bfloat16, 64, 128, True), (torch.float32, 128, 128, True)],
}
# By tensor cores; small tiles are multiplied the older way on newer devices, too.
MULTIPLY = {80: ("mma.sync",), 90: ("wgmma", "mma.sync")}


class Recorder:
    """Stands for a program, and keeps what it is launched with."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self.launched: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: object) -> Any:
        return lambda *arguments, **constants: self.launched.append((arguments, constants))


def compiled(recorder: Recorder, architecture: int) -> Any:
    """Compile a program as it was launched last."""
    arguments, constants = recorder.launched[-1]
    warps = constants.pop("num_warps")
    names = recorder.program.arg_names
    signature, attributes = {}, {}
    for place, (name, value) in enumerate(zip(names, arguments, strict=False)):
        signature[name] = NAMES[value.dtype] if isinstance(value, Tensor) else "i32"
        if isinstance(value, Tensor):
            attributes[(place,)] = [["tt.divisibility", 16]]
    rest = names[len(arguments) :]
    signature.update(dict.fromkeys(rest, "constexpr"))
    given = {name: constants.pop(name) for name in rest}
    assert not constants, "more than the program takes"
    source = ASTSource(fn=recorder.program, signature=signature, constexprs=given, attrs=attributes)
    return triton_compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})


def main(architecture: int) -> None:
    """Compile all programs of a few layers, and see that they use tensor cores and fit into a device."""
    recorders = {name: Recorder(getattr(triton_kernels, name)) for name in PROGRAMS}
    for name, recorder in recorders.items():
        setattr(triton_kernels, name, recorder)
    for dtype, channels, filters, tf32 in LAYERS[architecture]:
        torch.backends.cudnn.allow_tf32 = tf32
        layer = nn.Conv2d(channels, filters, 3, padding=1, dtype=dtype)
        input = torch.zeros(2, channels, 8, 8, dtype=dtype, requires_grad=True)
        convolution = Convolution(input, layer.weight, layer.bias, (1, 1), (1, 1, 1, 1), (1, 1), 1)
        by_triton(convolution, Grid(PATTERNS["blocks"], 0, 1)).sum().backward()
        for name, recorder in recorders.items():
            program = compiled(recorder, architecture)
            print(name, dtype, channels, filters, program.metadata.shared, flush=True)
            assert program.metadata.shared <= SHARED, f"{name} takes {program.metadata.shared} bytes"
            ways = MULTIPLY[architecture] if tf32 else ("fma.rn.f32",)
            used = [way for way in ways if way in program.asm["ptx"]]
            assert name == "fold" or used, f"{name} does without {' and '.join(ways)}"


if __name__ == "__main__":
    assert not triton_conv.INTERPRETED
    main(int(sys.argv[1]))
