"""The README's commands are run, and print what it shows. Its Python is run by test_docs.py."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return kind and text of a page's code blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


BLOCKS = blocks(README)
COMMANDS = [
    command
    for kind, text in BLOCKS
    if kind == "sh"
    for line in text.splitlines()
    for command in line.partition(" #")[0].split("&&")
    if command.strip()
]


def shown(text: str) -> str:
    """Return output with its numbers, and the spaces and lines that adjust to them, taken out."""
    return re.sub(r"[\d.\s─━]+", "", text)


def test_all_blocks_are_of_known_kinds():
    assert {kind for kind, _ in BLOCKS} == {"sh", "python", "text"}


def test_commands_that_install_or_test_name_what_exists():
    others = [shlex.split(command) for command in COMMANDS if not command.strip().startswith("stantune")]
    assert others == [
        ["pip", "install", "-c", "constraints.txt", "."],
        ["pip", "install", "-c", "constraints.txt", ".[test]"],
        ["pytest"],
    ]
    assert (README.parent / "constraints.txt").is_file()


@pytest.mark.parametrize("command", [c.strip() for c in COMMANDS if c.strip().startswith("stantune")])
def test_commands_run(command, tmp_path, data_dir):
    arguments = [sys.executable, "-c", "from stantune.cli import main; main()", *shlex.split(command)[1:]]
    if "search" in command or "fetch" in command or "train" in command or "brackets" in command:
        arguments += ["--data", str(data_dir)]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "search" in command:
        text = next(text for kind, text in BLOCKS if kind == "text")
        words = re.findall(r"[a-zA-Z_ ]{5,}", text)
        missing = [word for word in words if shown(word) not in shown(done.stdout)]
        # Another processor's sums can promote another trial; what the search says of itself does not change.
        assert len(missing) <= len(words) // 10, (missing, done.stdout)
