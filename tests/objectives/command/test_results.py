"""What a command says is its result, where there is one, and how it fails, where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_training import SPACE, TRAIN, segment
from segments import trained

from stantune.errors import StantuneError
from stantune.objectives.command.objective import CommandObjective
from stantune.objectives.command.said import CommandError
from stantune.protocols import Place
from stantune.search.workers.executors import Failure, attempt


def said(line: str) -> CommandObjective:
    """A command that says a line."""
    line = line.replace("{", "{{").replace("}", "}}")
    return CommandObjective(["printf", r"%s\n%s\n", line, "{lr}"], SPACE, minimize="loss")


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

    def test_that_nothing_diverged_is_no_result_of_its_own(self, tmp_path, script):
        text = """
            print('{"loss": 0.31}')
            print('{"diverged": false}')
        """
        outcome = trained(CommandObjective(script(text), SPACE, minimize="loss"), segment(tmp_path, 0, 1))
        assert (outcome.metrics, outcome.diverged_at) == ({"loss": 0.31}, None)

    def test_the_last_one_counts_and_other_output_does_no_harm(self, tmp_path, script):
        text = r"""
            import sys
            write = sys.stdout.buffer.write
            write(b'{"loss": 3}\n\xff\xfe{"loss": 4}\r50%\r100%\r{"loss": 2, "resource": 1}\nbye\n{"resource": 1}')
        """
        assert trained(CommandObjective(script(text), SPACE, minimize="loss"), segment(tmp_path, 0, 1)).metrics == {
            "loss": 2
        }

    @pytest.mark.parametrize("printed", [True, False])
    def test_a_mark_before_utf_8_does_no_harm(self, tmp_path, script, printed):
        text = f"""
            import sys
            from pathlib import Path
            said = b" \\xef\\xbb\\xbf \\n" + '{{"l\\N{{LATIN SMALL LETTER O WITH DIAERESIS}}ss": 0.31}}'.encode()
            sys.stdout.buffer.write(said if {printed} else b"")
            Path(sys.argv[1], "metrics.json").write_bytes(said)
        """
        command = CommandObjective(
            script(text), SPACE, minimize="löss", metrics="stdout" if printed else "metrics.json"
        )
        assert trained(command, segment(tmp_path, 0, 1)).metrics == {"löss": 0.31}

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

    @pytest.mark.parametrize(
        ("line", "again"),
        [
            ('{"los": 1}', False),
            ('{"loss": "low"}', False),
            ("bye", True),
            # It may have been cut there, in a pipe, whose exit code is that of its last program.
            ('{"resource": 1}', True),
            ('{"resource": 3}', True),
            ('{"resource": 1, "los": 1}', True),
            ('{"resource": 3, "los": 1}', False),
        ],
    )
    def test_a_misspelt_metric_is_not_tried_again(self, tmp_path, script, line, again):
        trainer = CommandObjective(script(f"print({line!r})"), SPACE, minimize="loss").trainer(Place(threads=1))
        how = attempt(trainer, segment(tmp_path, 0, 3), lambda: False, lambda done: None)
        assert isinstance(how, Failure)
        assert how.again == again
        assert ".py:" not in how.cause

    @pytest.mark.parametrize("killed", [1, 2, 3])
    def test_what_was_said_before_a_kill_is_no_result(self, tmp_path, script, killed):
        text = """
            import json, os, sys
            for done in range(3):
                if done == int(sys.argv[1]):
                    os.kill(os.getpid(), 9)
                print(json.dumps({"resource": done + 1, "loss": 0.5 - 0.1 * done}), flush=True)
        """
        objective = CommandObjective(script(text, f"{killed} {{lr}} | cat"), SPACE, minimize="loss", shell=True)
        if killed < 3:
            with pytest.raises(CommandError, match=f"'loss' was last said at {killed} of 3, so that the command ended"):
                trained(objective, segment(tmp_path, 0, 3))
        else:
            assert trained(objective, segment(tmp_path, 0, 3)).metrics == {"loss": pytest.approx(0.3)}

    @pytest.mark.parametrize(
        ("printed", "in_file", "told"),
        [
            ("", '{"resource": 1, "loss": 0.5}', None),
            ("", '{"resource": 3, "loss": 0.5}', 0.5),
            ("", '{"loss": 0.5}', 0.5),
            ('{"resource": 1}', '{"resource": 1, "loss": 0.5}', None),
            # Printed less often than it is written, and evaluated less often than it is printed.
            ('{"resource": 2}', '{"resource": 3, "loss": 0.5}', 0.5),
            ('{"resource": 3}', '{"resource": 2, "loss": 0.5}', 0.5),
        ],
    )
    def test_a_file_that_was_written_on_the_way_is_no_result(self, tmp_path, script, printed, in_file, told):
        text = f"""
            import os, sys
            from pathlib import Path
            print({printed!r}, flush=True)
            Path(sys.argv[1], "metrics.json").write_text({in_file!r})
            os.kill(os.getpid(), 9)
        """
        command = CommandObjective(
            script(text, "{dir} {lr} | cat"), SPACE, minimize="loss", metrics="metrics.json", shell=True
        )
        if told is None:
            with pytest.raises(CommandError, match="'loss' was last said at 1 of 3, so that the command ended"):
                trained(command, segment(tmp_path, 0, 3))
        else:
            assert trained(command, segment(tmp_path, 0, 3)).metrics == {"loss": told}

    @pytest.mark.parametrize("end", ['{"resource": 3}', '{"loss": 0.5}', '{"loss": 0.5, "resource": 3}'])
    def test_a_result_of_before_the_end_counts_where_the_end_was_said(self, tmp_path, end):
        text = r'{"loss": 0.5, "resource": 2}\n' + end
        command = CommandObjective(
            ["printf", r"%b\n%s\n", text.replace("{", "{{").replace("}", "}}"), "{lr}"], SPACE, minimize="loss"
        )
        assert trained(command, segment(tmp_path, 0, 3)).metrics == {"loss": 0.5}

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
