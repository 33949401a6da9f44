"""Commands are really run: what they are told, keep, say, how they end, and what is left of them."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import cloudpickle
import pytest

from stantune.errors import CheckpointError, DamagedCheckpointError, StantuneError, UsageError
from stantune.objectives.command import groups, packing
from stantune.objectives.command.objective import CommandObjective
from stantune.objectives.command.said import CommandError
from stantune.objectives.command.templates import Template
from stantune.parameters import Categorical, Float, Integer
from stantune.protocols import Conditions, Metric, Objective, Place, Segment
from stantune.search.workers.executors import Failure, attempt
from stantune.space import Space
from stantune.testing import check_objective
from stantune.tuning.tune import tune

SPACE = Space({"lr": Float(0.001, 1, log=True)})
TRAIN = """
    import json, sys
    from pathlib import Path

    state, start, stop, lr = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    kept = state / "deep" / "weights.json"
    weight, at = json.loads(kept.read_text()) if kept.exists() else (1.0, 0)
    assert at == start, (at, start)
    for epoch in range(start, stop):
        weight -= lr * weight
        print(json.dumps({"resource": epoch + 1}))
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps([weight, stop]))
    print("done, it says")
    print(json.dumps({"loss": weight, "accuracy": 1 - weight, "note": "good", "odd": float("inf")}))
