"""Commands are really run: what they are told, what they keep, and whole searches of them."""

from __future__ import annotations

import errno
import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_training import SPACE, TRAIN, segment
from segments import trained

from stantune.errors import AheadCheckpointError, CheckpointError, DamagedCheckpointError, StantuneError, UsageError
from stantune.objectives.command import packing
from stantune.objectives.command.objective import CommandObjective
from stantune.objectives.command.said import CommandError
from stantune.parameters import Categorical, Float
from stantune.process.machine import usable_cores
from stantune.protocols import Conditions, Place
from stantune.space import Space
from stantune.testing import check_objective
from stantune.tuning.tune import tune


class TestTraining:
    def test_all_that_it_is_told(self, tmp_path):
        space = Space(
            {"lr": Float(0, 1), "kind": Categorical(("a b", "c")), "more": Float(0, 1)}, {"more": {"kind": "c"}}
        )
        names = [
            "start",
            "stop",
            "length",
            "seed",
            "trial",
            "final",
            "device",
            "threads",
            "params",
            "lr",
            "kind",
            "more",
        ]
        command = [
            sys.executable,
            "-c",
            "import json, sys, os; print(json.dumps(sys.argv[1:] + [os.getcwd()])); print('{{\"loss\": 0}}')",
            *(f"{{{name}}}" for name in names),
            "{dir}",
        ]
        objective = CommandObjective(command, space, minimize="loss", cwd=tmp_path).prepared(Conditions(81)).objective
        asked = segment(tmp_path, 0, 3, params={"lr": 0.5, "kind": "a b"}, finalist=0)
        trainer = objective.trainer(Place(number=3, threads=2, device="cuda:1"))
        assert trainer.train(asked, lambda: False, lambda done: None).metrics == {"loss": 0.0}
        folder = tmp_path / "kept" / "trial-7"
        told = json.loads((folder / "stdout.log").read_text().splitlines()[1])
        seed = told.pop(3)
        assert 0 <= int(seed) < 2**31
        params = '{"lr": 0.5, "kind": "a b"}'
        assert told == [
            "0",
            "3",
            "81",
            "7",
            "1",
            "cuda:1",
            "2",
            params,
            "0.5",
            "a b",
            "",
            f"{folder}/state",
            str(tmp_path),
        ]

    def test_the_parts_of_a_training_are_the_whole(self, tmp_path, script):
        objective = CommandObjective(script(TRAIN), SPACE, minimize="loss")
        moved = []
        first = trained(objective, segment(tmp_path, 0, 2), watch=moved.append)
        second = trained(objective, segment(tmp_path, 2, 6), watch=moved.append)
        whole = trained(objective, segment(tmp_path, 0, 6, checkpoint=tmp_path / "whole.pt"))
        assert second.metrics == whole.metrics
        assert whole.metrics == {"loss": pytest.approx(0.9**6), "accuracy": pytest.approx(1 - 0.9**6)}
        assert (first.iterations, second.iterations, second.diverged_at, second.interrupted) == (2, 6, None, False)
        assert moved == [0, 1, 2, 2, 3, 4, 5, 6]
        assert (first.cost.exact, second.cost.exact) == (2, 4)
        assert second.cost.exact_seconds > 0
        folder = tmp_path / "kept" / "trial-7"
        assert sorted(place.name for place in folder.iterdir()) == ["stderr.log", "stdout.log"]
        assert (folder / "stdout.log").read_text().count("done, it says") == 2

    def test_a_segment_that_was_done_is_not_done_again(self, tmp_path, script):
        objective = CommandObjective(script(TRAIN), SPACE, minimize="loss")
        before = trained(objective, segment(tmp_path, 0, 2))
        (tmp_path / "train.py").unlink()
        again = trained(objective, segment(tmp_path, 0, 2))
        assert (again, again.cost) == (before, before.cost)

    @pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY])
    @pytest.mark.parametrize("which", [0, 1], ids=["the guard", "the command"])
    def test_where_the_system_has_no_process_to_spare_it_is_tried_again(
        self, tmp_path, script, monkeypatch, number, which
    ):
        started, popen = [], subprocess.Popen

        def start(*given, **options):
            started.append(given)
            if len(started) - 1 == which:
                raise OSError(number, os.strerror(number))
            return popen(*given, **options)

        objective = CommandObjective(script(TRAIN), SPACE, minimize="loss")
        monkeypatch.setattr(subprocess, "Popen", start)
        with pytest.raises(CommandError, match=rf"no file now \({os.strerror(number)}\); have fewer processes run"):
            trained(objective, segment(tmp_path, 0, 2))
        assert trained(objective, segment(tmp_path, 0, 2)).metrics["loss"] == pytest.approx(0.9**2)
        started.clear()
        options = {"max_resource": 1, "trials": 2, "mode": "async", "final": "none", "out": tmp_path / "search"}
        found = tune(CommandObjective(script(TRAIN), SPACE, minimize="loss"), **options)
        assert (found.complete, found.summary.counts.failed) == (True, 0)

    def test_without_its_checkpoint_it_begins_anew(self, tmp_path, script):
        objective = CommandObjective(script(TRAIN), SPACE, minimize="loss")
        assert trained(objective, segment(tmp_path, 2, 6)).metrics["loss"] == pytest.approx(0.9**6)

    def test_what_a_killed_run_left_does_not_count(self, tmp_path, script):
        objective = CommandObjective(script(TRAIN), SPACE, minimize="loss")
        trained(objective, segment(tmp_path, 0, 2))
        left = tmp_path / "kept" / "trial-7" / "state" / "deep"
        left.mkdir(parents=True)
        (left / "weights.json").write_text("[5, 4]")
        assert trained(objective, segment(tmp_path, 2, 3)).metrics["loss"] == pytest.approx(0.9**3)

    def test_a_damaged_checkpoint_is_told_from_anothers(self, tmp_path, script):
        objective = CommandObjective(script(TRAIN), SPACE, minimize="loss")
        asked = segment(tmp_path, 0, 2)
        trained(objective, asked)
        with pytest.raises(CheckpointError, match="another trial's"):
            trained(objective, segment(tmp_path, 2, 4, params={"lr": 0.2}))
        with pytest.raises(AheadCheckpointError, match="is at epoch 2, beyond 1"):
            trained(objective, segment(tmp_path, 0, 1))
        asked.checkpoint.write_bytes(asked.checkpoint.read_bytes()[:-200])
        with pytest.raises(DamagedCheckpointError):
            trained(objective, segment(tmp_path, 2, 4))

    def test_one_that_was_lost_later_is_further_than_where_it_was_not(self, tmp_path, script):
        text = "import json; print(json.dumps({'loss': 1.0} if STOP < 4 else {'diverged': True, 'resource': 3}))"
        line = script(text.replace("STOP", "int(__import__('sys').argv[3])"))
        objective = CommandObjective(line, SPACE, minimize="loss")
        trained(objective, segment(tmp_path, 0, 2))
        assert trained(objective, segment(tmp_path, 2, 4)).diverged_at == 3
        with pytest.raises(DamagedCheckpointError, match="is at epoch 3, beyond 2"):
            trained(objective, segment(tmp_path, 0, 2))

    def test_metrics_may_come_in_a_file_and_an_old_one_does_not_count(self, tmp_path, script):
        text = """
            import sys
            from pathlib import Path
            if sys.argv[2] == "0":
                Path(sys.argv[1], "metrics.json").write_text('{"loss":\\n 0.25}')
            print('{"loss": 9}')
        """
        objective = CommandObjective(script(text), SPACE, minimize="loss", metrics="metrics.json")
        assert trained(objective, segment(tmp_path, 0, 2)).metrics == {"loss": 0.25}
        with pytest.raises(CommandError, match=r"no JSON object in the file metrics\.json"):
            trained(objective, segment(tmp_path, 2, 4))

    def test_through_a_shell(self, tmp_path):
        line = "echo '{{\"loss\": '{lr}'}}' | cat && test -n \"$MINE\""
        with pytest.raises(UsageError):
            CommandObjective(line.replace("'{lr}'", "{lr}"), SPACE, minimize="loss", shell=True)
        objective = CommandObjective(line, SPACE, minimize="loss", shell=True, env={"MINE": "1"})
        assert trained(objective, segment(tmp_path, 0, 1)).metrics == {"loss": 0.1}

    def test_names_that_are_no_text_are_no_trouble(self, tmp_path):
        name = os.fsdecode(b"/data-\xff")
        code = "import json, os, sys; print(json.dumps({{'loss': os.fsencode(sys.argv[1])[-1]}}))"
        objective = CommandObjective([sys.executable, "-c", code, name, "{lr}"], SPACE, minimize="loss")
        assert trained(objective, segment(tmp_path, 0, 1)).metrics == {"loss": 255}
        assert b"/data-\\udcff" in (tmp_path / "kept/trial-7/stdout.log").read_bytes()

    def test_it_has_as_many_threads_as_it_is_told(self, tmp_path, script):
        text = """
            import json, os
            print(json.dumps({"loss": int(os.environ["OMP_NUM_THREADS"]), "mkl": int(os.environ["MKL_NUM_THREADS"])}))
        """
        objective = CommandObjective(script(text), SPACE, minimize="loss", env={"MKL_NUM_THREADS": "7"})
        assert trained(objective, segment(tmp_path, 0, 1)).metrics == {"loss": 1, "mkl": 7}

    @pytest.mark.parametrize(("said", "threads"), [("3", 3), ("", None), ("many", None), ("0", None)])
    def test_by_itself_it_has_as_many_as_the_environment_says(self, said, threads, tmp_path, script, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        text = """
            import json, os, sys
            print(json.dumps({"loss": int(os.environ["OMP_NUM_THREADS"]), "told": int(sys.argv[2])}))
        """
        objective = CommandObjective(script(text, "{lr} {threads}"), SPACE, minimize="loss")
        expected = threads or usable_cores()
        assert objective.prepared(Conditions(9)).threads == expected
        outcome = objective.trainer(Place()).train(segment(tmp_path, 0, 1), lambda: False, lambda done: None)
        assert outcome.metrics == {"loss": expected, "told": expected}
        # A search keeps the number that it was begun with, and several workers have one each.
        assert objective.prepared(Conditions(9, begun={"threads": 5})).threads == 5
        assert objective.prepared(Conditions(9, side_by_side=True)).threads == 1


def test_an_interrupted_segment_is_done_again_from_where_it_began(tmp_path, script):
    objective = CommandObjective(script(TRAIN), SPACE, minimize="loss")
    trained(objective, segment(tmp_path, 0, 2))
    slow = TRAIN.replace(
        "weight -= lr * weight", "weight -= lr * weight; kept.write_text('spoilt'); import time; time.sleep(60)"
    )
    script(slow)
    began = time.monotonic()
    outcome = trained(objective, segment(tmp_path, 2, 4), stop_early=lambda: time.monotonic() > began + 1)
    assert (outcome.interrupted, outcome.iterations) == (True, 2)
    script(TRAIN)
    assert trained(objective, segment(tmp_path, 2, 4)).metrics["loss"] == pytest.approx(0.9**4)


def test_a_finals_files_are_there_for_any_tar(tmp_path, script):
    objective = CommandObjective(script(TRAIN), SPACE, minimize="loss")
    trained(objective, segment(tmp_path, 0, 3, checkpoint=tmp_path / "final.pt", finalist=0))
    subprocess.run(["tar", "-xf", "final.pt"], cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "state/deep/weights.json").read_text()) == [pytest.approx(0.9**3), 3]
    assert json.loads((tmp_path / packing.NOTE).read_text())["note"]["done"] == 3


