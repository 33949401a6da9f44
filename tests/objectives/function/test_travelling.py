"""Functions of scripts and notebooks, whatever kind of function, reach worker processes and Ray, and train the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import types
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import stantune as st
from stantune.search.table.looking.look import look

# Beside the script, and in a folder that the script adds to its path.
HELPER = "FACTOR = 2.0\n\ndef doubled(value):\n    return FACTOR * value\n"
FARTHER = """
class Scale:
    def __init__(self, by):
        self.by = by

    def __call__(self, value):
        return self.by * value
"""
# What a user writes at the top of a script, or in the first cells of a notebook.
CELLS = [
    """
    import functools, json, os, sys
    from dataclasses import dataclass
    import torch
    import stantune as st
    SPACE = st.Space({"lr": st.Float(1e-3, 1, log=True)})
    """,
    """
    class Net(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x).tanh()

    def noise(count):
        return torch.randn(count, 3)

    def train(run):
        net = Net(3, 1)
        optimizer = torch.optim.SGD(net.parameters(), run.params["lr"])
        run.keep(net=net, optimizer=optimizer)
        for _ in run.steps():
            loss = (net(noise(4)) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.loss(loss)
        return {"loss": (net(torch.ones(1, 3)) ** 2).mean()}
    """,
    """
    def closure():
        seen, net = 3.0, Net
        def inner(run):
            run.keep(net=net(3, 1))
            return seen * train_loss(run)
        def train_loss(run):
            return torch.randn(1).abs().item() + run.params["lr"]
        return inner

    def logged(function):
        @functools.wraps(function)
        def inner(run):
            return {name: value + 1 for name, value in function(run).items()}
        return inner

    @dataclass
    class Trainer:
        factor: float
        def __call__(self, run):
            return {"loss": self.factor * train(run)["loss"]}
        def other(self, run):
            return self(run)
        @staticmethod
        def fixed(run):
            return train(run)
        @classmethod
        def of(cls, run):
            return cls(5.0)(run)

    @logged
    def decorated(run):
        return train(run)

    @st.objective(space=SPACE, minimize="loss", max_resource=2)
    def declared(run):
        return train(run)

    KINDS = {
        "function": train,
        "lambda": lambda run: train(run),
        "closure": closure(),
        "object": Trainer(2.0),
        "method": Trainer(3.0).other,
        "static": Trainer.fixed,
        "class method": Trainer.of,
        "decorated": decorated,
        "partial": functools.partial(lambda run, factor: factor * train(run)["loss"], factor=4.0),
        "declared": declared,
    }
    """,
]
SCRIPT_ONLY = """
import helper
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "farther"))
from far import Scale
KINDS["helped"] = lambda run: helper.doubled(train(run)["loss"])
KINDS["of another module"] = lambda run, scale=Scale(7.0): scale(train(run)["loss"])
"""
# No `if __name__ == "__main__"`: a worker must not run it.
SEARCH = """
how, kinds = json.loads(os.environ["HOW"]), json.loads(os.environ["KINDS"])
said = {}
for kind in kinds or KINDS:
    given = {} if kind == "declared" else {"space": SPACE, "minimize": "loss", "max_resource": 2}
    out = os.path.join(os.environ["OUT"], kind)
    found = st.tune(KINDS[kind], **given, **how, eta=2, brackets=1, threads=1, device="cpu", out=out)
    assert found.complete and not found.summary.counts.failed, found
    said[kind] = [[trial.params, trial.value] for trial in found.trials()] + [found.final.metrics]
print("SAID", json.dumps(said, sort_keys=True))
"""
# As a notebook runs its cells: __main__ has no file, and each cell is compiled under a name of its own.
NOTEBOOK = """
import json, linecache, os, sys, __main__
vars(__main__).pop("__file__", None)
vars(__main__).pop("__spec__", None)
for number, cell in enumerate(json.loads(os.environ["CELLS"])):
    name = f"<ipython-input-{number}>"
    linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)
    exec(compile(cell, name, "exec"), vars(__main__))
