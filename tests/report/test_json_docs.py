"""docs/json.md says of every field what the models say, no more and no less, and its examples are sound."""

from __future__ import annotations

import json
import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from stantune.compare.study.contract import StudySummary
from stantune.report.compare import CompareResult
from stantune.report.doctor import DoctorResult
from stantune.report.results import DataResult, PlanResult, ProblemsResult, TrainResult
from stantune.report.stan.entries_result import EntriesResult
from stantune.report.stan.profile import ProfileResult
from stantune.search.operating.told import ExportResult, ListResult, StatusResult, TrialReport
from stantune.search.results.contract import SearchSummary

DOCUMENT = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
COMMANDS: dict[str, type[BaseModel]] = {
    "stantune search": SearchSummary,
    "stantune train": TrainResult,
    "stantune brackets": PlanResult,
    "stantune problems": ProblemsResult,
    "stantune data fetch": DataResult,
    "stantune compare": CompareResult,
    "stantune study": StudySummary,
    "stantune entries": EntriesResult,
    "stantune profile": ProfileResult,
    "stantune doctor": DoctorResult,
    "stantune status": StatusResult,
    "stantune list": ListResult,
    "stantune show": TrialReport,
    "stantune export": ExportResult,
}
WORDS: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Any: "value",
    type(None): "null",
}


def kind(annotation: Any) -> str:
    """Return a field's type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (types.UnionType, Union):
        return " or ".join(map(kind, arguments))
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin is list:
        return "list of " + " or ".join(f"{words}s" for words in kind(arguments[0]).split(" or "))
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "object"
    return WORDS[annotation]


def parts(annotation: Any) -> tuple[str, type[BaseModel]] | None:
    """Return the model inside an annotation, and "[]" where there is a list of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "", annotation
    for argument in get_args(annotation):
        inner = parts(argument)
        if inner is not None:
            return ("[]" if get_origin(annotation) is list else "") + inner[0], inner[1]
    return None


def rows(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the table of a model's fields, the fields of its parts below them."""
    lines = []
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name} has no description"
        lines.append(f"| `{prefix}{name}` | {kind(field.annotation)} | {field.description} |")
        inside = parts(field.annotation)
        if inside is not None:
            lines += rows(inside[1], f"{prefix}{name}{inside[0]}.")
    return lines


def section(command: str) -> str:
    """Return what the document says of a command."""
    found = re.search(rf"^## `{command}`\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, f"no section on `{command}`"
    return found[1]


def all_keys(value: Any) -> Any:
    """Return the same nested value with its numbers and texts left out."""
    if isinstance(value, dict):
        return {key: all_keys(inner) for key, inner in value.items()}
    return [all_keys(inner) for inner in value] if isinstance(value, list) else None


def test_every_command_has_its_section() -> None:
    assert re.findall(r"^## `(.*?)`$", DOCUMENT, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_fields_are_those_of_the_models(command: str) -> None:
    documented = [line for line in section(command).splitlines() if line.startswith("| `")]
    assert "\n".join(documented) == "\n".join(rows(COMMANDS[command]))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_is_what_the_command_would_print(command: str) -> None:
    blocks = re.findall(r"```json\n(.*?)```", section(command), re.DOTALL)
    assert len(blocks) == 1
    example = json.loads(blocks[0])
    result = COMMANDS[command].model_validate(example, strict=True)
    # Not a field is left out in favour of its default.
    assert all_keys(example) == all_keys(result.model_dump(mode="json"))


def test_the_seconds_of_the_examples_add_up() -> None:
    for command in ("stantune search", "stantune train"):
        seconds = json.loads(re.findall(r"```json\n(.*?)```", section(command), re.DOTALL)[0])["seconds"]
        total = seconds["training"] + seconds["evaluation"] + seconds["coordination"]
        assert seconds["total"] == pytest.approx(total, abs=0.02)


def test_versions_are_told() -> None:
    for model in COMMANDS.values():
        version = model.model_fields["schema_version"].default
        assert re.fullmatch(r"stantune\.[a-z]+/[1-9]", version)
        assert f'"schema_version": "{version}"' in DOCUMENT
