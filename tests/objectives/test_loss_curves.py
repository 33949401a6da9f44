"""Training losses of own functions, Lightning and commands: in the trial table, and what is said of them."""

from __future__ import annotations

import json
import subprocess
import sys
from textwrap import dedent

import optuna
import pytest

import stantune as st
from stantune.protocols import Metric, Place, Segment
from stantune.search.table.looking.look import look
from stantune.search.table.rows import ImpossibleError, row_of

SPACE = st.Space({"x": st.Float(0, 1)})


def train(run):
    """Diverge at large values; a loss for each of four parts of a step."""
    run.keep(nothing=[0])
    for step in run.steps():
        for part in range(4):
            run.loss(run.params["x"] + 1 / (4 * step + part + 1))
    return {"error": float("nan") if run.params["x"] > 0.9 else run.params["x"]}


def losses_of(x, count):
    return [(at, pytest.approx(x + 1 / at, rel=1e-5)) for at in range(1, count + 1)]


def test_the_table_has_them(tmp_path):
    """Of each trial to where it is, of diverged ones and of the final training; and those who look see the same."""
    result = st.tune(train, SPACE, minimize="error", max_resource=9, seed=1, out=tmp_path / "run")
    seen = look(tmp_path / "run")
    assert list(seen.rows) == list(result.state.rows)
    assert {trial.status for trial in result.trials()} >= {"diverged", "dropped", "finished"}
    for row in seen.rows:
        reached = max(*row.errors, row.diverged_at) if row.errors and row.diverged_at else row.reached
        assert row.loss_curve.points == losses_of(row.params["x"], 4 * reached)
        assert [row.losses[stop].points for stop in sorted(row.errors)] == [
            losses_of(row.params["x"], 4 * stop) for stop in sorted(row.errors)
        ]
    assert seen.finals[0].losses.points == losses_of(result.best.params["x"], 36)


def test_whoever_keeps_nothing_tells_them_anew(tmp_path):
    def forgetful(run):
        for _ in range(run.stop):
            run.loss(run.params["x"])
        return {"error": run.params["x"]}

    st.tune(forgetful, SPACE, minimize="error", max_resource=9, brackets=1, out=tmp_path / "run")
    rows = look(tmp_path / "run").rows
    assert {row.loss_curve.end for row in rows} == {row.reached for row in rows} == {1, 3, 9}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_has_a_loss_for_each_batch(tmp_path, accumulate):
    """As the module returns it, whatever Lightning divides it by."""
    pytest.importorskip("lightning", reason="Lightning is not installed: pip install 'stantune[lightning]'")
    import torch
    from lightning.pytorch import LightningModule

    class Net(LightningModule):
        def __init__(self, params):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(params["x"]))

        def training_step(self, batch, batch_idx):
            return self.weight * 0 + 10 * self.current_epoch + batch_idx

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.weight)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def data(params):
        batches = torch.utils.data.DataLoader(torch.zeros(6, 1), batch_size=2)
        return batches, batches

    settings = {"accumulate_grad_batches": accumulate, "accelerator": "cpu"}
    what = st.LightningObjective(module=Net, data=data, space=SPACE, monitor="val_loss", trainer_settings=settings)
    path = tmp_path / "trial-000000.pt"
    first = what.trainer(Place(threads=1)).train(Segment(0, {"x": 0.5}, 0, 1, 0, path, bracket=0), bool, int)
    then = what.trainer(Place(threads=1)).train(Segment(0, {"x": 0.5}, 1, 2, 0, path, bracket=0), bool, int)
    again = what.trainer(Place(threads=1)).train(Segment(0, {"x": 0.5}, 1, 2, 0, path, bracket=0), bool, int)
    assert first.losses.points == [(1, 0.0), (2, 1.0), (3, 2.0)]
    assert then.losses.points == again.losses.points == [*first.losses.points, (4, 10.0), (5, 11.0), (6, 12.0)]


def test_a_command_tells_losses_beside_how_far_it_is(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        dedent(
            """
            import json, sys
            start, stop = map(int, sys.argv[2:4])
            for done in range(start + 1, stop + 1):
                print(json.dumps({"resource": done, "loss": 1 / done}))
            print(json.dumps({"resource": stop, "loss": float("nan"), "loss ": 1}))
            print(json.dumps({"resource": stop, "loss": "none"}))
            print(json.dumps({"loss": 7}))
            print(json.dumps({"error": float(sys.argv[1])}))
            """
        )
    )
    command = st.CommandObjective(f"{{python}} {script} {{x}} {{start}} {{stop}}", SPACE, minimize="error")
    result = st.tune(command, max_resource=3, min_resource=1, brackets=1, out=tmp_path / "run")
    row = look(tmp_path / "run").rows[result.best.number]
    assert row.loss_curve.points == [(1, 1.0), (2, 0.5), (3, 0.333333)]
    assert result.state.finals[0].losses.points == row.loss_curve.points


def test_show_and_export_tell_them(tmp_path):
    out = tmp_path / "run"
    st.tune(train, SPACE, minimize="error", max_resource=60, brackets=1, seed=1, out=out)
    rows = look(out).rows
    best = max(rows, key=lambda row: row.reached)
    count = 4 * best.reached

    def said(*words):
        command = [sys.executable, "-m", "stantune", *words]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return done.stdout

    lines = said("show", str(out), str(best.number)).splitlines()
    first, last = best.loss_curve.means[0], best.loss_curve.means[-1]
    [line] = [line for line in lines if line.startswith("training loss") and line.endswith(f", {count} losses")][:1]
    shown = line.removeprefix("training loss: ").split()
    assert shown[::2][:2] == [f"{first:.4g}", f"{last:.4g},"]
    assert (shown[1][0], shown[1][-1], len(shown[1])) == ("█", "▁", 40)
    losses = [{"count": at, "mean": mean} for at, mean in best.loss_curve.points]
    assert json.loads(said("show", str(out), str(best.number), "--json", "-"))["losses"] == losses
    exported = json.loads(said("export", str(out), "--json", "-"))["losses"]
    assert [each["trial"] for each in exported] == [row.number for row in rows]
    assert exported[best.number]["losses"] == losses


def test_what_no_search_writes_is_not_believed(tmp_path):
    st.tune(train, SPACE, minimize="error", max_resource=1, out=tmp_path / "run")
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'run' / 'search.db'}")
    trial = study.trials[0]
    right = trial.user_attrs["stantune:losses:1"]
    assert row_of(trial, Metric("error"), []).loss_curve.end == 4
    for bad in (
        {},
        [],
        {**right, "every": 0},
        {**right, "every": 1.5},
        {**right, "end": 6},
        {**right, "begin": -1},
        {**right, "means": ["1"] * 4},
        {**right, "means": [float("inf")] * 4},
        {**right, "end": 1000, "means": [1.0] * 1000},
    ):
        trial.user_attrs["stantune:losses:1"] = bad
        with pytest.raises(ImpossibleError, match=r"^stantune:losses:1 of trial 0 is .*, which is no curve of losses$"):
            row_of(trial, Metric("error"), [])
