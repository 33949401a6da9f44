"""Gives the tests of the search the simulated one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def simulated() -> ModuleType:
    """The module simulated.py, which killed_search.py imports too."""
    return _beside("simulated")


@pytest.fixture(scope="session")
def played() -> ModuleType:
    """The module played.py."""
    return _beside("played")


def _beside(name: str) -> ModuleType:
    """Import a module that lies beside the tests."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module
