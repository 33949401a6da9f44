"""What `stantune doctor` says: versions, processor, kernels, data sets and extras, as JSON and as text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from rich.console import Console

from stantune.search.results.contract import Result


class Processor(Result):
    """The machine's processor."""

    name: str = Field(description="its name")
    architecture: str = Field(description="of its instructions")
    vector_instructions: list[str] = Field(description="those that the system names; empty where it names none")
    pytorch_uses: str = Field(description="the vector instructions of PyTorch's own kernels")
    usable: int = Field(description="logical processors that this process may use")


class NativeKernels(Result):
    """What became of the native library."""

    form: str | None = Field(description='"portable", "avx2" or "avx512"; null where plain PyTorch does the work')
    reason: str = Field(description="why this form, or why none")
    winograd: str = Field(
        description='minimal filtering: "off", "auto" (where it pays) or "always"; "off" without a form'
    )


class CudaKernels(Result):
    """What computes reduced convolutions on CUDA devices."""

    ways: list[str] = Field(description='"cudnn", "triton", or both, each where it is faster; empty without a device')
    reason: str = Field(description="why these")


class BlockTiming(Result):
    """One convolution block, in plain PyTorch and natively, every entry computed."""

    what: str = Field(description="the block")
    pytorch_seconds: float = Field(description="median of a few runs, one with the other in turns")
    native_seconds: float | None = Field(description="likewise; null where there are no native kernels")


class DataSet(Result):
    """A built-in data set."""

    name: str = Field(description="its name")
    present: bool = Field(description="whether all its files are there; their content is checked when they are read")
    directory: str = Field(description="where its files are, or would be")
    fetch: str = Field(description="the command that fetches it")


class Extra(Result):
    """An optional part of the package."""

    name: str = Field(description="its name")
    installed: str | None = Field(description="what it needs, with versions; null where any of that is missing")
    install: str = Field(description="the command that installs it")


class DoctorResult(Result):
    """`stantune doctor --json`."""

    schema_version: Literal["stantune.doctor/1"] = Field(default="stantune.doctor/1", description="kind and version")
    stantune: str = Field(description="version")
    python: str = Field(description="version")
    pytorch: str = Field(description="version")
    system: str = Field(description="the operating system")
    processor: Processor = Field(description="the machine's processor")
    threads: int = Field(description="PyTorch's, as used")
    cuda: list[str] = Field(description="names of the CUDA devices that PyTorch sees")
    kernels: NativeKernels = Field(description="what became of the native library")
    cuda_kernels: CudaKernels = Field(description="what computes reduced convolutions on CUDA devices")
    block: BlockTiming = Field(description="one convolution block, in plain PyTorch and natively")
    keeps_buffers: bool = Field(
        description="whether stantune's own processes keep large buffers from step to step (glibc's mallopt)"
    )
    data_directory: str = Field(description="where data sets are kept")
    data_sets: list[DataSet] = Field(description="the built-in ones")
    extras: list[Extra] = Field(description="the optional parts of the package")


def show_doctor(console: Console, result: DoctorResult) -> None:
    """Print it in a few lines."""
    for line in doctor_lines(result):
        console.print(line, soft_wrap=True)


def doctor_lines(result: DoctorResult) -> list[str]:
    """Return what is there, what is missing, and the remedies."""
    processor = result.processor
    vectors = " ".join(processor.vector_instructions) or "no vector instructions named by the system"
    lines = [
        f"stantune {result.stantune}, Python {result.python}, PyTorch {result.pytorch}, {result.system}",
        f"processor: {processor.name}, {processor.architecture}, {vectors}; {_count(processor.usable, 'usable core')}",
        f"PyTorch: {_count(result.threads, 'thread')}, {processor.pytorch_uses}; "
        + (f"CUDA: {', '.join(result.cuda)}" if result.cuda else "no CUDA device"),
    ]
    if result.kernels.form is None:
        lines.append(f"native kernels: none, plain PyTorch does the work ({result.kernels.reason})")
    else:
        lines.append(
            f"native kernels: {result.kernels.form} ({result.kernels.reason}); {_WINOGRAD[result.kernels.winograd]}"
        )
    ways = " or ".join(result.cuda_kernels.ways) or "none"
    lines.append(f"reduced convolutions on CUDA: {ways} ({result.cuda_kernels.reason})")
    lines += [_timing(result.block), _allocator(result.keeps_buffers)]
    for data_set in result.data_sets:
        there = f"in {data_set.directory}" if data_set.present else f"not there; {data_set.fetch}"
        lines.append(f"data set {data_set.name}: {there}")
    for extra in result.extras:
        lines.append(f"extra {extra.name}: {extra.installed or f'not installed; {extra.install}'}")
    return lines


_WINOGRAD = {
    "off": "no minimal filtering",
    "auto": "minimal filtering where it pays",
    "always": "minimal filtering wherever it fits",
}


def _timing(block: BlockTiming) -> str:
    line = f"{block.what}: PyTorch {1e3 * block.pytorch_seconds:.2f} ms"
    if block.native_seconds is None:
        return line
    ratio = block.pytorch_seconds / block.native_seconds
    return f"{line}, native {1e3 * block.native_seconds:.2f} ms ({ratio:.2f} times as fast)"


def _allocator(keeps: bool) -> str:
    if keeps:
        return "allocator: large buffers are kept from step to step in stantune's own processes (glibc's mallopt)"
    return "allocator: as the system has it (mallopt, which would keep large buffers, is glibc's alone)"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
