"""Files that somebody could have left in a folder, called like modules of Python's and of installed packages."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

INSTALLED = ("cloudpickle", "filelock", "numpy", "optuna", "rich", "sqlalchemy", "stantune", "torch", "typer")
# What Python itself imports before the first line of a command, later versions from the working folder.
_FIRST = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True)
_NONE = {"antigravity", "this", *_FIRST.stdout.split()}
PYTHONS = tuple(name for name in sys.stdlib_module_names if name not in _NONE and find_spec(name))
# As the installed program begins, whose own folder comes first and not the working one.
COMMAND = "import sys; sys.path.remove(''); from stantune.cli import main; main()"


def set_traps(folder: Path, names: tuple[str, ...]) -> Path:
    """Put files of these names into a folder; each says so when it is run."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'sprung')!r}, 'a').write('{name} ')\n")
    return folder


def sprung(folder: Path) -> str:
    """Return the names of the traps that were run."""
    file = folder / "sprung"
    return file.read_text() if file.exists() else ""
