"""Bad input on the command line: one sentence that names value, place and remedy; exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stantune.errors import UsageError

Stantune = Callable[..., Any]
SEARCH = ("search", "lenet")

# More digits than Python makes a number of.
FIVE_THOUSAND = "9" * 5000

FUNCTION = """
import stantune as st


@st.objective(space=st.Space({"x": st.Float(0, 1)}), minimize="loss", max_resource=9)
def train(run):
    return run.params["x"]
"""
# In training alone: what fails before is looked at, and refused in a sentence.
FAILS = """

class Fails(nn.Linear):
    def forward(self, images):
        if self.training:
            raise {error}
        return super().forward(images.flatten(1))


network = lambda: Fails(64, CLASSES)
problem = Problem('fails', network, images, Space({{'lr': Float(1, 2)}}), Solver(lr=1), 5, validation=60)
"""
BAD_USE = [
    # what is typed, what the sentence must hold
    (("search", "lenett"), ("'lenett'", "did you mean lenet?", "FILE.py:NAME")),
    (("train", "cifar"), ("'cifar'", "lenet, cq, alexlrn, alexbn, mlp, meprop")),
    (("brackets", "nothing.py:problem"), ("nothing.py", "FILE.py:NAME")),
    (("search", "{file}:problm"), ("'problm'", "problem, hopeless, flat")),
    (("search", "{notes}:problem"), ("notes.txt", "FILE.py:NAME")),
    (("search", "{broken}:problem"), ("broken.py", "ZeroDivisionError")),
    (("train", "lenet", "--set", "lr"), ("--set lr ", "NAME=VALUE")),
    (("train", "lenet", "--set", "rl=1"), ("'rl'", "nearest is lr")),
    (("train", "lenet", "--set", "lr=10"), ("lr", "10", "5e-05 to 5", "nearest valid value is 5")),
    (("train", "lenet", "--set", "lr=nan"), ("lr", "nan", "5e-05 to 5")),
    (("train", "lenet", "--set", "lr=fast"), ("lr", "'fast'", "5e-05 to 5")),
    (("train", "lenet", "--set", "lr=0.1", "--set", "lr=0.2"), ("--set lr=0.2 gives lr a second time", "once")),
    # Python reads these as numbers; who typed them meant something else.
    (("train", "lenet", "--set", "lr=0_1"), ("lr", "'0_1'", "5e-05 to 5")),
    (("train", "mlp", "--set", "hidden=1_00"), ("hidden", "'1_00'", "100 to 8192")),
    (("train", "mlp", "--set", "hidden=١٠٠"), ("hidden", "'١٠٠'", "100 to 8192")),
    (("train", "mlp", "--set", "hidden=100.5"), ("hidden", "100.5", "100 to 8192")),
    # Read to their ends, they would take all memory.
    (("train", "lenet", "--checkpoint", "/dev/zero"), ("--checkpoint /dev/zero", "device", "another file")),
    (("search", "lenet", "--config", "/dev/zero"), ("--config /dev/zero", "too large", "TOML")),
    (("train", "lenet", "--rate", "0.25"), ("--rate says how STAN trains", "leave --rate away")),
    (("train", "lenet", "--period", "1"), ("--period says how STAN trains", "--accelerate none")),
    (
        ("search", "lenet", "--accelerate", "none", "--layers", "x"),
        ("--layers says how", "leave --layers away"),
    ),
    (("brackets", "mlp", "--set", "hidden=1"), ("hidden is 1", "100 to 8192")),
    (
        ("brackets", "lenet", "--accelerate", "none", "--tail", "9"),
        ("--tail says how", "leave --tail away"),
    ),
    (("train", "lenet", "--iterations", "0"), ("--iterations 0", "at least 1")),
    (("train", "lenet", "--iterations", "-5"), ("--iterations -5", "at least 1")),
    (("train", "lenet", "--checkpoint", "{notes}/x.pt"), ("--checkpoint", "notes.txt", "name another")),
    ((*SEARCH, "--eta", "1"), ("--eta 1", "2 or more")),
    ((*SEARCH, "--eta", "-3"), ("--eta -3", "2 or more")),
    (
        (*SEARCH, "--max-iterations", "10", "--min-iterations", "11"),
        ("--min-iterations 11", "--max-iterations 10", "10 or less"),
    ),
    ((*SEARCH, "--max-iterations", "10001"), ("--max-iterations 10001", "10000 iterations", "give at most that")),
    ((*SEARCH, "--max-iterations", "0"), ("--max-iterations 0", "whole number of iterations, 1 or more")),
    ((*SEARCH, "--min-iterations", "0"), ("--min-iterations 0", "whole number of iterations, 1 or more")),
    ((*SEARCH, "--quick", "--brackets", "0"), ("--brackets 0", "give 1 to 3")),
    ((*SEARCH, "--quick", "--brackets", "4"), ("--brackets 4", "give 1 to 3")),
    ((*SEARCH, "--brackets", "some"), ("--brackets some", "all")),
    (("brackets", "lenet", "--variant", "table2"), ("--variant table2", "algorithm1 or table1")),
    ((*SEARCH, "--sampler", "grid"), ("--sampler 'grid'", "random")),
    ((*SEARCH, "--accelerate", "meprop"), ("--accelerate meprop", "stan or none")),
    (("train", "lenet", "--accelerate", "stan:auto"), ("--accelerate stan:auto", "stan or none")),
    ((*SEARCH, "--accelerate", "none:auto"), ("--accelerate none:auto", "stan, stan:auto")),
    ((*SEARCH, "--accelerate", "stan:fast"), ("--accelerate stan:fast", "stan:0.25,0.5,1")),
    ((*SEARCH, "--accelerate", "stan:0.25"), ("--accelerate stan:0.25", "--rate 0.25")),
    ((*SEARCH, "--accelerate", "stan:0.25,0.3,1"), ("rate=0.3", "0.25")),
    ((*SEARCH, "--accelerate", "stan:0,1"), ("--accelerate stan:0,1: 0 is no share", "0.5")),
    ((*SEARCH, "--quick", "--accelerate", "stan:0.25,0.5,0.5,1"), ("4 rates", "3 rungs (up to 66, 200, 600")),
    ((*SEARCH, "--accelerate", "stan:auto", "--rate", "0.5"), ("--rate 0.5", "stan:auto", "leave one")),
    ((*SEARCH, "--rate", "0.3"), ("rate=0.3", "0.25")),
    ((*SEARCH, "--rate", "0_5"), ("--rate 0_5", "0.5, or auto")),
    ((*SEARCH, "--accelerate", "stan:0.5,1_0"), ("--accelerate stan:0.5,1_0", "stan:0.25,0.5,1")),
    ((*SEARCH, "--enqueue", "lr=0.1, lr=0.2"), ("--enqueue lr=0.1, lr=0.2 gives lr twice", "once")),
    ((*SEARCH, "--rate", "nan"), ("rate=nan", "0.5")),
    ((*SEARCH, "--rate", "nonsense"), ("--rate nonsense", "0.5, or auto")),
    (("train", "lenet", "--accelerate", "stan", "--rate", "7"), ("rate=7", "0.5")),
    (("search", "{function}:train", "--rate", "0.5"), ("--rate", "train says that itself", "leave it away")),
    (("search", "{function}:train", "--data", "{directory}"), ("--data", "train says that itself", "leave it away")),
    (("search", "{function}:train", "--accelerate", "stan"), ("--accelerate", "train says that itself", "leave it")),
    (("brackets", "{function}:train", "--accelerate", "stan"), ("--accelerate", "train says that itself")),
    (("brackets", "{function}:train", "--accelerate", "nonsense"), ("--accelerate", "train says that itself")),
    ((*SEARCH, "--period", "often"), ("--period often", "none")),
    ((*SEARCH, "--period", "-1"), ("--period -1", "0 or more")),
    # What Python calls digits, and numbers that it does not read.
    ((*SEARCH, "--period", "²"), ("--period ²", "none")),
    ((*SEARCH, "--period", FIVE_THOUSAND), ("--period 99", "none")),
    ((*SEARCH, "--brackets", "①"), ("--brackets ①", "all")),
    ((*SEARCH, "--brackets", FIVE_THOUSAND), ("--brackets 99", "all")),
    # However long a value is, the remedy is said.
    ((*SEARCH, "--rate", f"{FIVE_THOUSAND}x"), ("--rate 99", "or auto")),
    ((*SEARCH, "--accelerate", FIVE_THOUSAND), ("--accelerate 99", "stan or none")),
    ((*SEARCH, "--accelerate", f"stan:{FIVE_THOUSAND}x"), ("--accelerate stan:99", "stan:0.25,0.5,1")),
    ((*SEARCH, "--enqueue", FIVE_THOUSAND), ("--enqueue 99", "NAME=VALUE")),
    ((*SEARCH, "--set", FIVE_THOUSAND), ("--set 99", "NAME=VALUE")),
    (("train", "lenet", "--set", f"lr={FIVE_THOUSAND}x"), ("99", "5e-05")),
    ((*SEARCH, "--device", "cuda:²"), ("--device cuda:²", "auto, cpu")),
    ((*SEARCH, "--device", f"cuda:{FIVE_THOUSAND}"), ("--device 'cuda:99", "2000 letters")),
    ((*SEARCH, "--threads", "²"), ("--threads ²", "1 or more", "auto")),
    ((*SEARCH, "--threads", FIVE_THOUSAND), ("--threads 99", "1 or more", "auto")),
    (("train", "lenet", "--threads", "2147483648"), ("--threads 2147483648", "4096 at most")),
    ((*SEARCH, "--trial-memory", "9" * 400), ("'999", "2G")),
    ((*SEARCH, "--trial-timeout", "٣s"), ("'٣s'", "1h30m")),
    ((*SEARCH, "--budget", f"{'9' * 400}d"), ("'999", "1h30m")),
    # Names that no file has.
    (("search", "{file}:problem", "--out", "a" * 300), ("aaa", "too long a name")),
    (("search", f"{'a' * 300}.py:problem"), ("aaa", "too long a name")),
    (("train", "lenet", "--data", "~nosuchuser"), ("'~nosuchuser'", "by its path")),
    (("train", "lenet", "--accelerate", "stan", "--rate", "0.5\nx"), ("--rate 0.5 x", "0.5, or auto")),
    ((*SEARCH, "--pretrain", "-1"), ("pretrain", "-1")),
    ((*SEARCH, "--tail", "-1"), ("tail", "-1")),
    ((*SEARCH, "--max-iterations", "300", "--pretrain", "200", "--tail", "200"), ("--pretrain 200", "--tail 200")),
    ((*SEARCH, "--budget", "soon"), ("'soon'", "1h30m")),
    ((*SEARCH, "--budget", ""), ("''", "1h30m")),
    ((*SEARCH, "--out", ""), ("--out ''", "name a directory")),
    ((*SEARCH, "--threads", "0"), ("--threads 0", "1 or more", "auto")),
    (("train", "lenet", "--threads", "many"), ("--threads many", "1 or more", "auto")),
    (("profile", "lenet", "--threads", "-1"), ("--threads -1", "1 or more", "auto")),
    (("compare", "lenet", "--threads", "1.5"), ("--threads 1.5", "1 or more", "auto")),
    (("brackets", "lenet", "--threads", ""), ("--threads ", "1 or more", "auto")),
    ((*SEARCH, "--device", "tpu"), ("--device tpu", "auto, cpu")),
    ((*SEARCH, "--device", "cuda:99"), ("--device cuda:99", "cpu")),
    ((*SEARCH, "--json", "{notes}/x.json"), ("--json", "notes.txt", "name another file")),
    ((*SEARCH, "--json", "{directory}"), ("--json", "name another file")),
    (("problems", "--json", "{directory}/missing/x.json"), ("--json", "missing", "name another file")),
    (("train", "lenet", "--json", ""), ("--json", "name another file")),
    (("search", "{file}:problem", "--out", "{directory}/o", "--storage", "nonsense"), ("'nonsense'", "sqlite:///")),
    (("data", "fetch", "mnits"), ("'mnits'", "did you mean 'mnist'?")),
]


@pytest.mark.parametrize(("typed", "said"), BAD_USE, ids=lambda value: " ".join(value)[:60])
def test_one_sentence_and_exit_code_2(
    stantune: Stantune, tiny_file: Path, tmp_path: Path, typed: tuple[str, ...], said: tuple[str, ...]
) -> None:
    (tmp_path / "notes.txt").write_text("problem = None")
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "function.py").write_text(FUNCTION)
    places = {
        "file": tiny_file,
        "function": tmp_path / "function.py",
        "notes": tmp_path / "notes.txt",
        "broken": tmp_path / "broken.py",
        "directory": tmp_path,
    }
    # A search that began all the same would stop at once, and leave its traces here.
    budget = ("--budget", "0") if typed[0] == "search" and "--budget" not in typed else ()
    out = ("--out", str(tmp_path / "out")) if typed[0] == "search" and "--out" not in typed else ()
    run = stantune(*(part.format(**places) for part in typed), *budget, *out)
    assert run.code == 2, run
    assert run.out == ""
    assert len(run.err.splitlines()) == 1, run.err
    assert run.err.startswith("stantune: ")
    assert "Traceback" not in run.err
    for words in said:
        assert words in run.err
    assert not (tmp_path / "out").exists(), "bad use leaves nothing behind"


@pytest.mark.parametrize(
    "typed",
    [
        ("search",),
        ("search", "lenet", "--eta", "three"),
        ("search", "lenet", "--sead", "1"),
        ("search", "lenet", "--workers", "0"),
        ("search", "lenet", "--workers", "99999"),
        ("compare", "lenet", "--iterations", "9" * 400),
        ("doctor", "--threads", "2147483648"),
        ("serch", "lenet"),
    ],
    ids=" ".join,
)
def test_usage(stantune: Stantune, typed: tuple[str, ...]) -> None:
    run = stantune(*typed)
    assert run.code == 2
    assert run.out == ""
    assert run.err.startswith("Usage: stantune")
    assert "Error: " in run.err
    assert "Traceback" not in run.err


def test_problem_that_nothing_takes(stantune: Stantune, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from stantune import *\n"
        "problem = Problem('mine', lambda: None, 'mnist', Space({'width': Integer(1, 2)}), Solver(lr=1), 5)\n"
    )
    run = stantune("brackets", f"{file}:problem")
    assert run.code == 2
    assert "'width'" in run.err
    assert len(run.err.splitlines()) == 1


def test_what_a_file_s_code_says_wrong_is_no_option_s(stantune: Stantune, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from stantune import *\n"
        "problem = Problem('mine', lambda: None, 'mnist', Space({'lr': Float(1, 2)}), Solver(lr=1), 60.5)\n"
    )
    run = stantune("brackets", f"{file}:problem")
    assert run.code == 2
    assert "problem 'mine': iterations=60.5 is no whole number; give one, 1 or more (line 2)" in run.err


def test_debug_shows_where(stantune: Stantune) -> None:
    # Raised on, so that Python prints the traceback.
    with pytest.raises(UsageError, match="no problem is called 'lenett'"):
        stantune("search", "lenett", "--debug")
    assert stantune("search", "lenett").code == 2


def test_unexpected_failure_is_one_sentence(stantune: Stantune, tiny_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(tiny_file.read_text() + FAILS.format(error="RuntimeError('no\\nway')"))
    run = stantune("train", f"{file}:problem", "--threads", 1)
    assert run.code == 1
    assert run.err.splitlines() == [
        "stantune: failed unexpectedly (RuntimeError: no way); --debug shows where",
    ]


def test_error_without_words_is_one_sentence(stantune: Stantune, tiny_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        tiny_file.read_text()
        + "\n\nclass Mute(Exception):\n    def __str__(self):\n        raise self\n"
        + FAILS.format(error="Mute")
    )
    run = stantune("train", f"{file}:problem", "--threads", 1)
    assert run.code == 1
    assert run.err == "stantune: failed unexpectedly (Mute: it cannot say what it is); --debug shows where\n"
    file.write_text(file.read_text() + "raise Mute\n")
    run = stantune("train", f"{file}:problem")
    assert run.code == 2
    assert run.err.startswith(f"stantune: {file} cannot be imported: Mute: it cannot say what it is (line ")
