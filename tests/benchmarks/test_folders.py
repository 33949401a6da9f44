"""The folders of benchmarks/: who may import whom, and that the scripts that are named are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = ROOT / "benchmarks" / "README.md"
# {name: text}
MODULES = {
    f"benchmarks.{file.parent.name}.{file.stem}": file.read_text()
    for file in sorted((ROOT / "benchmarks").glob("*/*.py"))
    if file.name != "__init__.py"
}
SCRIPTS = {name for name, text in MODULES.items() if '\nif __name__ == "__main__":' in text}


def test_imports_stay_in_a_folder() -> None:
    for name, text in MODULES.items():
        folders = set(re.findall(r"^ *(?:from|import) benchmarks\.(\w+)", text, re.MULTILINE))
        assert folders <= {name.split(".")[1], "common"}, name


def test_the_list_has_every_script_with_its_command_and_every_part() -> None:
    text = LIST.read_text()
    assert set(re.findall(r"\| `python -m (benchmarks\.[\w.]+)", text)) == SCRIPTS
    assert not [name for name in MODULES.keys() - SCRIPTS if f"`{name.split('.')[2]}.py`" not in text]


def test_commands_and_paths_are_of_what_is_there() -> None:
    pages = [LIST, ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for name, text in {**MODULES, **{str(page): page.read_text() for page in pages}}.items():
        assert set(re.findall(r"python -m (benchmarks[\w.]*\w)", text)) <= SCRIPTS, name
        assert all((ROOT / path).exists() for path in re.findall(r"benchmarks/[\w/]+\.\w+", text)), name
