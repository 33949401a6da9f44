"""What an installation is made of and how well it runs here, as `stantune doctor` tells it."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from stantune.images.data.fetching.catalog import NAMES, data_root, describe, fetch_command, is_present
from stantune.kernels.block.convolve import convolve
from stantune.kernels.block.follow import Follow
from stantune.kernels.cuda.ways import cuda_path
from stantune.kernels.library import WINOGRAD, kernels
from stantune.process.machine import described_processor, processor_name, usable_cores
from stantune.process.runtime import keeps_buffers
from stantune.report.doctor import BlockTiming, CudaKernels, DataSet, DoctorResult, Extra, NativeKernels, Processor

PACKAGE = "stantune"
# Extras for the package's own developers.
FOR_DEVELOPERS = ("dev", "docs", "docs-test", "models", "test")
# Vector instructions by the names that Linux has for them, in the order in which processors got them.
VECTORS = (
    "sse2",
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "sve",
)
ROUNDS = 7
SECONDS = 1.5  # a busy machine has fewer rounds


def diagnose(threads: int, data: Path | None) -> DoctorResult:
    """Return what `stantune doctor` tells; the timing takes at most about two seconds.

    Args:
        threads: PyTorch's, as set.
        data: where data sets are kept; None for the usual place.
    """
    found, on_cuda = kernels(), cuda_path()
    return DoctorResult(
        stantune=_version(PACKAGE) or "not installed",
        python=platform.python_version(),
        pytorch=torch.__version__,
        system=platform.platform(),
        processor=processor(),
        threads=threads,
        cuda=[torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        kernels=NativeKernels(form=found.form or None, reason=found.reason, winograd=WINOGRAD[found.winograd]),
        cuda_kernels=CudaKernels(ways=list(on_cuda.ways), reason=on_cuda.reason),
        block=time_block(),
        keeps_buffers=keeps_buffers(),
        data_directory=str(data_root(data)),
        data_sets=[
            DataSet(
                name=name,
                present=is_present(name, data),
                directory=str(data_root(data) / describe(name).folder),
                fetch=fetch_command(name, data).strip("`"),
            )
            for name in NAMES
        ],
        extras=extras(),
    )


def processor() -> Processor:
    """Return what the system says of its processor."""
    described = described_processor()
    flags = (described.get("flags") or described.get("Features") or "").split()
    return Processor(
        name=processor_name(),
        architecture=platform.machine(),
        vector_instructions=[name for name in VECTORS if name in flags],
        pytorch_uses=torch.backends.cpu.get_cpu_capability(),
        usable=usable_cores(),
    )


def time_block() -> BlockTiming:
    """Time a convolution with ReLU and pooling, forward and backward, in plain PyTorch and natively, in turns."""
    generator = torch.Generator().manual_seed(0)
    shape, filters, size = (20, 32, 16, 16), 32, 5
    last = torch.channels_last
    x = torch.randn(shape, generator=generator).contiguous(memory_format=last).requires_grad_()
    weight = torch.randn(filters, shape[1], size, size, generator=generator).mul_(0.01)
    weight = weight.contiguous(memory_format=last).requires_grad_()
    bias = torch.zeros(filters, requires_grad=True)
    follow = Follow("average", (3, 3), (2, 2), ceil=True, relu=True)

    def plain() -> Tensor:
        return F.avg_pool2d(F.conv2d(x, weight, bias, padding=2).relu(), 3, 2, ceil_mode=True)

    def native() -> Tensor:
        return convolve(x, weight, bias, (1, 1), (2, 2, 2, 2), follow=follow)

    ways: list[Callable[[], Tensor]] = [plain] if kernels().library is None else [plain, native]
    seconds: list[list[float]] = [[] for _ in ways]
    end = time.perf_counter() + SECONDS
    for turn in range(1 + ROUNDS):
        if turn > 1 and time.perf_counter() > end:
            break
        for way, taken in zip(ways, seconds, strict=True):
            began = time.perf_counter()
            torch.autograd.grad(way().sum(), (x, weight, bias))
            if turn:  # the first is to warm up
                taken.append(time.perf_counter() - began)
    medians = [median(taken) for taken in seconds]
    return BlockTiming(
        what=f"{size}x{size} convolution, {shape[1]} to {filters} channels, ReLU, average pooling; {shape[0]} images "
        f"of {shape[2]}x{shape[3]}, forward and backward",
        pytorch_seconds=medians[0],
        native_seconds=medians[1] if len(medians) > 1 else None,
    )


def extras() -> list[Extra]:
    """Return the optional extras for users, with the versions of what they stand for."""
    try:
        metadata = distribution(PACKAGE).metadata
    except PackageNotFoundError:
        return []
    needed: dict[str, list[str]] = {
        name: [] for name in metadata.get_all("Provides-Extra") or [] if name not in FOR_DEVELOPERS
    }
    for line in metadata.get_all("Requires-Dist") or []:
        match = re.match(r"([\w.-]+).*extra == ['\"]([\w.-]+)['\"]", line)
        if match and match[2] in needed:
            needed[match[2]].append(match[1])
    found = []
    for name, packages in sorted(needed.items()):
        versions = {package: _version(package) for package in packages}
        installed = [f"{package} {there}" for package, there in versions.items() if there]
        found.append(
            Extra(
                name=name,
                installed=", ".join(installed) if len(installed) == len(packages) else None,
                install=f"pip install '{PACKAGE}[{name}]'",
            )
        )
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
