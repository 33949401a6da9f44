"""The floors of the house: what imports what, also inside functions; every arrow points down."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "src" / "stantune"
# From the top; what stands beside one another knows nothing of one another.
FLOORS = (
    ("cli",),
    ("report",),
    ("compare",),
    ("tuning", "testing"),
    ("images", "objectives"),
    ("training",),
    ("integrations",),
    ("search",),
    ("protocols",),
    ("stan",),
    ("kernels",),
    ("user_code",),
    (
        "files",
        "process",
        "seeds",
        "space",
        "outcome",
        "quantities",
        "texts",
    ),
    ("parameters",),
    ("plain_values",),
    ("arguments", "loss_curve"),
    ("errors",),
)
# Arrows against the rule, each with its reason; one that is there no longer is to go from here, too.
_PROBLEMS = "it tells a Problem from other things, and a built-in one's name; loaded only where there may be one"
EXCEPTIONS = {
    ("objectives.choose", "images.problem.facts"): _PROBLEMS,
    ("objectives.choose", "images.problem.built_in"): _PROBLEMS,
    ("objectives.choose", "images.objective"): _PROBLEMS,
    ("compare.study.result", "report.page.writing"): "as with a search's result",
    ("search.results.result", "report.page.writing"): "where users look for `result.report()`; loaded when called",
}
# What the search does not know.
FOREIGN = ("torch", "torchvision", "typer", "lightning")
# `stantune` itself: its names are those of all floors, and it imports them when they are used.
FACE = ("__init__", "__main__")


class Arrow(NamedTuple):
    """An import: from which module, of which, and where it stands."""

    source: str
    target: str
    line: int

    def __str__(self) -> str:
        """Return it as a failure shows it."""
        return f"{self.source} -> {self.target} (line {self.line})"


def modules() -> dict[str, Path]:
    """Return the file of each module below `stantune`, by its name without that."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = file
    return found


def arrows(source: str, file: Path) -> Iterator[Arrow]:
    """Yield all imports of a file but those that only type checkers see; ours without `stantune`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    unseen = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{source} imports by dots, line {node.lineno}"
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            yield Arrow(source, target, node.lineno)


def own(target: str, known: dict[str, Path]) -> str | None:
    """Return the module of ours that an import names, "" for the package itself; None for another's."""
    if target != "stantune" and not target.startswith("stantune."):
        return None
    name = target.removeprefix("stantune").removeprefix(".")
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def all_arrows() -> list[Arrow]:
    return [arrow for source, file in modules().items() if source not in FACE for arrow in arrows(source, file)]


def part(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_has_its_floor() -> None:
    there = {part(module) for module in modules()} - set(FACE)
    assert there == {name for floor in FLOORS for name in floor}


def test_arrows_point_down() -> None:
    known = modules()
    height = {name: len(FLOORS) - place for place, floor in enumerate(FLOORS) for name in floor}
    forbidden: dict[tuple[str, str], list[Arrow]] = {}
    for arrow in all_arrows():
        target = own(arrow.target, known)
        if target is None:
            continue
        source, wanted = part(arrow.source), part(target)
        # Of the package's face, only its version and the like could be meant.
        if not target or (source != wanted and height[wanted] >= height[source]):
            forbidden.setdefault((arrow.source, target), []).append(arrow)
    told = [str(arrow) for pair, found in forbidden.items() if pair not in EXCEPTIONS for arrow in found]
    assert not told, "\n".join(["these imports point up or sideways:", *told])
    assert forbidden.keys() == EXCEPTIONS.keys(), "an exception is no longer needed"


def test_the_search_knows_nothing_of_torch_and_the_command_line() -> None:
    told = [
        str(arrow)
        for arrow in all_arrows()
        if part(arrow.source)
        in ("search", "protocols", "outcome", "space", "parameters", "plain_values", "quantities", "errors")
        and part(arrow.target) in FOREIGN
    ]
    assert not told, "\n".join(["the search is to know nothing of these:", *told])


def loaded_by(module: str) -> set[str]:
    """Return the modules that a fresh process has when it has imported one."""
    code = f"import sys; import {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_settings_of_a_search_load_nothing_above_them() -> None:
    loaded = loaded_by("stantune.search.settings")
    assert "torch" not in loaded
    ours = {name for name in loaded if name.startswith("stantune.")}
    above = {name for name in ours if part(name.removeprefix("stantune.")) in ("images", "kernels", "stan", "training")}
    assert not above, sorted(above)
    assert len(ours) <= 30, sorted(ours)


def test_a_worker_of_the_search_loads_neither_torch_nor_optuna() -> None:
    loaded = loaded_by("stantune.search.workers.worker")
    assert not loaded & {"torch", "optuna", "sqlalchemy", "numpy", "pydantic"}


def test_the_package_itself_does_no_work() -> None:
    assert {name for name in loaded_by("stantune") if name.startswith("stantune")} == {"stantune"}
