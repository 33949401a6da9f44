"""Where modules are imported from: Python's own library first, then the user's folders, then installed packages."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Sequence
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
        sys.path.insert(_behind_pythons(sys.path), folder)


def import_first(folder: str) -> None:
    """Have modules of a folder found before those of folders that import_from was given until now.

    One that is before Python's own library, as a script's is, stays where it is.
    """
    others = [other for other in sys.path if other != folder]
    place = _behind_pythons(others)
    if folder in sys.path:
        place = min(place, sys.path.index(folder))
    # At once: other threads may be importing.
    sys.path[:] = [*others[:place], folder, *others[place:]]


def _behind_pythons(folders: Sequence[str]) -> int:
    """Return the place behind the last folder of Python's own library, 0 where there is none."""
    return 1 + max((place for place, each in enumerate(folders) if _is_pythons(Path(each).resolve())), default=-1)


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
