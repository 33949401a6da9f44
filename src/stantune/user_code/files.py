"""A Python file of the user's, loaded as a module; what goes wrong in it is said in a sentence."""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from stantune.errors import UsageError, words_of
from stantune.user_code.beside import find_beside, note_run
from stantune.user_code.working_folder import kept_folder

# Modules that users' files of before import, and where they are now.
_MOVED = {
    "stantune.data": "stantune.images.data",
    "stantune.images.problems": "stantune.images.problem.built_in",
    "stantune.images.solver": "stantune.images.solving.solver",
    "stantune.nets": "stantune.images.nets",
    "stantune.problems": "stantune.images.problem.built_in",
    "stantune.solver": "stantune.images.solving.solver",
}


def load_file(path: Path, kind: str) -> ModuleType:
    """Return the module that a file is, run anew; the working folder stays.

    Its folder can be imported from, as that of a script can.

    Args:
        path: the file.
        kind: begins the module's name, under which classes that it defines are found again (pickle, dataclasses).

    Raises:
        UsageError: there is no such file, it is none of Python's, it fails, it ends the program, or a module beside it
            has the name of another one.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}; give yours as FILE.py:NAME")
    name = _name_for(path, kind)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file; give yours as FILE.py:NAME")
    names = find_beside(path.resolve())
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with kept_folder():
            spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        del sys.modules[name]
        where = _MOVED.get(error.name or "")
        hint = f"; {error.name} is {where} now, so import from there" if where else ""
        raise UsageError(f"{path} cannot be imported: ModuleNotFoundError: {error}{hint}") from error
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"{path} cannot be imported: {_words(error)}{_line(error, path)}") from error
    except SystemExit as error:
        del sys.modules[name]
        raise UsageError(
            f"{path} ends the program, by sys.exit or the like, as it is loaded; put what only a script is to do below "
            "if __name__ == '__main__'"
        ) from error
    note_run(path.resolve(), names)
    return module


def _name_for(path: Path, kind: str) -> str:
    """Return a module's name: of its own, since the code of classes is found by it, and of files called alike, too."""
    # Without dots, which would make it a module of a package, in another folder.
    plain = f"{kind}_{path.stem.replace('.', '_')}"
    names = itertools.chain([plain], (f"{plain}_{number}" for number in itertools.count(2)))
    file = os.path.abspath(path)
    return next(name for name in names if getattr(sys.modules.get(name), "__file__", file) == file)


def check_unchanged(source: str, before: object, now: object) -> None:
    """Raise UsageError where what FILE.py:NAME names now is other code than when the search began."""
    if before != now:
        raise UsageError(
            f"{source} was changed since the search began, or something that it imports or draws; put it back as it "
            "was, or give the same command again"
        )


def _words(error: Exception) -> str:
    """Return kind and words of an error: names in backticks are Python's here, and no options of a command."""
    return words_of(error).replace("`", "")


def _line(error: Exception, path: Path) -> str:
    """Say on which line of a file it failed: a range that is refused does not know its parameter's name."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" (line {lines[-1]})" if lines else ""
