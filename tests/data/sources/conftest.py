"""A folder to work in, and an npm that packs what a test gives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from origins import tar


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def pack(program: Callable[[str, str], None], tmp_path: Path) -> Callable[[dict[str, bytes]], None]:
    """Installs an npm that packs the given members, and insists on being asked the right thing."""

    def install(members: dict[str, bytes]) -> None:
        (tmp_path / "package.tgz").write_bytes(tar(members))
        program(
            "npm",
            "assert sys.argv[1:3] == ['pack', '--ignore-scripts'] and sys.argv[3] in ('tiny@1', 'tinyc@1')\n"
            f"shutil.copy({str(tmp_path / 'package.tgz')!r}, '.')",
        )

    return install