"""


@pytest.fixture
def script(tmp_path):
    """Write a Python script and return the command that runs it."""

    def write(text: str, arguments: str = "{dir} {start} {stop} {lr}") -> str:
        (tmp_path / "train.py").write_text(textwrap.dedent(text))
        return f"{{python}} {tmp_path}/train.py {arguments}"

    return write


def segment(tmp_path: Path, start: int, stop: int, **more) -> Segment:
    values = {
        "trial": 7,
        "params": {"lr": 0.1},
        "seed": 2**62 + 3,
        "checkpoint": tmp_path / "kept" / "trial-7.pt",
        **more,
    }
    return Segment(start=start, stop=stop, **values)


def trained(objective: CommandObjective, segment: Segment, stop_early=lambda: False, watch=lambda done: None):
    return objective.trainer(Place(threads=1)).train(segment, stop_early, watch)


def said(line: str) -> CommandObjective:
    """A command that says a line."""
    line = line.replace("{", "{{").replace("}", "}}")
    return CommandObjective(["printf", r"%s\n%s\n", line, "{lr}"], SPACE, minimize="loss")


class TestTheTemplate:
    def test_each_value_is_one_argument_whatever_is_in_it(self):
        template = Template("train --name={name} -- '{name} b' {lr:.2f} {{}}")
        assert template.names == ["name", "name", "lr"]
        odd = "a b; $(rm -rf /) 'c' \"d\" {lr}"
        assert template.fill({"name": odd, "lr": 0.125}) == ["train", f"--name={odd}", "--", f"{odd} b", "0.12", "{}"]

    def test_arguments_may_be_given_one_by_one(self):
        assert Template(["train it", "{lr}"]).fill({"lr": 1e-05}) == ["train it", "1e-05"]

    @pytest.mark.parametrize(
        ("value", "text"), [(True, "true"), (3, "3"), (0.5, "0.5"), ("x", "x"), ((1, "b"), '[1, "b"]'), (None, "")]
    )
    def test_a_text_stays_one_and_all_else_is_json(self, value, text):
        assert Template("a {x}").fill({"x": value}) == ["a", text]

    def test_for_a_shell_values_are_quoted(self):
        (line,) = Template("printf %s {name} | cat", shell=True).fill({"name": "a $(echo b) 'c'"})
        assert subprocess.run(line, shell=True, capture_output=True, text=True).stdout == "a $(echo b) 'c'"

    @pytest.mark.parametrize("line", ['echo "{name}"', "echo '{name}'", "echo 'a' \"b 'c {name}\"", "echo \\{name}"])
    def test_a_shell_cannot_be_given_a_value_within_quotes(self, line):
        with pytest.raises(UsageError, match=r"\{name\} stands within quotes"):
            Template(line, shell=True)

    @pytest.mark.parametrize("line", ["echo 'a' {name} \"b\"", 'echo "it\'s" {name}', "echo \\' {name}"])
    def test_quotes_elsewhere_do_no_harm(self, line):
        assert Template(line, shell=True).fill({"name": "x"})

    @pytest.mark.parametrize(
        ("command", "sentence"),
        [
            ("", "the command is empty"),
            ("  ", "the command is empty"),
            ([], "the command is empty"),
            ("train {", "braces that do not match"),
            ("train }", "braces that do not match"),
            ("train {lr!r}", "no plain one; write {lr}"),
            ("train 'a", "mend its quotes"),
            (["train", 3], "is no text"),
        ],
    )
    def test_what_is_no_command_is_refused(self, command, sentence):
        with pytest.raises(UsageError, match=sentence):
            Template(command)


class TestConstruction:
    def test_an_unknown_placeholder_is_named(self):
        with pytest.raises(UsageError, match=r"\{rate\} in the command .* is unknown; there are lr, start, stop"):
            CommandObjective("train {lr} {rate}", SPACE, minimize="loss")

    def test_a_parameter_that_is_used_nowhere_is_named(self):
        with pytest.raises(UsageError, match=r"'lr' is used nowhere in the command 'train'; write \{lr\}"):
            CommandObjective("train", SPACE, minimize="loss")
        assert CommandObjective("train {params}", SPACE, minimize="loss")

    def test_a_parameter_must_not_be_called_as_a_placeholder(self):
        with pytest.raises(UsageError, match="'seed' has the name of a placeholder"):
            CommandObjective("train {seed}", Space({"seed": Integer(0, 9)}), minimize="loss")

    @pytest.mark.parametrize(
        "named", [{}, {"minimize": "a", "maximize": "b"}, {"minimize": "a", "metric": Metric("a")}]
    )
    def test_one_metric_is_named(self, named):
        with pytest.raises(UsageError, match="trials are compared by one"):
            CommandObjective("train {lr}", SPACE, **named)

    @pytest.mark.parametrize("file", ["/etc/x", "../x", ""])
    def test_the_file_is_in_the_state_folder(self, file):
        with pytest.raises(UsageError, match="no file in the state folder"):
            CommandObjective("train {lr}", SPACE, minimize="loss", metrics=file)

    @pytest.mark.parametrize(
        ("command", "name"),
        [
            ("python src/train.py {lr}", "train"),
            ("./fit.sh {lr}", "fit"),
            ("Rscript --vanilla model.R {lr}", "model"),
            ("./mine {lr} --to 0.5", "mine"),
            ("{python} {lr}", "command"),
        ],
    )
    def test_its_name_is_the_scripts(self, command, name):
        assert CommandObjective(command, SPACE, minimize="loss").name == name

    def test_it_is_an_objective_and_travels(self):
        objective = CommandObjective("train {lr}", SPACE, maximize="accuracy", length=9, unit="step")
        assert isinstance(objective, Objective)
        back = cloudpickle.loads(cloudpickle.dumps(objective))
        assert back == objective
        assert (back.metric, back.unit, back.length, back.rate) == (Metric("accuracy", "maximize"), "step", 9, None)
        assert back.identity == objective.identity

    def test_its_identity_is_of_the_code_and_not_of_the_place(self, tmp_path, monkeypatch):
        found = []
        for place, text in (("a", "one"), ("b", "one"), ("b", "two")):
            folder = tmp_path / place
            folder.mkdir(exist_ok=True)
            (folder / "train.py").write_text(text)
            monkeypatch.chdir(folder)
            found.append(CommandObjective("python train.py {lr}", SPACE, minimize="loss").identity)
        assert found[0] == found[1]
        assert found[1] != found[2]
        assert json.loads(json.dumps(found[0])) == found[0]
        given = CommandObjective("python train.py {lr}", SPACE, minimize="loss", cwd=tmp_path / "a")
        assert given.identity == found[0]
        shell = CommandObjective("cd . && python train.py {lr}", SPACE, minimize="loss", shell=True)
        assert shell.identity["code"] == found[2]["code"]

    @pytest.mark.parametrize(
        ("conditions", "threads"),
        [
            ({}, len(os.sched_getaffinity(0))),
            ({"threads": 3}, 3),
            ({"side_by_side": True}, 1),
            ({"begun": {"threads": 5}}, 5),
            ({"begun": {"threads": 5}, "threads": 2}, 2),
        ],
    )
    def test_its_threads(self, conditions, threads):
        what, prepared = CommandObjective("train {lr}", SPACE, minimize="loss").prepared(Conditions(27, **conditions))
        assert (what.whole, prepared) == (27, threads)

    def test_nobody_times_it(self):
        with pytest.raises(UsageError, match="`threads`=auto times the training of a built-in problem"):
            CommandObjective("train {lr}", SPACE, minimize="loss").prepared(Conditions(27, threads="auto"))


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
        with pytest.raises(UsageError, match="is at epoch 2, beyond 1"):
            trained(objective, segment(tmp_path, 0, 1))
        asked.checkpoint.write_bytes(asked.checkpoint.read_bytes()[:-200])
        with pytest.raises(DamagedCheckpointError):
            trained(objective, segment(tmp_path, 2, 4))

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

    def test_it_has_as_many_threads_as_it_is_told(self, tmp_path, script):
        text = """
            import json, os
            print(json.dumps({"loss": int(os.environ["OMP_NUM_THREADS"]), "mkl": int(os.environ["MKL_NUM_THREADS"])}))
        """
        objective = CommandObjective(script(text), SPACE, minimize="loss", env={"MKL_NUM_THREADS": "7"})
        assert trained(objective, segment(tmp_path, 0, 1)).metrics == {"loss": 1, "mkl": 7}


class TestWhatItSays:
    @pytest.mark.parametrize(
        "line",
        [
            '{"loss": NaN}',
            '{"loss": Infinity}',
            '{"loss": -Infinity}',
            '{"loss": null}',
            '{"diverged": true}',
            '{"diverged": true, "loss": 0.5}',
            '{"loss": 1e999}',
            '{"loss": 1' + 400 * "0" + "}",
        ],
    )
    def test_what_is_no_number_has_diverged(self, tmp_path, line):
        asked = segment(tmp_path, 0, 3)
        for _ in range(2):
            outcome = trained(said(line), asked)
            assert (outcome.iterations, outcome.diverged_at, outcome.metrics) == (3, 3, {})

    @pytest.mark.parametrize(("at", "told"), [(2, 2), (3, 3), (0, 3), (9, 3), ('"a"', 3)])
    def test_it_may_say_where_it_diverged(self, tmp_path, at, told):
        outcome = trained(said(f'{{"diverged": true, "resource": {at}}}'), segment(tmp_path, 0, 3))
        assert (outcome.iterations, outcome.diverged_at) == (told, told)

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("hello", r"'loss' was not said, no JSON object at all; print a line like {\"loss\": 0.5}.*'hello 0.1'"),
            ('{"error": 1}', "'loss' was not said, only error"),
            ("[1, 2]", "no JSON object at all"),
            ('{"loss": ', "no JSON object at all"),
            ('{"loss": "low"}', "'loss' is \"low\", which is no number"),
            ('{"loss": true}', "'loss' is true, which is no number"),
            ('{"loss": [1]}', "which is no number"),
            ('{"diverged": false}', "'loss' was not said, only diverged"),
            ("[" * 100_000, "no JSON object at all"),
            ('{"a":' * 20_000, "no JSON object at all"),
        ],
    )
    def test_what_is_no_result_fails_in_a_sentence(self, tmp_path, line, sentence):
        text = f"print({line!r}, '0.1' if {line!r} == 'hello' else '')"
        (tmp_path / "say.py").write_text(text)
        objective = CommandObjective(f"{{python}} {tmp_path}/say.py {{lr}}", SPACE, minimize="loss")
        with pytest.raises(CommandError, match=sentence):
            trained(objective, segment(tmp_path, 0, 1))
        assert not (tmp_path / "kept" / "trial-7.pt").exists()

    def test_the_last_one_counts_and_other_output_does_no_harm(self, tmp_path, script):
        text = r"""
            import sys
            write = sys.stdout.buffer.write
            write(b'{"loss": 3}\n\xff\xfe{"loss": 4}\r50%\r100%\r{"loss": 2, "resource": 1}\nbye\n{"resource": 1}')
        """
        assert trained(CommandObjective(script(text), SPACE, minimize="loss"), segment(tmp_path, 0, 1)).metrics == {
            "loss": 2
        }

    def test_much_output_is_no_trouble(self, tmp_path, script):
        text = """
            import sys
            for number in range(20_000):
                print("x" * 100)
                print("y" * 100, file=sys.stderr)
            print('{"loss": 1}')
        """
        assert trained(CommandObjective(script(text), SPACE, minimize="loss"), segment(tmp_path, 0, 1)).metrics == {
            "loss": 1
        }


class TestFailures:
    def test_an_exit_code_is_told_with_the_last_line_of_stderr(self, tmp_path, script):
        text = """
            import sys
            print('{"loss": 1}')
            raise ValueError(f"no such rate: {sys.argv[4]}")
        """
        objective = CommandObjective(script(text), SPACE, minimize="loss")
        trainer = objective.trainer(Place(threads=1))
        how = attempt(trainer, segment(tmp_path, 0, 1), lambda: False, lambda done: None)
        assert isinstance(how, Failure)
        log = tmp_path / "kept/trial-7/stderr.log"
        # The whole path, and none of our own lines.
        assert how.cause == f"CommandError: exit code 1: ValueError: no such rate: 0.1 (see {log})"
        assert how.again
        assert "Traceback" in (tmp_path / "kept/trial-7/stderr.log").read_text()
        assert not (tmp_path / "kept/trial-7/state").exists()

    def test_a_line_of_a_run_before_is_not_this_ones(self, tmp_path, script):
        objective = CommandObjective(script("import sys; sys.exit(int(sys.argv[3]))"), SPACE, minimize="loss")
        log = tmp_path / "kept/trial-7/stderr.log"
        log.parent.mkdir(parents=True)
        log.write_text("an old error\n")
        with pytest.raises(CommandError, match=r"^exit code 3 \(see /.*trial-7/stderr\.log\)$"):
            trained(objective, segment(tmp_path, 0, 3))

    def test_what_was_said_on_stdout_is_looked_for_there(self, tmp_path, script):
        objective = CommandObjective(script("import sys; print('no room'); sys.exit(1)"), SPACE, minimize="loss")
        with pytest.raises(CommandError, match=r"^exit code 1: no room \(see /.*trial-7/stdout\.log\)$"):
            trained(objective, segment(tmp_path, 0, 3))

    @pytest.mark.parametrize(("line", "again"), [('{"los": 1}', False), ('{"loss": "low"}', False), ("bye", True)])
    def test_a_misspelt_metric_is_not_tried_again(self, tmp_path, script, line, again):
        trainer = CommandObjective(script(f"print({line!r})"), SPACE, minimize="loss").trainer(Place(threads=1))
        how = attempt(trainer, segment(tmp_path, 0, 1), lambda: False, lambda done: None)
        assert isinstance(how, Failure)
        assert how.again == again
        assert ".py:" not in how.cause

    def test_a_signal_is_named(self, tmp_path, script):
        objective = CommandObjective(script("import os; os.kill(os.getpid(), 9)"), SPACE, minimize="loss")
        with pytest.raises(CommandError, match="killed by SIGKILL"):
            trained(objective, segment(tmp_path, 0, 3))

    def test_a_failure_leaves_the_checkpoint(self, tmp_path, script):
        objective = CommandObjective(script(TRAIN), SPACE, minimize="loss")
        trained(objective, segment(tmp_path, 0, 2))
        before = (tmp_path / "kept/trial-7.pt").read_bytes()
        (tmp_path / "train.py").write_text("import sys; open(sys.argv[1] + '/mess', 'w'); sys.exit(1)")
        with pytest.raises(CommandError):
            trained(objective, segment(tmp_path, 2, 4))
        assert (tmp_path / "kept/trial-7.pt").read_bytes() == before

    def test_a_link_is_a_failure_of_the_training(self, tmp_path, script):
        objective = CommandObjective(
            script("import os, sys; os.symlink('/', sys.argv[1] + '/root'); print('{\"loss\": 1}')"),
            SPACE,
            minimize="loss",
        )
        with pytest.raises(ValueError, match="a checkpoint keeps files and folders alone"):
            trained(objective, segment(tmp_path, 0, 2))

    @pytest.mark.parametrize("command", ["no-such-program {lr}", "./no-such-program {lr}", "/etc/passwd {lr}"])
    def test_a_program_that_is_not_there_ends_the_search(self, command, tmp_path):
        with pytest.raises(StantuneError, match="there is no program"):
            CommandObjective(command, SPACE, minimize="loss").trainer(Place())

    def test_a_program_that_is_no_program_ends_the_search(self, tmp_path):
        (tmp_path / "bad").write_text("#!/no/such/interpreter\n")
        (tmp_path / "bad").chmod(0o755)
        objective = CommandObjective(f"{tmp_path}/bad {{lr}}", SPACE, minimize="loss")
        with pytest.raises(StantuneError, match=r"cannot be started in .* \(No such file or directory\)"):
            trained(objective, segment(tmp_path, 0, 1))

    def test_a_folder_that_is_not_there_ends_the_search(self, tmp_path):
        with pytest.raises(StantuneError, match="give another `cwd`"):
            CommandObjective("echo {lr}", SPACE, minimize="loss", cwd=tmp_path / "no").trainer(Place())

    def test_a_disk_that_is_full_ends_the_search(self, tmp_path, script, monkeypatch):
        def full(*arguments, **more):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "mkdir", full)
        with pytest.raises(StantuneError, match=r"cannot be used \(No space left on device\); make room"):
            trained(CommandObjective(script(TRAIN), SPACE, minimize="loss"), segment(tmp_path, 0, 1))


# Starts a child and a grandchild that ignore SIGTERM, says so, and waits.
FAMILY = """
    import os, signal, subprocess, sys, time
    from pathlib import Path

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    where = Path(sys.argv[4])
    sleeper = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    shell = subprocess.Popen(["sh", "-c", f"{sys.executable} -c \\"$1\\" {where}/grandchild; true", "sh", sleeper])
    (where / "child").write_text(str(shell.pid))
    while not (where / "grandchild").exists() or not (where / "grandchild").read_text():
        time.sleep(0.01)
    (where / "own").write_text(str(os.getpid()))
    print('{"resource": 0}')
    if sys.argv[3] == "1":
        print('{"loss": 1}')
    else:
        time.sleep(600)
