"""The README's commands and the first search's are run, and print what is shown. Their Python is test_docs.py's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (README, ROOT / "docs" / "first-search.md")
SEARCH = "stantune search lenet --quick"


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return kind and text of a page's code blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """Return the commands of a page, in its order."""
    return [
        command.strip()
        for kind, text in blocks(page)
        if kind == "sh"
        for line in text.splitlines()
        for command in line.partition(" #")[0].split("&&")
        if command.strip()
    ]


ALL = list(dict.fromkeys(command for page in PAGES for command in commands(page)))
OURS = [command for command in ALL if command.startswith("stantune")]
# Those that say where data are kept; the others look at a search, or need none.
TAKE_DATA = {"search", "data", "train", "brackets", "compare", "profile", "entries"}


def shown(text: str) -> str:
    """Return output with its numbers, and the spaces and lines that adjust to them, taken out."""
    return re.sub(r"[\d.\s─━]+", "", text)


def done(command: str, folder: Path, data_dir: Path) -> subprocess.CompletedProcess[str]:
    """Run one of our commands in a folder."""
    words = shlex.split(command)[1:]
    if words[0] in TAKE_DATA:
        words += ["--data", str(data_dir)]
    start = [sys.executable, "-c", "from stantune.cli import main; main()"]
    return subprocess.run([*start, *words], cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def searched(tmp_path_factory, data_dir):
    """The folder in which the pages' search has been run, as a reader's would be, and what it printed."""
    folder = tmp_path_factory.mktemp("reader")
    search = done(SEARCH, folder, data_dir)
    assert search.returncode == 0, search.stderr
    return folder, search.stdout


def test_all_blocks_are_of_known_kinds():
    assert {kind for kind, _ in blocks(README)} == {"sh", "python", "text"}


def test_commands_that_install_or_test_name_what_exists():
    others = [shlex.split(command) for command in commands(README) if not command.startswith("stantune")]
    assert others == [
        ["pip", "install", "-c", "constraints.txt", "."],
        ["pip", "install", "-c", "constraints.txt", ".[test]"],
        ["pytest"],
    ]
    assert (ROOT / "constraints.txt").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_search_prints_what_the_page_shows(page, searched):
    assert SEARCH in commands(page)
    text = next(text for kind, text in blocks(page) if kind == "text")
    words = re.findall(r"[a-zA-Z_ ]{5,}", text)
    missing = [word for word in words if shown(word) not in shown(searched[1])]
    # Another processor's sums can promote another trial; what the search says of itself does not change.
    assert len(missing) <= len(words) // 10, (missing, searched[1])


@pytest.mark.parametrize("command", [command for command in OURS if command != SEARCH])
def test_commands_run(command, searched, data_dir):
    ran = done(command, searched[0], data_dir)
    assert ran.returncode == 0, ran.stderr
