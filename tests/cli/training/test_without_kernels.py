"""Where native kernels could not be built, whoever trains with STAN is told so, as doctor tells it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from stantune import Stan, accelerate_
from stantune.kernels import library

Stantune = Callable[..., Any]
NOTE = "note: there are no native kernels, plain PyTorch does the work (a test has none)\n"


def short(command: str, out: Path) -> tuple[object, ...]:
    """Return the shortest run of a command."""
    return {
        "search": ("--out", out, "--budget", 0),
        "train": ("--iterations", 2, "--accelerate", "stan"),
        "compare": ("--iterations", 2, "--seeds", 1),
    }[command]


@pytest.mark.parametrize("command", ["search", "train", "compare"])
def test_said_once(command: str, stantune: Stantune, tiny_file: Path, tmp_path: Path, no_kernels: None) -> None:
    ended = stantune(command, f"{tiny_file}:problem", *short(command, tmp_path), "--threads", 1)
    assert ended.code == 0, ended.err
    assert ended.out.count(NOTE) == 1


def test_not_said_of_what_has_no_use_for_them(
    stantune: Stantune, tiny_file: Path, tmp_path: Path, no_kernels: None
) -> None:
    exact = ("search", f"{tiny_file}:problem", "--accelerate", "none", *short("search", tmp_path), "--threads", 1)
    assert "kernels" not in stantune(*exact).out
    assert "kernels" not in stantune("train", f"{tiny_file}:problem", "--iterations", 2, "--threads", 1).out


def test_not_said_to_whoever_switched_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    library.kernels.cache_clear()
    monkeypatch.setenv(library.SWITCH, "off")
    try:
        assert library.lack() == ""
        assert library.kernels().library is None
    finally:
        library.kernels.cache_clear()


def test_a_handle_tells_what_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(2, 2))
    handle = accelerate_(model, Stan(rate=0.5))
    form = library.kernels().form
    if form:
        assert (library.lack(), handle.kernels) == ("", f"native kernels, {form}")
    monkeypatch.setattr(library, "kernels", lambda: library.Kernels(None, "", "it was not built: install a compiler"))
    assert handle.kernels == "plain PyTorch (it was not built: install a compiler)"
    assert f"{handle!r}" == f"<StanHandle: 1 of 1 layers changed; on a CPU: {handle.kernels}>"
