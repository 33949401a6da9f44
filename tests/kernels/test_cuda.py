"""The choice between cuDNN and Triton: a pure function of times, and what surrounds it; no device is needed."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stantune.errors import StanWarning
from stantune.kernels.cuda import ways as cuda
from stantune.kernels.cuda.ways import EXACT, WAYS, WORTHWHILE, CudaPath, choices, choose, cuda_path, faster

SECONDS = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=9)


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is known at first, and nothing stays."""
    monkeypatch.setattr(cuda, "_choices", {})
    monkeypatch.setattr(cuda, "_told", False)
    monkeypatch.delenv("STANTUNE_CUDA", raising=False)
    monkeypatch.delenv("STANTUNE_KERNELS", raising=False)
    cuda_path.cache_clear()
    yield
    monkeypatch.undo()
    cuda_path.cache_clear()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes this machine look like one with devices of these compute capabilities."""

    def make(*capabilities: tuple[int, int], triton: bool = True, version: str | None = "13.0") -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: capabilities[number])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        monkeypatch.setattr(torch.version, "cuda", version)
        monkeypatch.setattr(cuda, "find_spec", lambda name: "there" if triton else None)

    return make


@given(cudnn=SECONDS, triton=SECONDS)
def test_triton_is_taken_where_it_saves_more_than_noise(cudnn: list[float], triton: list[float]) -> None:
    choice = faster({"cudnn": cudnn, "triton": triton})
    middle = {way: sorted(taken) for way, taken in (("cudnn", cudnn), ("triton", triton))}
    low = {way: taken[(len(taken) - 1) // 2] for way, taken in middle.items()}
    high = {way: taken[len(taken) // 2] for way, taken in middle.items()}
    assert all(low[way] <= choice.seconds[way] <= high[way] for way in WAYS)
    if high["triton"] < (1 - WORTHWHILE) * low["cudnn"]:
        assert choice.way == "triton"
    if low["triton"] >= (1 - WORTHWHILE) * high["cudnn"]:
        assert choice.way == "cudnn"


def test_an_equal_time_leaves_what_was_trained_with_so_far() -> None:
    assert faster({"cudnn": [1.0, 2.0], "triton": [1.0, 2.0]}).way == "cudnn"
    assert faster({"cudnn": [1.0], "triton": [0.99]}).way == "cudnn"
    assert faster({"cudnn": [1.0], "triton": [0.9]}).way == "triton"


class Fake:
    """Two ways that take a known time on a clock of their own; every entry's is long where it is not said."""

    def __init__(self, seconds: Mapping[str, float], results: Mapping[str, list[Tensor]] | None = None) -> None:
        self.now = 0.0
        self.calls: list[str] = []
        seconds = {EXACT: 10.0, **seconds}
        self.trials = {way: self._trial(way, seconds[way], (results or {}).get(way)) for way in seconds}

    def _trial(self, way: str, seconds: float, results: list[Tensor] | None) -> Callable[[], list[Tensor]]:
        def trial() -> list[Tensor]:
            # The first call compiles.
            self.now += 100 * seconds if way not in self.calls else seconds
            self.calls.append(way)
            return [torch.ones(3)] if results is None else results

        return trial

    def choose(self, key: str = "shape", recordable: bool = True) -> str:
        return choose(key, "a convolution", self.trials, lambda: self.now, recordable)


@pytest.mark.parametrize("way", WAYS)
def test_the_faster_one_is_measured_once_for_each_shape(device: Callable[..., None], way: str) -> None:
    device((9, 0))
    fake = Fake({each: 1.0 if each == way else 2.0 for each in WAYS})
    assert fake.choose() == way
    measured = len(fake.calls)
    assert fake.choose() == way
    assert len(fake.calls) == measured
    fake.choose("another")
    assert len(fake.calls) == 2 * measured
    (first, _) = choices()
    assert first.what == "a convolution"
    assert first.seconds == pytest.approx({EXACT: 10.0} | {each: 1.0 if each == way else 2.0 for each in WAYS})


def test_both_are_timed_in_turns(device: Callable[..., None]) -> None:
    device((8, 0))
    fake = Fake({"cudnn": 1.0, "triton": 1.0})
    fake.choose()
    order = "".join(way[0] for way in fake.calls)
    assert order == "ect" + ("e" * cuda.CALLS + "c" * cuda.CALLS + "t" * cuda.CALLS) * cuda.ROUNDS


def test_a_program_that_fails_or_errs_is_not_used_and_says_so(device: Callable[..., None]) -> None:
    device((9, 0))

    def fail() -> list[Tensor]:
        raise RuntimeError("out of resources: shared memory")

    fake = Fake({"cudnn": 2.0, "triton": 1.0})
    with pytest.warns(StanWarning, match="by cuDNN: the comparison with Triton failed: RuntimeError: out of"):
        assert choose("fails", "a convolution", {**fake.trials, "triton": fail}) == "cudnn"
    wrong = Fake({"cudnn": 2.0, "triton": 1.0}, {"triton": [torch.tensor([1.0, 1.0, 1.1])]})
    with pytest.warns(StanWarning, match="Triton's result is not cuDNN's"):
        assert wrong.choose("errs") == "cudnn"
    nan = Fake({"cudnn": 2.0, "triton": 1.0}, {"triton": [torch.tensor([1.0, 1.0, torch.nan])]})
    with pytest.warns(StanWarning, match="Triton's result is not cuDNN's"):
        assert nan.choose("not a number") == "cudnn"
    rounded = Fake({"cudnn": 2.0, "triton": 1.0}, {"triton": [torch.tensor([1.0, 1.0, 1.004])]})
    assert rounded.choose("rounds") == "triton"