"""


def alive(number: int) -> bool:
    try:
        # A zombie is dead, whoever has not noticed.
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(where: Path, seconds: float = 5.0) -> bool:
    numbers = [int((where / name).read_text()) for name in ("own", "child", "grandchild")]
    end = time.monotonic() + seconds
    while any(map(alive, numbers)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, numbers))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
class TestNothingIsLeft:
    @pytest.fixture
    def family(self, tmp_path, script):
        space = Space({"where": Categorical((str(tmp_path),))})
        return CommandObjective(script(FAMILY, "{dir} {start} {stop} {where}"), space, minimize="loss")

    def test_of_one_that_has_ended(self, tmp_path, family):
        began = time.monotonic()
        assert trained(family, segment(tmp_path, 0, 1, params={"where": str(tmp_path)})).metrics == {"loss": 1}
        assert gone(tmp_path)
        assert time.monotonic() - began < 10

    def test_of_one_that_is_asked_to_end_and_will_not(self, tmp_path, family, monkeypatch):
        monkeypatch.setattr(groups, "GRACE_SECONDS", 0.3)
        asked = segment(tmp_path, 0, 5, params={"where": str(tmp_path)})
        outcome = trained(family, asked, stop_early=(tmp_path / "own").exists)
        assert (outcome.interrupted, outcome.iterations, outcome.metrics) == (True, 0, {})
        assert gone(tmp_path)
        assert not asked.checkpoint.exists()

    def test_after_an_exception(self, tmp_path, family):
        def watch(done):
            if (tmp_path / "own").exists():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trained(family, segment(tmp_path, 0, 5, params={"where": str(tmp_path)}), watch=watch)
        assert gone(tmp_path)

    @pytest.mark.parametrize("ignored", [False, True], ids=["", "ignoring SIGTERM"])
    def test_of_one_whose_worker_is_killed(self, tmp_path, family, ignored):
        (tmp_path / "order").write_bytes(
            cloudpickle.dumps((family, segment(tmp_path, 0, 5, params={"where": str(tmp_path)})))
        )
        code = f"""
