"""A command as an objective: its template, what it says of itself, how it travels, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import cloudpickle
import pytest
from command_training import SPACE

from stantune.errors import UsageError
from stantune.objectives.command.objective import CommandObjective
from stantune.objectives.command.templates import Template
from stantune.parameters import Categorical, Float, Integer
from stantune.protocols import Conditions, Metric, Objective
from stantune.space import Space
from stantune.tuning.tune import tune

TOLD = "print('{\"loss\": 1}')"


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

    @pytest.mark.parametrize(
        "line",
        [
            "cat <<EOF\nopt: {name}\nEOF",
            "cat <<EOF > opt.yaml && train\nopt: {name}\nEOF\n",
            "cat << 'EOF'\n{name}\nEOF",
            "cat <<-\\EOF\n\ta\n\t{name}\n\tEOF",
            "x=$(cat <<EOF\n{name}\nEOF\n)",
            "cat <<A <<B\na\nA\n{name}\nB",
            "cat <<EOF\n EOF\nEOF too\n{name}\nEOF",
            "cat <<EOF\n{name}",
            "cat <<EOF\n$((1 << 2)) {name}\nEOF",
            "cat 3<<EOF # a note\n# {name}\nEOF",
            "echo $((1 << 2)) && cat <<EOF\n{name}\nEOF",
            "cat <<EOF\na\nEOF\ncat <<EOF\n{name}\nEOF",
        ],
    )
    def test_a_shell_cannot_be_given_a_value_within_a_here_document(self, line):
        template = Template(f"echo {{before}}; {line}", shell=True)
        with pytest.raises(UsageError, match=r"\{name\} stands within a here-document.* and it may be '\$\(x\)'"):
            template.check({"before": ["$(x)"], "name": [2, "$(x)"]}, {})

    def test_a_value_that_is_not_quoted_may_stand_within_a_here_document(self):
        template = Template("cat <<EOF\nlr: {lr}\nname: {name}\nEOF", shell=True)
        values = {"lr": -1e-05, "name": "adam"}
        template.check({name: [value] for name, value in values.items()}, {})
        (filled,) = template.fill(values)
        printed = subprocess.run(filled, shell=True, capture_output=True, text=True).stdout
        assert printed == "lr: -1e-05\nname: adam\n"

    @pytest.mark.parametrize(
        ("line", "printed"),
        [
            ("cat <<EOF - && echo {name}\na\nEOF\necho {name}", "a\n2\n2\n"),
            ("cat <<A; cat <<'B'\na\nA\nb\nB\necho {name}", "a\nb\n2\n"),
            ("cat <<-EOF\n\ta\n\tEOF\necho {name}", "a\n2\n"),
            ("echo $((1 << {name}))\necho {name}", "4\n2\n"),
            ("echo $(( (1 + (1)) << 1 ))\necho {name}", "4\n2\n"),
            ("echo $(((1 + 1) << 1)) \\\n{name}", "4 2\n"),
            ("echo 'a <<EOF' \"<<EOF\" \\<\\<EOF # <<EOF\necho {name}", "a <<EOF <<EOF <<EOF\n2\n"),
        ],
    )
    def test_here_documents_and_shifts_elsewhere_do_no_harm(self, line, printed):
        template = Template(line, shell=True)
        template.check({"name": ["$(x)"]}, {})
        (filled,) = template.fill({"name": 2})
        assert subprocess.run(filled, shell=True, capture_output=True, text=True).stdout == printed

    def test_a_value_behind_three_angles_is_quoted(self):
        assert Template("cat <<< {name}\necho {name}", shell=True).fill({"name": "$(x)"}) == [
            "cat <<< '$(x)'\necho '$(x)'"
        ]

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

    @pytest.mark.parametrize(
        ("placeholder", "said"),
        [
            (
                "{kind:.3f}",
                r"\{kind:\.3f\} in the command .* cannot print 'sgd', which kind may be \(Unknown format code",
            ),
            ("{lr:d}", r"cannot print 0\.0, which lr may be .*; write \{lr\}, or another form"),
            ("{layers:c}", "cannot print 2000000, which layers may be"),
            ("{seed:s}", "cannot print 0, which seed may be"),
            ("{dir:d}", "cannot print 'state', which dir may be"),
            ("{params:x}", r"cannot print \{\}, which params may be"),
        ],
    )
    @pytest.mark.parametrize("shell", [False, True])
    def test_a_form_is_tried_before_the_search(self, placeholder, said, shell):
        space = Space({"lr": Float(0, 1), "layers": Integer(1, 2_000_000), "kind": Categorical((None, 0.5, "sgd"))})
        with pytest.raises(UsageError, match=said):
            CommandObjective(f"train {{params}} {placeholder}", space, minimize="loss", shell=shell)
        right = "train {lr:.3e} {layers:>4} {layers:.1f} {kind:>5} {stop:03d} {dir:>20} {params}"
        assert CommandObjective(right, space, minimize="loss", shell=shell)

    def test_a_parameter_must_not_be_called_as_a_placeholder(self):
        with pytest.raises(UsageError, match="'seed' has the name of a placeholder"):
            CommandObjective("train {seed}", Space({"seed": Integer(0, 9)}), minimize="loss")

    @pytest.mark.parametrize(
        "named", [{}, {"minimize": "a", "maximize": "b"}, {"minimize": "a", "metric": Metric("a")}]
    )
    def test_one_metric_is_named(self, named):
        with pytest.raises(UsageError, match="trials are compared by one"):
            CommandObjective("train {lr}", SPACE, **named)

    @pytest.mark.parametrize(
        ("told", "sentence"),
        [
            ({"space": {"lr": 1}, "minimize": "loss"}, "`space` of train is a dict; give a Space of its parameters"),
            ({"metric": "loss"}, r"`metric` of train is 'loss'; give a Metric, such as Metric\('loss', 'minimize'\)"),
            ({"maximize": 3}, "the metric of train is called 3, which is no text; give its name"),
            ({"unit": "", "minimize": "loss"}, "`unit` of train is empty; give a word"),
        ],
    )
    def test_what_it_is_told_is_what_it_seems(self, told, sentence):
        with pytest.raises(UsageError, match=sentence):
            CommandObjective("train {lr}", **{"space": SPACE, **told})

    def test_whether_there_is_a_shell_is_said_plainly(self):
        with pytest.raises(UsageError, match="`shell`='0' is neither True nor False"):
            CommandObjective("train {lr}", SPACE, minimize="loss", shell="0")

    @pytest.mark.parametrize(
        ("env", "sentence"),
        [
            ({"CUDA_VISIBLE_DEVICES": 0}, r"`env` has 'CUDA_VISIBLE_DEVICES': 0, .* give names and values as texts"),
            ({3: "x"}, "`env` has 3: 'x'"),
            ({"": "x"}, "`env` has '': 'x'"),
            ({"a=b": "x"}, "`env` has 'a=b': 'x'"),
            ({"a": "x\0y"}, r"`env` has 'a': 'x\\x00y'"),
            (None, "`env`=None is no dict of names and values; give one, or leave it away"),
            ("A=1", "`env`='A=1' is no dict"),
        ],
    )
    def test_what_no_environment_can_have_is_named(self, env, sentence):
        with pytest.raises(UsageError, match=sentence):
            CommandObjective("train {lr}", SPACE, minimize="loss", env=env)

    def test_its_folder_may_begin_with_that_of_the_user(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert CommandObjective("train {lr}", SPACE, minimize="loss", cwd="~/code").cwd == tmp_path / "code"
        with pytest.raises(UsageError, match="`cwd`=3 is no path"):
            CommandObjective("train {lr}", SPACE, minimize="loss", cwd=3)

    @pytest.mark.parametrize("file", ["/etc/x", "../x", "", ".", None])
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
        ("line", "written"),
        [
            ("python a.py {lr} | tee log", {"log"}),
            ("python a.py | tee log\npython b.py {lr} > out\npython c.py", {"log", "out"}),
            ("python a.py {lr} | tee \\\n  log", {"log"}),
            ("python a.py {lr}|tee -a log other|cat b.txt", {"-a", "log", "other"}),
            ("python a.py {lr} >log 2>err; cat a.py", {"log", "err"}),
            ("python a.py {lr} >> 'my log' 2>&1 && cat a.py", {"my log", "1"}),
            ("python a.py {lr} >| log < a.py", {"log"}),
            ("python a.py {lr} | /usr/bin/tee log > copy more | cat a.py", {"log", "copy", "more"}),
            ("python a.py {lr} | A=1 sudo -n tee < in log; tee b", {"log", "b"}),
            ("python a.py {lr} | nice tee log", {"log"}),
            ("python a.py {lr} |& sudo -u me tee log", {"log"}),
            ("python a.py {lr} | 2>no tee log", {"no", "log"}),
            ("python a.py {lr} || echo tee b", set()),
            ("echo tee a.py && python a.py {lr} --to tee b", set()),
            ("""awk '$1 > 3 | tee a' b.txt; python a.py {lr} ">" c \\> d "a\\" > e" > 'f > g'""", {"f > g"}),
        ],
    )
    def test_what_a_shells_line_writes_to_is_known(self, line, written):
        assert Template(line, shell=True).written == written
        assert Template(line.split()).written == set()

    @pytest.mark.parametrize("shell", [False, True])
    def test_quotes_that_do_not_match_are_refused(self, shell):
        with pytest.raises(
            UsageError, match=r"cannot be split into arguments \(No closing quotation\); mend its quotes"
        ):
            Template("python a.py {lr} 'b", shell=shell)

    @pytest.mark.parametrize(
        ("line", "shell", "there"),
        [
            ("{{python}} {0}/train.py --lr {{lr}} | tee train.log", True, False),
            ("{{python}} {0}/train.py --lr {{lr}} | tee -a train.log", True, True),
            ("{{python}} {0}/train.py --lr {{lr}} >> train.log && tail -n 1 train.log", True, True),
            ("{{python}} {0}/train.py --lr {{lr}} --history=train.log", False, False),
            ("{{python}} {0}/train.py --lr {{lr}} --history train.log", False, False),
        ],
    )
    def test_what_it_writes_is_none_of_its_code(self, tmp_path, line, shell, there):
        (tmp_path / "train.py").write_text(TOLD)
        if there:
            (tmp_path / "train.log").write_text("earlier\n")

        def searched(**more):
            what = CommandObjective(line.format(tmp_path), SPACE, minimize="loss", shell=shell, cwd=tmp_path)
            return tune(what, max_resource=3, workers=1, out=tmp_path / "out", **more)

        assert not searched(budget=1e-9).complete
        (tmp_path / "train.log").write_text("earlier\n12 epochs\n")
        assert searched().complete
        (tmp_path / "train.py").write_text(f"{TOLD}\n")
        with pytest.raises(UsageError, match=r"code: \w+ there, \w+ here.*accept_changes"):
            searched()
        (tmp_path / "train.py").unlink()
        with pytest.raises(UsageError, match=r"made-of: \['.*train\.py'\] there, \[\] here"):
            searched()

    @pytest.mark.parametrize("rest", [b"\0", b"#" * (1 << 20)], ids=["binary", "large"])
    @pytest.mark.parametrize("shell", [False, True])
    def test_a_program_by_a_path_is_code_whatever_it_holds(self, tmp_path, rest, shell):
        program = tmp_path / "train"

        def compiled(version):
            program.write_bytes(b"#!/bin/sh\necho '{\"loss\": 1}'\nexit\n" + version + rest)
            program.chmod(0o755)

        def searched(**more):
            line = "./train {lr} | cat" if shell else "./train {lr}"
            what = CommandObjective(line, SPACE, minimize="loss", shell=shell, cwd=tmp_path)
            return tune(what, max_resource=3, workers=1, out=tmp_path / "out", **more)

        compiled(b"one")
        assert not searched(budget=1e-9).complete
        compiled(b"two")
        with pytest.raises(UsageError, match=r"code: \w+ there, \w+ here.*accept_changes"):
            searched()
        compiled(b"one")
        assert searched().complete

    def test_other_files_are_code_as_texts_alone(self, tmp_path):
        for name in ("train", "data", "large"):
            (tmp_path / name).write_bytes(b"#" * (1 << 20) + b"#" if name == "large" else b"\0")
        for line in ("train data {lr}", "{python} ./train ./data {lr}", "nice ./train --data=./data large {lr}"):
            for shell in (False, True):
                what = CommandObjective(line, SPACE, minimize="loss", shell=shell, cwd=tmp_path)
                assert (what.identity["code"], what.identity["made-of"]) == (None, [])

    def test_an_interpreter_is_no_code_also_where_a_link_beside_the_script_leads_to_it(self, tmp_path):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "python").symlink_to(sys.executable)
        for program in (sys.executable, "bin/python", "./bin/python", str(tmp_path / "bin" / "python"), "/usr/bin/env"):
            what = CommandObjective(f"{program} {{lr}}", SPACE, minimize="loss", cwd=tmp_path)
            assert what.identity["made-of"] == []

    def test_a_search_whose_program_was_no_code_goes_on(self, tmp_path, monkeypatch):
        program = tmp_path / "train"
        program.write_bytes(b"#!/bin/sh\necho '{\"loss\": 1}'\nexit\n\0")
        program.chmod(0o755)
        what = CommandObjective("./train {lr}", SPACE, minimize="loss", cwd=tmp_path)
        assert what.identity["made-of"] == ["./train"]
        full = CommandObjective.identity.fget
        with monkeypatch.context() as patch:
            earlier = property(lambda self: {**full(self), "code": None, "made-of": []})
            patch.setattr(CommandObjective, "identity", earlier)
            tune(what, max_resource=3, workers=1, out=tmp_path / "out", budget=1e-9)
        assert tune(what, max_resource=3, workers=1, out=tmp_path / "out").complete

    def test_what_a_search_has_that_noted_no_names_is_texts_alone(self, tmp_path):
        for name, holds in (("train", b"\0"), ("a.py", b"1")):
            (tmp_path / name).write_bytes(holds)
        what = CommandObjective("./train a.py {lr}", SPACE, minimize="loss", cwd=tmp_path)
        assert what.identity["made-of"] == ["./train", "a.py"]
        assert what.as_begun({"code": None}).identity["made-of"] == ["a.py"]
        assert what.as_begun({"made-of": []}).identity["code"] is None

    def test_a_search_that_noted_no_names_goes_on(self, tmp_path, monkeypatch):
        (tmp_path / "train.py").write_text(TOLD)
        what = CommandObjective(f"{{python}} {tmp_path}/train.py {{lr}}", SPACE, minimize="loss")
        full = CommandObjective.identity.fget
        with monkeypatch.context() as patch:
            earlier = property(lambda self: {name: value for name, value in full(self).items() if name != "made-of"})
            patch.setattr(CommandObjective, "identity", earlier)
            assert earlier.fget(what)["code"] == hashlib.sha256(hashlib.sha256(TOLD.encode()).digest()).hexdigest()
            tune(what, max_resource=3, workers=1, out=tmp_path / "out", budget=1e-9)
        assert tune(what, max_resource=3, workers=1, out=tmp_path / "out").complete

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
    def test_its_threads(self, conditions, threads, monkeypatch):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        what, prepared = CommandObjective("train {lr}", SPACE, minimize="loss").prepared(Conditions(27, **conditions))
        assert (what.whole, prepared) == (27, threads)

    def test_nobody_times_it(self):
        with pytest.raises(UsageError, match="`threads`=auto times the training of a Problem"):
            CommandObjective("train {lr}", SPACE, minimize="loss").prepared(Conditions(27, threads="auto"))
