"""What PyTorch is set to where a search is begun is set where it trains, and noted; and is as it was in the end."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from corners import DRAWING

import stantune as st
from stantune.images.objective import ProblemObjective
from stantune.process.float32 import ALLOWED
from stantune.process.runtime import flush_denormals, flushes_denormals, kept_process
from stantune.process.settings import noted_settings, put_settings, settings_now, unusual_settings
from stantune.search.directory.directory import SearchDirectory
from stantune.search.table import studies
from stantune.stan.config import Memo
from stantune.tuning.process import noted

SPACE = st.Space({"x": st.Float(0, 1)})
DENORMAL = torch.finfo(torch.float32).tiny / 2


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """Leave PyTorch's settings as they were."""
    before = settings_now()
    yield
    put_settings(before)


def double() -> None:
    torch.set_default_dtype(torch.float64)


def deterministic() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)


def high() -> None:
    torch.set_float32_matmul_precision("high")


def old_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = False


def new_tf32() -> None:
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("PyTorch has no new names for TF32")
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.cudnn.conv.fp32_precision = "ieee"


def benchmark() -> None:
    torch.backends.cudnn.benchmark = True


def denormals() -> None:
    torch.set_flush_denormal(True)


def device() -> None:
    torch.set_default_device("meta")


OTHERS = (deterministic, old_tf32, new_tf32, denormals, benchmark)


def train(run: st.Run) -> dict[str, float]:
    """Return what a training finds in its process."""
    from stantune.process.settings import unusual_settings

    found = unusual_settings()
    return {"loss": 1.0, **{name: float(sum(map(ord, str(value)))) for name, value in found.items()}}


def identity_of(out: Path) -> Any:
    directory = SearchDirectory(out)
    return studies.identity_of(directory.url, directory.study)


def searched(out: Path, **options: Any) -> tuple[list[dict[str, float]], Any]:
    """Return what a search's trials measured, and its identity."""
    found = st.tune(
        train, SPACE, max_resource=3, minimize="loss", final="none", threads=1, device="cpu", out=out, **options
    )
    return [dict(trial.metrics) for trial in found.trials()], identity_of(out)


@pytest.mark.parametrize(
    "setting",
    [double, high, device, *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)],
)
def test_workers_train_as_this_process_is_set(setting: Callable[[], None], tmp_path: Path) -> None:
    _, usual = searched(tmp_path / "usual")
    assert "process" not in usual
    setting()
    here, identity = searched(tmp_path / "here")
    there, same = searched(tmp_path / "there", workers=2)
    assert here == there
    assert all(len(metrics) > 1 for metrics in here), "a training saw none of it"
    assert identity == same
    # What is cuDNN's alone is nothing to trainings on a CPU.
    assert ("process" in identity) == (setting is not benchmark)
    assert "process" not in identity or {**usual, "process": identity["process"]} == identity
    assert noted_settings(unusual_settings(), "cuda")
    if "process" in identity:
        with pytest.raises(st.UsageError, match=r"that of another search \(process"):
            searched(tmp_path / "usual")


def test_a_process_in_which_nobody_has_set_anything_has_nothing_unusual() -> None:
    assert unusual_settings() == {}


@pytest.mark.parametrize("setting", [high, old_tf32])
def test_nothing_is_unusual_once_it_has_been_set_back_by_its_own_name(setting: Callable[[], None]) -> None:
    setting()
    assert noted_settings(unusual_settings(), "cuda")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    assert unusual_settings() == {}


def flushing() -> int:
    """Return how many of a million denormal numbers count as zero, in whichever threads."""
    return int(((torch.full((10**6,), 2 * DENORMAL) / 2).view(torch.int32) == 0).sum())


def test_denormals_count_alike_in_all_threads() -> None:
    torch.set_num_threads(2)
    assert flushing() == 0, "there are threads that have computed"
    with kept_process():
        flush_denormals(True)
        assert flushes_denormals()
        assert flushing() == 10**6
        torch.set_num_threads(1)
    assert torch.get_num_threads() == 2
    assert not flushes_denormals()
    assert flushing() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="it is copied by fork")
