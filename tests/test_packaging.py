"""What is installed: the oldest versions that are claimed are those that the tests can be run with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What users install, and the tests; the other extras are for docs, benchmarks and checks of this repository.
OF_THE_PROJECT = {"dev", "docs", "docs-test", "models"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def release(version: str) -> tuple[int, ...]:
    """Return 2.4.0 as (2, 4): zeros at the end say nothing."""
    return tuple(int(part) for part in re.sub(r"(\.0)+$", "", version).split("."))


def test_the_oldest_versions_are_those_that_the_package_claims() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(each for name in extras.keys() - OF_THE_PROJECT for each in extras[name])]
    claimed = {}
    for requirement in wanted:
        found = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)(?:;.*)?", requirement)
        assert found, f"{requirement} names no oldest version"
        claimed[normal(found[1])] = release(found[2])
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    held = {normal(name): version for name, version in pinned.items()}
    # A version may have had a first release with more parts: 3.6 came as 3.6.1.
    for name, oldest in claimed.items():
        assert name in held, f"{name} is not in constraints-oldest.txt, whose first lines tell how it is made"
        assert release(held[name])[: len(oldest)] == oldest, name
