"""Every Python block of the pages is run, each page as one program; commands in them exist, counts in them are true.

A comment in the Markdown right before a block says what is special about it, one thing or several, separated by `;`:

    <!-- not run: needs a Ray cluster -->      the test lists such blocks, and runs them nowhere
    <!-- needs: ray, pyarrow -->               run where these can be imported
    <!-- slow -->                              run by `pytest -m slow`
    <!-- theirs: Optuna -->, <!-- ours: Optuna -->   two programs for one job, whose differing lines the page counts

`python tests/test_docs.py` prints these counts.
"""

from __future__ import annotations

import difflib
import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import typer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<marks>[^\n]*?) -->\n\s*)?```(?P<kind>\w*)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
MARKS = {"not run", "needs", "slow", "theirs", "ours"}
KINDS = {"", "json", "python", "sh", "text", "toml"}
NOT_RUN = {"cluster.md": 0, "coming-from.md": 0, "lightning.md": 0, "objectives.md": 0, "own-code.md": 1}
COUNT = re.compile(r"<!-- count: (?P<of>[^\n]*?) -->(?P<said>.*?)\n\n", re.DOTALL)
# Runs the blocks of a page one after the other, in one namespace, as a reader would who types them in.
RUNNER = """
import pathlib, sys, __main__
for file in sys.argv[1:]:
    print(f"running {file}", file=sys.stderr)
    exec(compile(pathlib.Path(file).read_text(), file, "exec"), vars(__main__))
"""


class Block(NamedTuple):
    """A code block of a page.

    Attributes:
        page: the page's file name.
        line: where the block begins there.
        kind: what is said behind the backticks.
        text: the code.
        marks: what is said of it in a comment, each with what comes after the colon.
    """

    page: str
    line: int
    kind: str
    text: str
    marks: dict[str, str]

    @property
    def runs(self) -> bool:
        """Tell whether it is to be run, and can be here."""
        needed = self.marks.get("needs", "").replace(",", " ").split()
        there = all(importlib.util.find_spec(name) is not None for name in needed)
        return self.kind == "python" and "not run" not in self.marks and there


def blocks(page: Path) -> Iterator[Block]:
    """Yield a page's code blocks."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        said = [mark.partition(":") for mark in (found["marks"] or "").split(";") if mark.strip()]
        yield Block(
            page.name,
            text.count("\n", 0, found.start("text")),
            found["kind"],
            textwrap.dedent(found["text"]),
            {name.strip(): value.strip() for name, _, value in said},
        )


ALL = [block for page in PAGES for block in blocks(page)]
PYTHON = {page.name: [block for block in blocks(page) if block.kind == "python"] for page in PAGES}


def run_all(found: list[Block], folder: Path) -> None:
    """Run blocks one after the other in a process of their own."""
    code = folder / "code"
    code.mkdir()
    files = [code / f"{block.page.removesuffix('.md')}-line-{block.line}.py" for block in found]
    for block, file in zip(found, files, strict=True):
        file.write_text(block.text)
    # One thread: small networks are quickest so, on a busy machine above all.
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, *map(str, files)],
        cwd=folder,
        env={"OMP_NUM_THREADS": "1", **os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]


def test_blocks_are_of_known_kinds_and_marks():
    for block in ALL:
        assert block.kind in KINDS, block
        assert set(block.marks) <= MARKS, block
    fences = sum(len(re.findall(r"^ *```", page.read_text(), re.MULTILINE)) for page in PAGES)
    assert fences == 2 * len(ALL)


def test_blocks_that_are_not_run_say_why():
    listed = [block for block in ALL if block.kind == "python" and "not run" in block.marks]
    for block in listed:
        print(f"{block.page}, line {block.line}: {block.marks['not run']}")
        assert block.marks["not run"]
        compile(block.text, block.page, "exec")
    for page, expected in NOT_RUN.items():
        assert sum(block.page == page for block in listed) == expected


@pytest.mark.parametrize("page", [name for name, found in PYTHON.items() if found])
def test_python_runs(page, tmp_path):
    found = [block for block in PYTHON[page] if block.runs and "slow" not in block.marks]
    run_all(found, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, found in PYTHON.items() if any("slow" in b.marks for b in found)])