EXAMPLE = Path(__file__).parents[3] / "examples" / "shell_command.py"


@pytest.fixture
def example():
    return runpy.run_path(str(EXAMPLE))["objective"]


def test_the_example_is_searched(tmp_path, example):
    assert "python examples/shell_command.py" in EXAMPLE.read_text()
    result = tune(example, max_resource=9, out=tmp_path / "spirals", workers=2)
    assert result.complete
    assert {trial.status for trial in result.trials()} <= {"dropped", "finished"}
    assert result.final.resource == 9
    assert result.final.metrics["error"] < 50
    assert (tmp_path / "spirals/final/stdout.log").read_text().count('"resource"') == 9
    # The same call has nothing left to do, and one worker finds what two have found.
    assert tune(example, max_resource=9, out=tmp_path / "spirals").final == result.final
    alone = tune(example, max_resource=9, out=tmp_path / "alone", threads=1)
    assert [trial.metrics for trial in alone.trials()] == [trial.metrics for trial in result.trials()]


def test_the_example_learns_and_does_all_that_is_asked_of_it(tmp_path, example):
    params = {"lr": 0.05, "momentum": 0.5, "hidden": 12}
    assert trained(example, segment(tmp_path, 0, 60, params=params)).metrics["error"] < 25
    check_objective(example, params)


