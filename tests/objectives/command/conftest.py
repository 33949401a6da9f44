"""What the tests of commands share: a script in a folder of each test's own."""

from __future__ import annotations

import textwrap

import pytest


@pytest.fixture
def script(tmp_path):
    """Write a Python script and return the command that runs it."""

    def write(text: str, arguments: str = "{dir} {start} {stop} {lr}") -> str:
        (tmp_path / "train.py").write_text(textwrap.dedent(text))
        return f"{{python}} {tmp_path}/train.py {arguments}"

    return write
