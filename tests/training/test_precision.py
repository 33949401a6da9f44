"""In what numbers is trained: bfloat16 by autocast is another result and part of identities; TF32 is a GPU's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from states import equal, what_counts
from torch import Tensor, nn

import stantune as st
from stantune.errors import CheckpointError, UsageError
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import Splits, find
from stantune.kernels.library import plain_pytorch
from stantune.process.float32 import kept_float32
from stantune.protocols import Conditions
from stantune.stan.config import Stan
from stantune.training.precision import PRECISIONS, computing_in, precision_on
from stantune.training.train import run
from stantune.training.trial import Trial

TINY = str(Path(__file__).parents[1] / "tiny_problem.py:problem")


def test_bf16_is_what_autocast_makes_of_each_step(small: Callable[..., Splits], tmp_path: Path) -> None:
    """Against a loop as anybody would write it."""
    problem = find("lenet")
    splits, setting = small(problem), {"lr": 0.01}
    run(problem, setting, tmp_path / "t.pt", 0, 6, splits=splits, seed=4, precision="bf16")
    ours = what_counts(tmp_path / "t.pt")["model"]

    def by_hand(cast: bool) -> dict[str, Tensor]:
        # Its network, optimizer and data.
        trial = Trial(problem, setting, splits, seed=4, stan=None)
        for iteration in range(6):
            batch = trial.batches.at(iteration)
            problem.scheduled(trial.optimizer, setting)(iteration)
            with torch.autocast("cpu", torch.bfloat16, enabled=cast):
                loss = nn.functional.cross_entropy(trial.model(batch.inputs), batch.targets)
            trial.optimizer.zero_grad()
            loss.backward()
            trial.optimizer.step()
        return dict(trial.model.state_dict())

    with plain_pytorch():
        by_autocast, in_float = by_hand(True), by_hand(False)
    assert all(torch.equal(ours[name], by_autocast[name]) for name in ours)
    assert all(value.dtype == torch.float32 for value in ours.values())
    assert not torch.equal(ours["conv2.weight"], in_float["conv2.weight"])


def test_stan_and_bf16_go_together(small: Callable[..., Splits], tmp_path: Path) -> None:
    problem = find("lenet")
    splits = small(problem)

    def trained(name: str, stops: tuple[int, ...], **options: Any) -> Any:
        stan = Stan(rate=0.25, period=2, layers=("*",), seed=3)
        for start, stop in zip((0, *stops), stops, strict=False):
            outcome = run(problem, {}, tmp_path / name, start, stop, splits=splits, stan=stan, **options)
        return outcome, what_counts(tmp_path / name)

    whole, cut = trained("whole", (9,), precision="bf16"), trained("cut", (4, 9), precision="bf16")
    assert whole[0].metrics == cut[0].metrics
    assert equal(whole[1], cut[1])
    assert not equal(whole[1], trained("float", (9,))[1])


def test_a_checkpoint_is_of_its_precision(quick: Any, tmp_path: Path) -> None:
    quick(tmp_path / "t.pt", 0, 4, precision="bf16")
    with pytest.raises(CheckpointError, match="trained with another precision"):
        quick(tmp_path / "t.pt", 4, 8)
    quick(tmp_path / "f.pt", 0, 4)
    # On a CPU these are the same numbers.
    assert quick(tmp_path / "f.pt", 4, 8, precision="fp32").iterations == 8


def test_it_is_part_of_a_searchs_identity(tmp_path: Path) -> None:
    problem = find(TINY)
    prepared = {
        precision: ProblemObjective(problem, precision=precision).prepared(Conditions(27)).objective
        for precision in (None, "fp32", "bf16")
    }
    assert "precision" not in prepared[None].identity
    assert prepared["fp32"].identity == prepared[None].identity
    assert prepared["bf16"].identity == {**prepared[None].identity, "precision": "bf16"}
    sizes = {"max_resource": 9, "min_resource": 3, "threads": 1, "device": "cpu", "out": tmp_path}
    first = st.tune(problem, precision="bf16", **sizes)
    assert first.complete
    with pytest.raises(UsageError, match="precision: bf16 there, not set here"):
        st.tune(problem, **sizes)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "fp16"}, "`precision`='fp16' is unknown; give fp32, tf32, bf16"),
        ({"precision": "tf32"}, "`precision`=tf32 are numbers of NVIDIA's GPUs, and here is none in use; give bf16"),
        ({"precision": 16}, "`precision`=16 is no text"),
        ({"precision": "bf16", "stan": Stan(rate="auto")}, "`precision`=bf16 does not go with a `rate` of auto"),
    ],
    ids=["unknown", "tf32", "number", "auto"],
)
def test_what_cannot_be_had_is_refused(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        st.tune(find(TINY), device="cpu", out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_function_says_itself_what_it_computes_in(tmp_path: Path) -> None:
    def train(run: st.Run) -> float:
        return 1.0

    space = st.Space({"x": st.Float(0, 1)})
    with pytest.raises(UsageError, match="`precision`=bf16 says how a Problem is trained, and train says that itself"):
        st.tune(train, space, max_resource=3, minimize="loss", precision="bf16", out=tmp_path / "out")


def test_on_a_gpu_each_is_what_it_says() -> None:
    """As far as that can be seen without one: what PyTorch is told, and that it is afterwards as it was."""
    assert [precision_on(precision, "cuda:1") for precision in PRECISIONS] == list(PRECISIONS)
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matrices.allow_tf32, convolutions.allow_tf32
    try:
        for was in (True, False):
            matrices.allow_tf32 = convolutions.allow_tf32 = was
            for precision, allowed in (("tf32", True), ("fp32", False), ("bf16", was), (None, was)):
                with computing_in(precision, "cuda"):
                    assert (matrices.allow_tf32, convolutions.allow_tf32) == (allowed, allowed)
                assert (matrices.allow_tf32, convolutions.allow_tf32) == (was, was)
    finally:
        matrices.allow_tf32, convolutions.allow_tf32 = before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="PyTorch has no new names for TF32")
def test_tf32_may_be_set_by_its_new_names() -> None:
    cudnn, matrices = torch.backends.cudnn, torch.backends.cuda.matmul
    places = matrices, cudnn.conv, cudnn.rnn

    def precisions() -> list[str]:
        return [place.fp32_precision for place in places]

    with kept_float32():
        matrices.fp32_precision, cudnn.conv.fp32_precision = "tf32", "ieee"
        # Reaches all that has nothing of its own.
        torch.backends.fp32_precision = "tf32"
        before = precisions()
        for precision, its in (("tf32", "tf32"), ("fp32", "ieee")):
            with computing_in(precision, "cuda"):
                assert precisions() == [its] * 3
                # As torch.compile asks.
                assert matrices.allow_tf32 == cudnn.allow_tf32 == (precision == "tf32")
            assert precisions() == before
        with computing_in(None, "cuda"):
            assert precisions() == before


def test_memory_that_ends_while_a_training_comes_back_is_no_damage(
    quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(tmp_path / "t.pt", 0, 4)

    def full(self: Trial, state: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trial, "restore", full)
    with pytest.raises(torch.OutOfMemoryError):
        quick(tmp_path / "t.pt", 4, 8)