def test_settings_that_all_fail_are_told_with_their_cause(tmp_path, script):
    objective = CommandObjective(script("raise ValueError('no data')"), SPACE, minimize="loss")
    with pytest.raises(StantuneError, match="exit code 1: ValueError: no data"):
        tune(objective, max_resource=9, out=tmp_path / "search")


def test_it_does_all_that_is_asked_of_one(script):
    check_objective(CommandObjective(script(TRAIN), SPACE, minimize="loss"), {"lr": 0.1})


def test_no_torch_is_loaded(tmp_path):
    code = f"""
import sys
from pathlib import Path
from stantune.protocols import Conditions, Place, Segment
from stantune.objectives.command.objective import CommandObjective
from stantune.parameters import Float
from stantune.space import Space
command = ["printf", "%s{{lr}}", '{{{{"loss": 1}}}}\\n']
objective = CommandObjective(command, Space({{"lr": Float(0, 1)}}), minimize="loss")
objective, threads = objective.prepared(Conditions(9))
segment = Segment(0, {{"lr": 0.5}}, 0, 3, 1, Path({str(tmp_path)!r}, "kept.pt"))
assert objective.trainer(Place(threads=threads)).train(segment, lambda: False, lambda done: None).diverged_at is None
heavy = [name for name in ("torch", "numpy", "optuna") if name in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
