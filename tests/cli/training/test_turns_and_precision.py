"""`--together`, `--precision`, `--compile`: turns change nothing that a command says, other numbers do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from states import equal, what_counts

from stantune.search.directory.directory import SearchDirectory
from stantune.search.table import studies
from stantune.training import compiling

TESTS = Path(__file__).parents[2]
LENGTHS = ("--max-iterations", "9", "--min-iterations", "3", "--brackets", "1", "--threads", "1", "--device", "cpu")


def search(stantune: Any, tiny_file: Path, out: Path, *options: object) -> Any:
    return stantune("search", f"{tiny_file}:problem", *LENGTHS, "--out", out, "--json", "-", *options)


@pytest.mark.parametrize(
    "options",
    [(), ("--workers", 2), pytest.param(("--trial-timeout", "1m"), marks=pytest.mark.slow)],
    ids=["one", "two", "timeout"],
)
def test_turns_change_nothing_but_times(
    stantune: Any, tiny_file: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    alone = search(stantune, tiny_file, tmp_path / "alone")
    turns = search(stantune, tiny_file, tmp_path / "turns", "--together", 3, *options)
    assert (alone.code, turns.code) == (0, 0), turns.err
    for result in (alone, turns):
        assert result.json["complete"]
    kept = [
        {name: value for name, value in each.json.items() if name not in ("seconds", "saved", "final_training")}
        for each in (alone, turns)
    ]
    assert kept[0] == kept[1]
    assert "together: 3 trainings in a process, each of which keeps about" in " ".join(turns.err.split())
    assert "together" not in alone.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--together", 2, "--trial-memory", "2G"), "--together 2 trainings share the memory of a process, and"),
        (("--together", 0), "--together"),
        (("--precision", "tf32"), "--precision tf32 are numbers of NVIDIA's GPUs, and here is none in use"),
        (("--precision", "half"), "--precision 'half' is unknown; give fp32, tf32, bf16"),
        (("--precision", "bf16", "--rate", "auto"), "--precision bf16 does not go with a --rate of auto"),
        (
            ("--compile", "--accelerate", "stan"),
            "--compile does not go with STAN, whose layers torch.compile leaves as they are; leave away what asks",
        ),
        (("--compile", "--accelerate", "stan:auto"), "leave away what asks for STAN"),
    ],
    ids=["memory", "none", "tf32", "unknown", "auto", "compile", "compile-rates"],
)
def test_what_cannot_be_is_refused(
    stantune: Any, tiny_file: Path, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    run = search(stantune, tiny_file, tmp_path / "out", *options)
    assert run.code == 2
    assert said in " ".join(run.err.split())
    assert not (tmp_path / "out").exists()


def test_a_training_in_other_numbers_is_another(stantune: Any, tiny_file: Path, tmp_path: Path) -> None:
    train = ("train", f"{tiny_file}:problem", "--iterations", 12, "--threads", 1, "--device", "cpu")

    def trained(*options: str) -> Any:
        kept = tmp_path / f"{'-'.join(options)}.pt"
        run = stantune(*train, "--checkpoint", kept, *options)
        assert run.code == 0, run.err
        return what_counts(kept)["model"]

    whole = trained()
    assert equal(trained("--precision", "fp32"), whole)
    assert not equal(trained("--precision", "bf16"), whole)
    refused = stantune(*train, "--precision", "bf16", "--accelerate", "stan", "--rate", "auto")
    assert (refused.code, "does not go with a --rate of auto" in " ".join(refused.err.split())) == (2, True)


def test_a_compiled_training_is_another_and_a_compiled_search_too(
    stantune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch.compile's backend "eager", whose bits are PyTorch's."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    problem, lasting = f"{TESTS / 'tiny_problem.py'}:plain", ("--threads", 1, "--device", "cpu")
    compiling._programs.run.clear()

    def trained(*options: str) -> Any:
        kept = ("--checkpoint", tmp_path / "training.pt")
        return stantune("train", problem, "--iterations", 12, *lasting, *kept, *options)

    first, other, refused = trained("--compile"), trained(), trained("--compile", "--accelerate", "stan")
    assert (first.code, other.code, refused.code) == (0, 1, 2), first.err
    assert compiling._programs.run
    assert "trained with another compile" in " ".join(other.err.split())
    assert "--compile does not go with STAN" in " ".join(refused.err.split())
    asked = tmp_path / "asked.toml"
    # Which trains without STAN by itself.
    asked.write_text("compile = true\n")
    searched = ("search", problem, *lasting, "--max-iterations", 3, "--out", tmp_path / "out", "--config", asked)
    assert stantune(*searched).code == 0
    changed = stantune(*searched, "--no-compile")
    assert (changed.code, "compile: True there, not set here" in " ".join(changed.err.split())) == (2, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--precision", "tf32"), "--precision tf32 are numbers of NVIDIA's GPUs, and here is none in use"),
        (("--precision", "half"), "--precision 'half' is unknown; give fp32, tf32, bf16"),
        (("--precision", "bf16", "--rate", "auto"), "--precision bf16 does not go with a --rate of auto"),
    ],
    ids=["tf32", "unknown", "auto"],
)
def test_what_cannot_be_compared_is_refused(
    stantune: Any, tiny_file: Path, options: tuple[object, ...], said: str
) -> None:
    run = stantune("compare", f"{tiny_file}:problem", "--iterations", 4, *options)
    assert run.code == 2
    assert said in " ".join(run.err.split())


def test_compared_in_bfloat16(stantune: Any, tiny_file: Path) -> None:
    command = ("compare", f"{tiny_file}:problem", "--iterations", 30, "--seeds", 1, "--threads", 1, "--device", "cpu")
    plain, bf16 = (stantune(*command, "--json", "-", *more) for more in ((), ("--precision", "bf16")))
    assert (plain.code, bf16.code) == (0, 0), bf16.err
    train = ("train", *command[1:4], "--threads", 1, "--device", "cpu", "--precision", "bf16", "--json", "-")
    assert bf16.json["exact"]["test_error"] == [stantune(*train).json["test_error"]]
    assert bf16.json["predicted_speedup"] is None


@pytest.mark.slow
def test_killed_at_many_moments_it_ends_as_the_undisturbed(tmp_path: Path) -> None:
    script, problem = TESTS / "helpers" / "search" / "killed_command.py", f"{TESTS / 'tiny_problem.py'}:problem"
    length = ("--max-iterations", "27", "--min-iterations", "3", "--threads", "1", "--device", "cpu")
    command = [sys.executable, str(script)]
    for name, kills, options in (("alone", (0, 0), ()), ("killed", (0, 150), ("--together", "3"))):
        (tmp_path / name).mkdir()
        out = ("--out", tmp_path / name / "out", "--json", tmp_path / name / "result.json")
        command += map(str, ("+", tmp_path / name / "log", 0, *kills, "search", problem, *length, *options, *out))
    command.remove("+")
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed") >= 2
    rows = []
    for name in ("alone", "killed"):
        directory = SearchDirectory(tmp_path / name / "out")
        table = studies.table_of(directory.url, directory.study)
        assert table is not None
        rows.append([(row.params, row.errors, row.diverged_at) for row in table[1]])
        weights = directory.digest(directory.final(0))
        assert weights is not None
    assert rows[0] == rows[1]
