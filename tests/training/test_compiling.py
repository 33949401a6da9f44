"""Networks that torch.compile compiles: what is trained, what is another result, and what is refused.

Most of it by its backend "eager", whose programs are PyTorch's own operations: made in a blink, and with the same bits.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from states import equal, what_counts
from torch import Tensor, nn

import stantune as st
from stantune.errors import CheckpointError, UsageError
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import Problem, Splits, find
from stantune.protocols import Conditions
from stantune.stan.config import Stan
from stantune.training import compiling
from stantune.training.compiling import CompileError
from stantune.training.train import run

TESTS = Path(__file__).parents[1]
TINY = str(TESTS / "tiny_problem.py:problem")
SIZES = {"max_resource": 9, "min_resource": 3, "threads": 1, "device": "cpu"}


made: list[str] = []


def counted(backend: str) -> Callable[..., Any]:
    """A backend of torch.compile's that notes what it makes."""

    def make(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        made.append(backend)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    return make


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test finds programs of another."""
    monkeypatch.setattr(compiling, "BACKEND", counted("eager"))
    torch.compiler.reset()
    made.clear()
    yield
    torch.compiler.reset()


class Own(nn.Module):
    """A network with batch norm and dropout, as a user writes one."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Dropout(0.3)
        self.out = nn.Linear(36 * width, 4)

    def forward(self, input: Tensor) -> Tensor:
        return self.out(self.drop(self.norm(self.conv(input)).relu()).flatten(1))  # type: ignore[no-any-return]


def own(network: Callable[..., nn.Module] = Own) -> Problem:
    """The tiny problem with another network."""
    return replace(find(TINY), name="own", network=network, space=st.Space({"width": st.Integer(1, 40)}))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_what_is_compiled_is_the_network_in_training_steps(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "BACKEND", counted(backend))
    problem = own()
    splits = problem.load()
    # 60 samples are evaluated: another size of batch than 10, and another than that of the next split.
    plain = run(problem, {}, tmp_path / "plain.pt", 0, 12, splits=splits, seed=2, evaluate=("validation",))
    assert made == []
    compiled = run(problem, {}, tmp_path / "compiled.pt", 0, 5, splits=splits, seed=2, compile=True)
    compiled = run(problem, {}, tmp_path / "compiled.pt", 5, 12, splits=splits, seed=2, compile=True)
    assert made == [backend]
    assert compiled.metrics == plain.metrics
    # Bit for bit, names of weights and random state included: cut, and compared with what PyTorch does by itself.
    assert equal(what_counts(tmp_path / "compiled.pt"), what_counts(tmp_path / "plain.pt"))
    with pytest.raises(CheckpointError, match="trained with another compile"):
        run(problem, {}, tmp_path / "compiled.pt", 12, 15, splits=splits, seed=2)


def test_many_networks_of_one_class_are_compiled_each(tmp_path: Path) -> None:
    """PyTorch by itself gives up at the eighth, without an error."""
    problem = own()
    splits = problem.load()
    for _ in range(2):
        for width in range(1, 11):
            run(problem, {"width": width}, None, 0, 1, splits=splits, compile=True)
    assert len(made) == 10


def test_programs_go_with_bf16(tmp_path: Path) -> None:
    problem = own()
    splits = problem.load()
    for compile in (False, True):
        run(problem, {}, tmp_path / f"{compile}.pt", 0, 4, splits=splits, precision="bf16", compile=compile)
    assert equal(what_counts(tmp_path / "True.pt")["model"], what_counts(tmp_path / "False.pt")["model"])


class Counting(nn.Module):
    """Another network in each iteration."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.out, self.calls = nn.Linear(64, 4), 0

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        return self.out(input.flatten(1)) * self.calls  # type: ignore[no-any-return]


class Broken(Own):
    """A network that goes back to Python in its midst."""

    def forward(self, input: Tensor) -> Tensor:
        middle = self.norm(self.conv(input))
        torch._dynamo.graph_break()
        return self.out(self.drop(middle.relu()).flatten(1))  # type: ignore[no-any-return]


def test_a_network_that_is_compiled_again_and_again_is_refused() -> None:
    problem = own(Counting)
    splits = problem.load()
    # The second time the programs are there, and the sentence is the same.
    for _ in range(2):
        with pytest.raises(UsageError, match="9 of its first 9 iterations need programs of their own"):
            run(problem, {}, None, 0, 60, splits=splits, compile=True)


def test_a_network_that_breaks_in_pieces_is_compiled_in_pieces(tmp_path: Path) -> None:
    problem = own(Broken)
    splits = problem.load()
    for compile in (False, True):
        run(problem, {}, tmp_path / f"{compile}.pt", 0, 20, splits=splits, compile=compile)
    assert len(made) == 2
    assert equal(what_counts(tmp_path / "True.pt"), what_counts(tmp_path / "False.pt"))


def test_it_is_no_silent_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a program it would be another result, by the same identity."""
    problem = own()
    splits = problem.load()
    with torch._dynamo.config.patch(disable=True), pytest.raises(UsageError, match="makes no program of it"):
        run(problem, {}, None, 0, 2, splits=splits, compile=True)

    torch.compiler.reset()

    def failing(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        if len(inputs) > 1:  # the network, and not an addition
            raise ValueError("a bad\nday")
        return graph

    monkeypatch.setattr(compiling, "BACKEND", failing)
    with pytest.raises(
        CompileError,
        match=r"^the network is nothing for `compile`: torch.compile fails with it \(ValueError: a bad day\)",
    ):
        run(problem, {}, None, 0, 2, splits=splits, compile=True)


def test_a_compiler_that_fails_with_anything_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with each trial of its own, as a network that cannot be compiled does."""
    problem = own()
    splits = problem.load()
    torch.compiler.reset()

    def failing(*_: Any) -> Any:
        raise NotADirectoryError(20, "Not a directory", "/no/folder")

    monkeypatch.setattr(compiling, "BACKEND", failing)
    with pytest.raises(UsageError, match=r"fails with an addition \(.*Not a directory.*TORCHINDUCTOR_CACHE_DIR"):
        run(problem, {}, None, 0, 2, splits=splits, compile=True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"compile": True, "stan": Stan()}, "`compile` does not go with STAN"),
        ({"compile": True, "rates": "auto"}, "`compile` does not go with STAN"),
        ({"compile": "yes"}, "`compile`='yes' is neither True nor False"),
    ],
    ids=["stan", "rates", "yes"],
)
def test_what_cannot_be_had_is_refused(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        st.tune(find(TINY), out=tmp_path / "out", **SIZES, **options)
    assert not (tmp_path / "out").exists()


def test_without_a_compiler_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    with pytest.raises(UsageError, match=r"that a C\+\+ compiler \(InvalidCxxCompiler: No working.*install g\+\+"):
        st.tune(find(TINY), compile=True, out=tmp_path / "out", **SIZES)
    assert not (tmp_path / "out").exists()


def test_a_function_says_itself_what_is_compiled(tmp_path: Path) -> None:
    def train(run: st.Run) -> float:
        return 1.0

    space = st.Space({"x": st.Float(0, 1)})
    with pytest.raises(UsageError, match=r"`compile` says how .* train says that itself; .* call torch.compile there"):
        st.tune(train, space, max_resource=3, minimize="loss", compile=True, out=tmp_path / "out")


def test_it_is_part_of_a_searchs_identity(tmp_path: Path) -> None:
    problem = own()
    identities = {
        compile: ProblemObjective(problem, compile=compile).prepared(Conditions(27)).objective.identity
        for compile in (False, True)
    }
    assert "compile" not in identities[False]
    assert identities[True] == {**identities[False], "compile": True}
    assert st.tune(problem, compile=True, out=tmp_path, **SIZES).complete
    with pytest.raises(UsageError, match="compile: True there, not set here"):
        st.tune(problem, out=tmp_path, **SIZES)


def test_trainings_that_take_turns_come_to_the_same_and_are_loaded_without(tmp_path: Path) -> None:
    problem, found = own(), {}
    for together, threads in ((1, 1), (3, "auto")):
        out = tmp_path / str(together)
        found[together] = st.tune(
            problem, compile=True, out=out, together=together, **{**SIZES, "threads": threads, "max_resource": 9}
        )
    assert [trial.params for trial in found[1].trials()] == [trial.params for trial in found[3].trials()]
    assert [trial.metrics for trial in found[1].trials()] == [trial.metrics for trial in found[3].trials()]
    assert found[1].final.metrics == found[3].final.metrics
    loaded = st.load(tmp_path / "1", problem)
    assert not any("_orig_mod" in name for name in loaded.state_dict())


@pytest.mark.slow
def test_compiled_by_inductor_one_seed_gives_one_result(tmp_path: Path, small: Callable[..., Splits]) -> None:
    """In one process and in several, whole and cut, whatever was compiled before; and another than without."""
    script = f"""
import sys
sys.path[:0] = {[str(TESTS), str(TESTS / "helpers"), str(TESTS / "training")]!r}
import torch
from pathlib import Path
from test_compiling import own
from stantune.training.train import run

torch.set_num_threads(1)
problem, (to, others, *stops) = own(), sys.argv[1:]
splits = problem.load()
for width in range(1, 1 + int(others)):
    run(problem, {{"width": width}}, None, 0, 1, splits=splits, compile=True)
for start, stop in zip([0, *stops], stops, strict=False):
    run(problem, {{"width": 5}}, Path(to), int(start), int(stop), splits=splits, seed=2, compile=True)
"""
    states = []
    for number, (others, stops) in enumerate([("0", ("12",)), ("2", ("5", "12"))]):
        to = tmp_path / f"{number}.pt"
        subprocess.run([sys.executable, "-c", script, str(to), others, *stops], check=True, timeout=600)
        states.append(what_counts(to))
    assert equal(states[0], states[1])
    problem = own()
    run(problem, {"width": 5}, tmp_path / "plain.pt", 0, 12, splits=problem.load(), seed=2)
    assert not equal(what_counts(tmp_path / "plain.pt")["model"], states[0]["model"])