import pickle, signal
from stantune.protocols import Place
{"signal.signal(signal.SIGTERM, signal.SIG_IGN)" if ignored else ""}
objective, segment = pickle.load(open({str(tmp_path / "order")!r}, "rb"))
objective.trainer(Place(threads=1)).train(segment, lambda: False, lambda done: None)
"""
        worker = subprocess.Popen([sys.executable, "-c", code])
        end = time.monotonic() + 60
        while not (tmp_path / "own").exists() and time.monotonic() < end:
            time.sleep(0.02)
        worker.kill()
        worker.wait()
        assert gone(tmp_path)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_of_a_search_whose_terminal_is_lost(self, tmp_path, family, workers):
        (tmp_path / "objective").write_bytes(cloudpickle.dumps(family))
        code = f"""
import pickle
import stantune as st
from stantune.objectives.command import groups
groups.GRACE_SECONDS = 0.3
st.tune(pickle.load(open({str(tmp_path / "objective")!r}, "rb")), max_resource=5, workers={workers},
        out={str(tmp_path / "out")!r})
"""
        search = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
        end = time.monotonic() + 60
        while not (tmp_path / "own").exists() and time.monotonic() < end:
            time.sleep(0.02)
        # From the shell and from the system, one after the other.
        search.send_signal(signal.SIGHUP)
        time.sleep(0.05)
        search.send_signal(signal.SIGHUP)
        _, err = search.communicate(timeout=60)
        assert err.decode().splitlines()[-1] == "KeyboardInterrupt"
        assert (tmp_path / "out" / "result.json").exists(), "it ended in good order"
        assert gone(tmp_path)

    def test_a_command_obeys_even_where_its_worker_ignores_signals(self, tmp_path, monkeypatch):
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            objective = CommandObjective("sleep 60{lr}", SPACE, minimize="loss")
            began = time.monotonic()
            outcome = trained(objective, segment(tmp_path, 0, 5), stop_early=lambda: time.monotonic() > began + 0.3)
            assert outcome.interrupted
            assert time.monotonic() - began < groups.GRACE_SECONDS / 2
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGTERM, before)

    def test_from_a_thread_it_works_as_well(self, tmp_path, script):
        objective = CommandObjective(script(TRAIN), SPACE, minimize="loss")
        outcomes = []
        thread = threading.Thread(target=lambda: outcomes.append(trained(objective, segment(tmp_path, 0, 2))))
        thread.start()
        thread.join(60)
        assert outcomes[0].metrics["loss"] == pytest.approx(0.9**2)


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


EXAMPLE = Path(__file__).parents[2] / "examples" / "shell_command.py"


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