def test_slow_python_runs(page, tmp_path):
    missing = [block for block in PYTHON[page] if "needs" in block.marks and not block.runs]
    if missing:
        pytest.skip(f"blocks of {page} need {', '.join(block.marks['needs'] for block in missing)}")
    run_all([block for block in PYTHON[page] if block.runs], tmp_path)


def test_the_reference_has_every_name_once():
    import stantune

    names = re.findall(r"^::: stantune\.(\w+)$", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(stantune.__all__)


# --- commands ---------------------------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """Yield the `stantune` commands of shell lines, behind srun and the like too, split into words."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line.partition(" #")[0], posix=True, punctuation_chars=True)
        words.whitespace_split, words.commenters = True, ""
        for between, group in itertools.groupby(words, lambda word: set(word) <= set("();<>|&")):
            command = list(group)
            if not between and "stantune" in command:
                yield command[command.index("stantune") + 1 :]


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that words name, and the words behind its name."""
    from stantune.cli import app

    command: click.Command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options_of(command: click.Command) -> set[str]:
    """Return the options of a command."""
    return {"--help"} | {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}


SHELL = [block for block in ALL if block.kind in ("sh", "") and any(commands(block.text))]


@pytest.mark.parametrize("block", SHELL, ids=lambda block: f"{block.page}-{block.line}")
def test_commands_and_their_options_exist(block):
    for words in commands(block.text):
        command, rest = command_of(words)
        given = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert given <= options_of(command), (words, given - options_of(command))


def test_scripts_are_shell():
    scripts = [block.text for block in ALL if block.text.startswith("#!/bin/bash\n")]
    assert len(scripts) >= 2
    for script in scripts:
        assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_inline_commands_exist(page):
    text = BLOCK.sub("", page.read_text())
    for code in re.findall(r"`(stantune [a-z][^`]*)`", text):
        for words in commands(code):
            command, rest = command_of(words)
            given = {word.partition("=")[0] for word in rest if word.startswith("--")}
            assert given <= options_of(command), code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", BLOCK.sub("", page.read_text())):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_absolute_paths_of_storages_have_four_slashes(page):
    roots = "home|path|mnt|srv|data|scratch|shared|tmp|var|opt|Users"
    assert re.findall(rf"(?:sqlite|journal):///(?:{roots})/[^`\s]*", page.read_text()) == []


# --- lines that change ------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """How many lines two programs have in common and not.

    Attributes:
        stay: lines of both.
        go: lines of theirs alone.
        come: lines of ours alone.
    """

    stay: int
    go: int
    come: int

    def __str__(self) -> str:
        return f"{self.go} lines go, {self.come} come, {self.stay} stay"


def change(theirs: str, ours: str) -> Change:
    """Compare two programs line by line; empty lines, comments and the depth of indentation do not count."""

    def lines(text: str) -> list[str]:
        stripped = [line.strip() for line in text.splitlines()]
        return [line for line in stripped if line and not line.startswith("#")]

    before, after = lines(theirs), lines(ours)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    stay = sum(match.size for match in matcher.get_matching_blocks())
    return Change(stay, len(before) - stay, len(after) - stay)


def changes() -> dict[str, Change]:
    """Return the change of each pair of programs on the pages."""
    theirs = {block.marks["theirs"]: block.text for block in ALL if "theirs" in block.marks}
    ours = {block.marks["ours"]: block.text for block in ALL if "ours" in block.marks}
    assert set(theirs) == set(ours)
    return {name: change(text, ours[name]) for name, text in theirs.items()}


def test_the_page_states_the_lines_that_change():
    page = (ROOT / "docs" / "coming-from.md").read_text()
    stated = {found["of"]: " ".join(found["said"].split()) for found in COUNT.finditer(page)}
    assert set(stated) == set(changes())
    for name, found in changes().items():
        assert str(found) in stated[name], (name, str(found), stated[name])


def test_commands_are_found_behind_others():
    script = "cd x && srun -n 1 stantune search lenet --seed 1 &\ntrap 'kill $a; wait $a' TERM  # stantune no\n"
    assert list(commands(script)) == [["search", "lenet", "--seed", "1"]]


def test_changes_are_counted():
    assert change("a\n\nb\nc\n", "  a\nd\n# no\nc\ne\n") == Change(2, 1, 2)


if __name__ == "__main__":
    for tool, found in changes().items():
        print(f"{tool}: {found}")