"""
ONE_WORKER = {"workers": 1, "trial_timeout": 300}


class Program:
    """A script, or the cells of a notebook, that searches functions of several kinds."""

    def __init__(self, place: Path, how: str) -> None:
        self._place, self._how = place, how
        cells = [textwrap.dedent(cell) for cell in CELLS]
        if how == "script":
            (place / "helper.py").write_text(HELPER)
            (place / "farther").mkdir()
            (place / "farther" / "far.py").write_text(FARTHER)
            cells.append(SCRIPT_ONLY)
        self._cells = [*cells, SEARCH]
        (place / "script.py").write_text("\n".join(self._cells))

    def said(self, kinds: list[str], how: dict[str, object], out: str) -> dict[str, object]:
        """Return what the searches of these kinds come to, none for all."""
        where = self._place / out
        env = {**os.environ, "HOW": json.dumps(how), "KINDS": json.dumps(kinds), "OUT": str(where)}
        if self._how == "script":
            command = [sys.executable, "script.py"]
        else:
            command = [sys.executable, "-"] if self._how == "standard input" else [sys.executable, "-c", NOTEBOOK]
            env["CELLS"] = json.dumps(self._cells)
        text = "\n".join(self._cells) if self._how == "standard input" else None
        done = subprocess.run(
            command, env=env, cwd=self._place, input=text, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("SAID ")]
        said: dict[str, object] = json.loads(line[5:])
        return said


# A module that no other process finds by its name, as some tools load a user's file.
LOADED = """
class Trainer:
    def train(self, run):
        return float(run.params["x"])

    @classmethod
    def of(cls, run):
        return cls().train(run)
"""
PROGRAMS = ["script", "notebook", "standard input"]


@pytest.mark.parametrize("how", ["script", "notebook"])
def test_a_function_of_a_program_trains_the_same_in_a_worker(tmp_path: Path, how: str) -> None:
    program, kinds = Program(tmp_path, how), ["object"]
    assert program.said(kinds, ONE_WORKER, "worker") == program.said(kinds, {}, "here")


@pytest.mark.slow
@pytest.mark.parametrize("how", PROGRAMS)
def test_every_kind_of_function_trains_the_same_in_workers(tmp_path: Path, how: str) -> None:
    program = Program(tmp_path, how)
    here = program.said([], {}, "here")
    assert len(here) == (12 if how == "script" else 10)
    assert len({json.dumps(each) for each in here.values()}) >= len(here) - 4
    assert program.said([], {"workers": 2}, "workers") == here
    # A search is gone on with by another process, for which the function is the same.
    assert program.said([], {"workers": 2}, "here") == here


@pytest.mark.parametrize("kind", ["method", "class method", "method of another module"])
def test_a_method_reaches_workers_that_cannot_import_its_class(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType(name := f"loaded_{kind.replace(' ', '_')}")
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(LOADED, name, "exec"), vars(module))
    kinds = {
        "method": module.Trainer().train,
        "class method": module.Trainer.of,
        "method of another module": types.MethodType(module.Trainer.train, Path()),
    }
    found = st.tune(
        kinds[kind],
        st.Space({"x": st.Float(0, 1)}),
        minimize="loss",
        max_resource=1,
        workers=1,
        trial_timeout=300,
        threads=1,
        device="cpu",
        out=tmp_path,
    )
    assert found.complete
    assert not found.summary.counts.failed


def test_a_module_of_a_folder_that_a_script_adds_to_its_path_is_found_on_ray(tmp_path: Path, address: str) -> None:
    program, kinds = Program(tmp_path, "script"), ["of another module"]
    assert program.said(kinds, {"executor": "ray", "address": address}, "ray") == program.said(kinds, {}, "here")


@pytest.mark.slow
@pytest.mark.parametrize("how", PROGRAMS)
def test_every_kind_of_function_trains_the_same_on_ray(tmp_path: Path, how: str, address: str) -> None:
    program = Program(tmp_path, how)
    assert program.said([], {"executor": "ray", "address": address}, "ray") == program.said([], {}, "here")


@pytest.mark.parametrize("way", [{"workers": 2}, {"trial_timeout": "1h"}, {"workers": 2, "fresh": True}], ids=str)
def test_what_cannot_travel_is_one_sentence(tmp_path: Path, way: dict[str, Any]) -> None:
    lock = threading.Lock()

    def train(run: st.Run) -> float:
        with lock:
            return float(run.params["x"])

    asked: dict[str, Any] = {"space": st.Space({"x": st.Float(0, 1)}), "minimize": "loss", "max_resource": 3}
    st.tune(train, out=tmp_path, **asked)
    before = look(tmp_path).rows
    with pytest.raises(
        st.UsageError, match=r"^`train` cannot be sent to worker processes \(TypeError: .*lock.*\); make"
    ):
        st.tune(train, out=tmp_path, **asked, **way)
    assert look(tmp_path).rows == before


@pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: pip install 'stantune[ray]'")
def test_what_cannot_travel_to_a_cluster_is_one_sentence() -> None:
    from stantune.search.ray.executor import RayExecutor

    nothing: Any = None
    with pytest.raises(st.UsageError, match=r"^`the objective` cannot be sent to worker processes \(TypeError: .*lock"):
        RayExecutor(nothing, partial(max, threading.Lock()), nothing, nothing)
