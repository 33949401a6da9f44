"""Gives the tests of the search the simulated one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def simulated() -> ModuleType:
    """The module simulated.py, which lies beside the tests and which killed_search.py imports too."""
    path = Path(__file__).with_name("simulated.py")
    spec = importlib.util.spec_from_file_location("simulated", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault("simulated", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module
