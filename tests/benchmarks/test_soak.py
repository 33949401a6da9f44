"""A few kills of the soak's hundreds: processes of searches of each kind, killed at random moments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def soaked(*options: str, script: str = "soak") -> list[dict[str, str]]:
    """Return the rows of the table that the script prints."""
    command = [sys.executable, "-m", f"benchmarks.robustness.{script}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def check(told: dict[str, str], kills: int) -> None:
    parts = ("of the main one", "of workers", "of commands")
    assert int(told["kills"]) == sum(int(told[part]) for part in parts) >= kills
    assert (told["left over"], told["different"]) == ("0", "0")


def check_commands(told: dict[str, str], kills: int) -> None:
    assert int(told["kills"]) == kills
    assert int(told["came to the end"]) >= 1
    assert (told["left over"], told["different"]) == ("0", "0")


@pytest.mark.parametrize(
    ("objective", "kills"), [pytest.param("chains", 6, marks=pytest.mark.slow), ("problem", 3), ("command", 6)]
)
def test_soak_of_a_few_kills(objective: str, kills: int) -> None:
    (told,) = soaked("--objective", objective, "--kills", str(kills), "--seed", "3")
    assert told["objective"] == objective
    check(told, kills)


@pytest.mark.parametrize("way", ["fetch", pytest.param("fresh", marks=pytest.mark.slow)])
def test_soak_of_commands_that_are_killed_a_few_times(way: str) -> None:
    (told,) = soaked("--way", way, "--kills", "4", "--seed", "3", script="soak_command")
    assert told["way"] == way
    check_commands(told, 4)


@pytest.mark.slow
def test_soak_of_commands_in_every_way() -> None:
    rows = soaked("--kills", "6", "--seed", "4", script="soak_command")
    assert [told["way"] for told in rows] == ["start", "fresh", "final", "workers", "turns", "fetch"]
    for told in rows:
        check_commands(told, 6)


@pytest.mark.slow
def test_soak_of_every_objective() -> None:
    pytest.importorskip("lightning", reason="Lightning is not installed: pip install 'stantune[lightning]'")
    rows = soaked("--objective", "all", "--kills", "6", "--seed", "4")
    assert len(rows) == 5
    for told in rows:
        check(told, 6)


@pytest.mark.slow
def test_soak_on_ray() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'stantune[ray]'")
    (told,) = soaked("--objective", "command", "--executor", "ray", "--kills", "6", "--seed", "5")
    assert told["executor"] == "ray"
    check(told, 6)