def test_a_copy_of_a_process_that_has_computed_in_parallel_searches(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert flushing() == 0, "there are threads that have computed"
        copy = multiprocessing.get_context("fork").Process(target=searched_flushing, args=(tmp_path,))
        copy.start()
        copy.join(60)
        copy.kill()
        copy.join()
    finally:
        torch.set_num_threads(before)
    assert copy.exitcode == 0


def searched_flushing(out: Path) -> None:
    """Search where denormals count as they do not in the end."""
    with kept_process():
        searched(out)
        torch.set_flush_denormal(True)
    assert not flushes_denormals()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("options", [{"workers": 1, "threads": 2}, {"workers": 2}, {"workers": 1, "threads": 1}])
def test_a_problem_s_search_leaves_the_process_as_it_was(options: dict[str, Any], tmp_path: Path) -> None:
    torch.set_num_threads(2)
    assert flushing() == 0
    st.tune(DRAWING, max_resource=9, min_resource=9, brackets=1, device="cpu", out=tmp_path / "out", **options)
    assert torch.get_num_threads() == 2
    assert flushing() == 0
    # It counts them as zero anyway.
    torch.set_flush_denormal(True)
    assert "process" not in identity_of(tmp_path / "out")
    st.tune(DRAWING, max_resource=9, min_resource=9, brackets=1, device="cpu", out=tmp_path / "out", **options)


def test_data_are_loaded_with_the_settings_of_trainings(tmp_path: Path) -> None:
    """Where a search begins as where it goes on: threads that begin then count denormals for good."""
    seen = []

    class Seeing(type(DRAWING)):  # type: ignore[misc]
        def load(self, root: Path | None = None) -> Any:
            seen.append((torch.get_num_threads(), flushes_denormals()))
            return super().load(root)

    problem = Seeing(**vars(DRAWING))
    st.tune(problem, max_resource=9, min_resource=9, brackets=1, threads=1, device="cpu", out=tmp_path / "out")
    assert seen == [(1, True)]


@pytest.mark.parametrize("what", [DRAWING, train])
def test_a_memory_of_what_is_free_is_refused(what: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {} if what is DRAWING else {"space": SPACE, "minimize": "loss"}
    with pytest.raises(st.UsageError, match="give each a budget: Memo"):
        st.tune(what, max_resource=9, stan=st.Stan(memo=Memo(96, 10)), out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_search_of_before_settings_were_noted_goes_on_where_that_is_accepted(tmp_path: Path) -> None:
    found, _ = searched(tmp_path)
    high()
    with pytest.raises(st.UsageError, match=r"process: not set there.*say with `accept_changes`"):
        searched(tmp_path)
    assert searched(tmp_path, accept_changes=True)[0] == found
    # From now on it is noted.
    assert searched(tmp_path)[0] == found
    double()
    with pytest.raises(st.UsageError, match=r"that of another search \(process"):
        searched(tmp_path, accept_changes=True)


@pytest.mark.parametrize(("precision", "expected"), [("fp32", set()), ("bf16", {"float32-matmul"})])
def test_a_precision_decides_what_would_be_noted(precision: str, expected: set[str]) -> None:
    high()
    found = noted(unusual_settings(), ProblemObjective(DRAWING, precision=precision), "cuda")
    assert found.keys() & {"float32-matmul", "cuda-matmul-fp32", "cudnn-allow-tf32"} >= expected
    assert expected or not found.keys() & set(ALLOWED)


def test_a_search_that_was_begun_with_a_memory_of_what_is_free_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    options: dict[str, Any] = {"stan": st.Stan(memo=Memo(96, 10)), "out": tmp_path / "out", "say": lines.append}

    def again(**others: Any) -> st.SearchResult:
        return st.tune(train, SPACE, minimize="loss", max_resource=3, final="none", **options, **others)

    with monkeypatch.context() as patch:
        patch.setattr("stantune.tuning.tune.check_memory", lambda what, begun, say: None)
        found = again()
    assert again().trials() == found.trials()
    assert any(line.startswith("note: each training of train would remember") for line in lines)
    with pytest.raises(st.UsageError, match="give each a budget: Memo"):
        again(fresh=True)
