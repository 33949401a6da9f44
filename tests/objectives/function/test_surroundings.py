"""What a function does to its process does not reach the next one."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch

from stantune.objectives.surroundings import as_it_was, put_back, random_states, seed_all
from stantune.process.float32 import kept_float32
from stantune.process.runtime import flushes_denormals

pytestmark = pytest.mark.usefixtures("one_thread")


def surroundings():
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warns": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fills": torch.utils.deterministic.fill_uninitialized_memory,
        "denormals": flushes_denormals(),
        "benchmark": torch.backends.cudnn.benchmark,
        "cudnn": torch.backends.cudnn.deterministic,
        "precision": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "gradients": torch.is_grad_enabled(),
        "anomalies": torch.is_anomaly_enabled(),
        "folder": os.getcwd(),
        "filters": list(warnings.filters),
        "errors": np.geterr(),
    }


def wreck(where):
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = True
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = False
    torch.set_grad_enabled(False)
    torch.autograd.set_detect_anomaly(True)
    os.chdir(where)
    warnings.simplefilter("error")
    np.seterr(all="raise")


@pytest.mark.parametrize("ends", ["returns", "raises", "diverges"])
def test_nothing_leaks_into_the_next_trial(trained, tmp_path, ends):
    before = surroundings()
    inside = []

    def train(run):
        inside.append(surroundings())
        wreck(tmp_path)
        assert all(before[name] != value for name, value in surroundings().items())
        if ends == "raises":
            raise ValueError
        if ends == "diverges":
            run.loss(float("nan"))
        return 1.0

    for _ in range(2):
        try:
            trained(train)
        except ValueError:
            assert ends == "raises"
        assert surroundings() == before
    assert inside == [before, before]


def test_its_own_number_of_threads_is_set_and_taken_back(trained):
    torch.set_num_threads(2)
    assert trained(lambda run: torch.get_num_threads()).metrics == {"loss": 1.0}
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="PyTorch has no new names for TF32")
def test_tf32_by_its_new_names_is_as_it_was(trained):
    """What was set by these alone, PyTorch does not tell by the old ones."""
    backends = torch.backends
    matrices, convolutions, of_cpu = backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul
    recurrent = backends.cudnn.rnn
    places = backends, matrices, convolutions, recurrent, of_cpu

    def precisions():
        return [place.fp32_precision for place in places]

    def train(run):
        backends.fp32_precision = "tf32"
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = True
        recurrent.fp32_precision = "ieee"
        assert all(one != other for one, other in zip(precisions(), before, strict=True))
        return 1.0

    with kept_float32():
        matrices.fp32_precision, convolutions.fp32_precision = "tf32", "ieee"
        recurrent.fp32_precision, of_cpu.fp32_precision = "tf32", "none"
        before = precisions()
        for _ in range(2):
            trained(train)
            assert precisions() == before
        # What is set for all reaches what has nothing of its own, as ever.
        backends.fp32_precision = "tf32"
        assert of_cpu.fp32_precision == "tf32"
    assert surroundings()["precision"] == "highest"


def test_the_random_states_of_a_mac_s_gpu_are_seeded_and_put_back(monkeypatch):
    gpu = torch.Generator()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "manual_seed", gpu.manual_seed)
    monkeypatch.setattr(torch.mps, "get_rng_state", gpu.get_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", gpu.set_state)
    before = gpu.get_state()
    drawn = []
    for _ in range(2):
        with as_it_was("cpu"):
            seed_all(3, "cpu")
            drawn.append(torch.rand(4, generator=gpu).tolist())
        assert torch.equal(gpu.get_state(), before)
    assert drawn[0] == drawn[1]
    # A checkpoint that was written elsewhere, or before, has none.
    states = random_states("cpu")
    put_back({**states, "mps": None}, "cpu")
    put_back({name: state for name, state in states.items() if name != "mps"}, "cpu")
    assert torch.equal(gpu.get_state(), before)


def test_denormals_are_told(request):
    assert not flushes_denormals()
    torch.set_flush_denormal(True)
    assert flushes_denormals()
    torch.set_flush_denormal(False)
    assert not flushes_denormals()


def test_a_warning_that_was_shown_is_not_shown_again_in_each_segment(trained):
    def train(run):
        warnings.warn("as ever", UserWarning, stacklevel=1)
        return 1.0

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            trained(train)
    assert len(caught) == 1


def test_a_folder_that_is_gone_is_no_trouble(trained, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert trained(lambda run: 1.0).metrics == {"loss": 1.0}
