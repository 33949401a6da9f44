"""Where modules are imported from: Python's own library first, then the user's folders, then installed packages."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple


class Folders(NamedTuple):
    """The user's own of the folders that modules are imported from.

    Attributes:
        first: those that come before installed packages: the script's, the working one of a notebook, PYTHONPATH's.
        last: those behind them.
    """

    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()


def import_from(folder: str) -> None:
    """Have modules of a folder found: before installed packages, as a script's are, and behind Python's own library.

    Else whatever is called json.py there would be run in place of Python's, by all who import that later.
    """
    if folder not in sys.path:
        behind = [place for place, other in enumerate(sys.path) if _is_pythons(Path(other).resolve())]
        sys.path.insert(behind[-1] + 1 if behind else 0, folder)


def import_first(folder: str) -> None:
    """Have modules of a folder found before those of folders that import_from was given until now."""
    if folder in sys.path:
        sys.path.remove(folder)
    import_from(folder)


def own_folders() -> Folders:
    """Return the folders that modules are imported from here, without those of Python and of installed packages."""
    first: list[str] = []
    last: list[str] = []
    found = first
    for folder in map(Path, sys.path):
        real = folder.resolve()
        if _is_installed(real):
            found = last
        elif real.exists() and is_users(real):
            found.append(str(folder.absolute()))
    return Folders(tuple(first), tuple(last))


def import_from_all(folders: Folders) -> None:
    """Have modules found that another process has from its own folders."""
    for folder in reversed(folders.first):
        import_from(folder)
    sys.path += [folder for folder in folders.last if folder not in sys.path]


def is_users(real: Path) -> bool:
    """Tell whether a file or a folder, by its real path, is neither Python's own nor of an installed package."""
    return not _is_installed(real) and not _is_pythons(real)


def _is_installed(real: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & {*real.parts})


def _is_pythons(real: Path) -> bool:
    library = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    return not _is_installed(real) and any(real.is_relative_to(each) for each in library)
