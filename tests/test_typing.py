"""A user's script is checked by mypy --strict: the package's names have types, and they are those that one expects."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

SCRIPT = '''
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, assert_type

import pandas
import torch

import stantune as st
from stantune.testing import check_executor, check_objective, check_sampler

space = st.Space(
    {
        "lr": st.Float(1e-4, 1, log=True),
        "width": st.Integer(8, 64),
        "kind": st.Categorical(("plain", "deep")),
        "layers": st.Integer(1, 3),
    },
    when={"layers": {"kind": "deep"}},
)


def train(run: st.Run) -> dict[str, float]:
    model = torch.nn.Linear(4, int(run.params["width"]))
    optimizer = torch.optim.SGD(model.parameters(), run.params["lr"])
    best = [0.0]
    run.keep(model=model, optimizer=optimizer, best=best)
    run.accelerate(model)
    for epoch in run.steps():
        assert_type(epoch, int)
        loss = model(torch.randn(2, 4)).sum()
        run.loss(loss)
        run.loss(float(loss))
    assert_type(run.final, bool)
    assert_type(run.checkpoint_dir, Path)
    assert_type(run.stop, int)
    return {"accuracy": 0.5}


def number(run: st.Run) -> float:
    return 0.5


@st.objective(space=space, maximize="accuracy", max_resource=9)
def decorated(run: st.Run) -> float:
    return 0.5


assert_type(decorated, st.FunctionObjective)


class Own:
    """A sampler."""

    name = "own"
    identity: Mapping[str, object] = {}
    waits = False

    def propose(self, asked: st.Asked) -> Mapping[str, object]:
        assert_type(asked.number, int)
        return {}


class Here:
    """An executor."""

    def __init__(self, order: st.Order) -> None:
        self.trainer: st.Trainer = order(0)
        self.segments: list[st.Segment] = []

    @property
    def capacity(self) -> int:
        return 1

    def submit(self, segment: st.Segment) -> None:
        self.segments.append(segment)

    def finished(self, stop_early: Callable[[], bool], watch: Callable[[st.Segment, int], None]) -> list[st.Ended]:
        segment = self.segments.pop()
        try:
            return [st.Ended(segment, self.trainer.train(segment, stop_early, lambda done: watch(segment, done)))]
        except ValueError as error:
            return [st.Ended(segment, st.Failure(str(error)))]


def search() -> None:
    result = st.tune(train, space, maximize="accuracy", max_resource=9, sampler=Own(), enqueue=[{"lr": 0.1}])
    assert_type(result, st.SearchResult)
    st.tune(number, space, minimize="loss", max_resource=9, rates="auto", fixed={"kind": "plain"}, budget="30m")
    st.tune(decorated, workers=2, stan=st.Stan(rate=0.5), trial_memory="2G", say=print)
    if result.best is not None:
        assert_type(result.best.value, float | None)
        assert_type(result.best.metrics["accuracy"], float)
        assert_type(result.best.params, Mapping[str, Any])
    if result.final is not None and result.final.weights is not None:
        assert_type(result.final.weights, Path)
    for trial in result.trials():
        assert_type(trial, st.TrialResult)
        assert_type(trial.curve[3], float)
    assert_type(result.table(), pandas.DataFrame)

    command = st.CommandObjective("train --lr {lr}", st.Space({"lr": st.Float(0, 1)}), minimize="loss", unit="step")
    assert_type(command.name, str)
    st.tune(command, max_resource=9, executor=Here)
    objective: st.Objective = command
    check_objective(objective, {"lr": 0.1})
    check_sampler(Own)
    check_executor(Here)

    with st.open_search(space, minimize="loss", max_resource=9, out=Path("runs")) as opened:
        assert_type(opened, st.OpenSearch)
        while (segment := opened.ask()) is not None:
            assert_type(segment, st.Segment)
            opened.tell(segment, {"loss": segment.params["lr"]}, seconds=1.0)
            opened.tell(segment, None)
            opened.fail(segment, "why")
        assert_type(opened.result, st.SearchResult)
'''

# What the script's types do not come from, and would take mypy minutes to read.
UNREAD = [
    "alembic",
    "IPython",
    "lightning",
    "matplotlib",
    "mlflow",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "optuna_dashboard",
    "plotly",
    "prompt_toolkit",
    "pytorch_lightning",
    "ray",
    "scipy",
    "sklearn",
    "skorch",
    "sqlalchemy",
    "sympy",
    "tensorboard",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed",
    "traitlets",
    "triton",
    "wandb",
]

# What mypy is to find.
MISTAKES = [
    "def train(run: st.Run) -> float:\n    return float(run.param['lr'])",
    "st.tune(len, st.Space({}), maximise='f1')",
    "st.Space({'lr': st.Flaot(0, 1)})",
]


def checked(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run mypy on a script as a user would, far from the package's own settings."""
    (folder / "script.py").write_text(script)
    unread = ",".join(f"{package}.*" for package in UNREAD)
    (folder / "mypy.ini").write_text(f"[mypy]\nstrict = true\n[mypy-{unread}]\nfollow_imports = skip\n")
    cache = Path(__file__).parents[1] / ".mypy_cache" / "user"
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(cache), "script.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_script_passes(tmp_path):
    done = checked(SCRIPT, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mistakes_are_found(tmp_path):
    lines = ["import stantune as st", *"\n".join(MISTAKES).splitlines()]
    done = checked("\n".join([*lines, ""]), tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    # One error each, where they are; none in the package.
    found = [int(place) for place in re.findall(r"^script\.py:(\d+): error:", done.stdout, re.MULTILINE)]
    assert found == [lines.index(mistake.splitlines()[-1]) + 1 for mistake in MISTAKES], done.stdout
    assert done.stdout.count("error:") == len(MISTAKES), done.stdout
