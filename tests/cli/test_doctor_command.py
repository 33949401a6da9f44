"""`stantune doctor`: it tells the truth of this process, and the remedies."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stantune.kernels.cuda.ways import cuda_path
from stantune.kernels.library import WINOGRAD, kernels
from stantune.report import diagnosis
from stantune.report.doctor import DoctorResult, doctor_lines

Stantune = Callable[..., Any]


@pytest.fixture
def result(stantune: Stantune, tmp_path: Path) -> DoctorResult:
    """What it tells where no data set was fetched yet."""
    run = stantune("doctor", "--threads", 1, "--data", tmp_path, "--json", "-")
    assert run.code == 0
    assert run.err.splitlines() == doctor_lines(DoctorResult.model_validate_json(run.out))
    return DoctorResult.model_validate_json(run.out)


def test_it_tells_of_this_process(result: DoctorResult) -> None:
    assert result.python == ".".join(map(str, sys.version_info[:3]))
    assert result.pytorch == torch.__version__
    assert result.threads == 1
    assert 1 <= result.processor.usable <= (os.cpu_count() or 1)
    assert (result.kernels.form or "", result.kernels.reason) == (kernels().form, kernels().reason)
    assert (tuple(result.cuda_kernels.ways), result.cuda_kernels.reason) == cuda_path()
    if not torch.cuda.is_available():
        no_cuda = "reduced convolutions on CUDA: none (PyTorch sees no CUDA device)"
        assert no_cuda in doctor_lines(result)
    assert result.block.pytorch_seconds > 0
    assert result.kernels.winograd == WINOGRAD[kernels().winograd]
    assert (result.block.native_seconds is None) == (kernels().library is None)


def test_missing_data_come_with_the_command_that_fetches_them(result: DoctorResult, tmp_path: Path) -> None:
    mnist = next(each for each in result.data_sets if each.name == "mnist")
    assert not mnist.present
    assert Path(mnist.directory) == tmp_path / "MNIST" / "raw"
    assert f"data set mnist: not there; stantune data fetch mnist --data {tmp_path}" in doctor_lines(result)


def test_data_that_are_there_are_found(stantune: Stantune, data_dir: Path) -> None:
    run = stantune("doctor", "--data", data_dir)
    assert f"data set mnist: in {data_dir / 'MNIST' / 'raw'}" in run.out.splitlines()


@pytest.fixture
def _kernels_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library is loaded anew by the test, and as before after it."""
    kernels.cache_clear()
    yield
    monkeypatch.undo()
    kernels.cache_clear()
    kernels()


@pytest.mark.parametrize(
    ("asked", "form", "reason"),
    [("off", None, "STANTUNE_KERNELS=off"), ("portable", "portable", "STANTUNE_KERNELS=portable")],
)
@pytest.mark.usefixtures("_kernels_anew")
def test_the_environment_chooses_the_form(
    stantune: Stantune, monkeypatch: pytest.MonkeyPatch, asked: str, form: str | None, reason: str
) -> None:
    if form and kernels().library is None:
        pytest.skip(f"no native library: {kernels().reason}")
    monkeypatch.setenv("STANTUNE_KERNELS", asked)
    kernels.cache_clear()
    run = stantune("doctor", "--json", "-")
    result = DoctorResult.model_validate_json(run.out)
    assert result.kernels.form == form
    assert result.kernels.reason.startswith(reason)
    assert (result.block.native_seconds is None) == (form is None)
    assert ("times as fast" in run.err) == (form is not None)


@pytest.mark.parametrize(
    ("asked", "winograd", "reason"),
    [
        ("off", "off", ""),
        ("Always", "always", ""),
        ("", "auto", ""),
        ("yes", "auto", "STANTUNE_WINOGRAD=yes is unknown"),
    ],
)
@pytest.mark.usefixtures("_kernels_anew")
def test_the_environment_chooses_minimal_filtering(
    monkeypatch: pytest.MonkeyPatch, asked: str, winograd: str, reason: str
) -> None:
    if kernels().library is None:
        pytest.skip(f"no native library: {kernels().reason}")
    monkeypatch.setenv("STANTUNE_WINOGRAD", asked)
    kernels.cache_clear()
    assert WINOGRAD[kernels().winograd] == winograd
    assert reason in kernels().reason


def test_extras_are_told_with_versions_or_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = Message()
    for field, value in (
        ("Provides-Extra", "there"),
        ("Provides-Extra", "half"),
        *(("Provides-Extra", name) for name in ("dev", "docs", "docs-test", "models", "test")),
        ("Requires-Dist", "torch>=2"),
        ("Requires-Dist", "torch>=2.2; extra == 'there'"),
        ("Requires-Dist", 'torch; extra == "half"'),
        ("Requires-Dist", 'not-a-package>=1; python_version > "3" and extra == "half"'),
        ("Requires-Dist", "pytest>=8; extra == 'test'"),
    ):
        metadata[field] = value
    monkeypatch.setattr(diagnosis, "distribution", lambda name: SimpleNamespace(metadata=metadata))
    half, there = diagnosis.extras()
    assert (half.name, half.installed, half.install) == ("half", None, "pip install 'stantune[half]'")
    assert (there.name, there.installed) == ("there", f"torch {diagnosis.version('torch')}")