def test_a_training_that_has_diverged_says_nothing_of_triton(device: Callable[..., None]) -> None:
    device((9, 0))
    diverged = [torch.tensor([1.0, torch.inf])]
    fake = Fake({"cudnn": 2.0, "triton": 1.0}, {"cudnn": diverged, "triton": diverged})
    assert fake.choose() == "triton"


def test_nothing_is_timed_where_results_must_not_depend_on_times(device: Callable[..., None]) -> None:
    device((9, 0))
    fake = Fake({"cudnn": 2.0, "triton": 1.0})
    torch.use_deterministic_algorithms(True)
    try:
        assert fake.choose() == "cudnn"
    finally:
        torch.use_deterministic_algorithms(False)
    assert not fake.calls
    assert fake.choose() == "triton"


def test_nothing_is_timed_while_a_graph_is_recorded(
    device: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    device((9, 0))
    fake = Fake({"cudnn": 2.0, "triton": 1.0})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert fake.choose() == "cudnn"
    assert not fake.calls
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert fake.choose() == "triton"


def test_that_every_entry_is_faster_is_said_once_and_changes_nothing(device: Callable[..., None]) -> None:
    device((9, 0))
    said = r"a convolution takes 2000.00 ms, and every entry 1500.00 ms: STAN makes this training slower here\."
    with pytest.warns(StanWarning, match=said):
        assert Fake({EXACT: 1.5, "cudnn": 2.0, "triton": 3.0}).choose() == "cudnn"
    assert Fake({EXACT: 1.5, "cudnn": 3.0, "triton": 2.0}).choose("another") == "triton"


def test_there_is_no_way_without_a_device(device: Callable[..., None]) -> None:
    device()
    assert cuda_path() == CudaPath((), "PyTorch sees no CUDA device")


@pytest.mark.parametrize(
    ("machine", "environment", "ways", "reason"),
    [
        ({}, {}, WAYS, "each shape's faster one, measured at its first use"),
        ({}, {"STANTUNE_CUDA": "triton"}, ("triton",), "STANTUNE_CUDA=triton"),
        ({}, {"STANTUNE_CUDA": "cudnn"}, ("cudnn",), "STANTUNE_CUDA=cudnn"),
        (
            {},
            {"STANTUNE_CUDA": "fast"},
            WAYS,
            "each shape's faster one, measured at its first use; STANTUNE_CUDA=fast is unknown, give cudnn or triton",
        ),
        ({}, {"STANTUNE_KERNELS": "off", "STANTUNE_CUDA": "triton"}, ("cudnn",), "STANTUNE_KERNELS=off"),
        (
            {"triton": False},
            {"STANTUNE_CUDA": "triton"},
            ("cudnn",),
            "no Triton kernels: Triton is not installed; pip install triton (Linux)",
        ),
        ({"version": None}, {}, ("cudnn",), "no Triton kernels: they are for NVIDIA's devices"),
    ],
)
def test_machine_and_environment_say_what_is_used(
    device: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    machine: dict,
    environment: dict[str, str],
    ways: tuple[str, ...],
    reason: str,
) -> None:
    device((9, 0), **machine)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cuda_path() == CudaPath(ways, reason)
    fake = Fake({"cudnn": 2.0, "triton": 1.0})
    assert fake.choose() == ("triton" if "triton" in ways else "cudnn")
    assert bool(fake.calls) == (ways == WAYS)


def test_the_oldest_device_decides(device: Callable[..., None]) -> None:
    device((9, 0), (7, 5))
    assert cuda_path() == CudaPath(("cudnn",), "no Triton kernels: GPU 1 has compute capability 7.5, and they need 8.0")


def test_garbage_is_collected_again_after_a_recording() -> None:
    assert gc.isenabled()
    with cuda.no_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), cuda.no_collection():
        _ = 1 / 0
    assert gc.isenabled()
    gc.disable()
    try:
        with cuda.no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_importing_stantune_imports_no_triton() -> None:
    code = (
        "import sys, stantune, stantune.stan.entries.filled;"
        "print(any(name.split('.')[0] == 'triton' for name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_where_steps_are_replayed_the_devices_time_alone_counts(
    device: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    device((9, 0))
    # Written out, Triton's many launches take longer; recorded, they do not count.
    fake = Fake({"cudnn": 1.0, "triton": 2.0})
    recorded: list[str] = []

    def record(trial: Callable[[], object]) -> Callable[[], object]:
        way = next(way for way in (EXACT, *WAYS) if fake.trials[way] is trial)

        def replay() -> None:
            recorded.append(way)
            fake.now += {EXACT: 2.0, "cudnn": 1.0, "triton": 0.5}[way]

        return replay

    monkeypatch.setattr(cuda, "_recorded", record)
    assert fake.choose() == "cudnn"
    assert not recorded
    with cuda.replayed():
        assert fake.choose() == "triton"
    assert recorded == [EXACT, *WAYS] * cuda.ROUNDS
    assert fake.choose() == "cudnn"
    assert [choice.what for choice in choices()] == ["a convolution", "a convolution, replayed"]


def test_what_cannot_be_recorded_is_timed_as_it_is_written(
    device: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    device((9, 0))

    def refuse(trial: Callable[[], object]) -> Callable[[], object]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda, "_recorded", refuse)
    fake = Fake({"cudnn": 2.0, "triton": 1.0})
    with cuda.replayed():
        assert fake.choose(recordable=False) == "triton"
        # What has turned out to be so ends no training.
        with pytest.warns(
            StanWarning, match="the comparison with Triton failed: RuntimeError: operation not permitted"
        ):
            assert fake.choose() == "cudnn"
    assert [choice.what for choice in choices()] == ["a convolution", "a convolution, replayed"]
