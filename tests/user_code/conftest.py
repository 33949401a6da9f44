"""Code that is loaded from a file of its own."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

numbers = itertools.count()


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., Any]:
    """Return what has a name in a file with this text."""

    def load(text: str, name: str = "train") -> Any:
        path = tmp_path / f"code_{next(numbers)}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("mine", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, name)

    return load
