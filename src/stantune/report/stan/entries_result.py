"""What `stantune entries` says beside its picture: its JSON and its lines on a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from stantune.report.stan.entries import EntriesReport
from stantune.report.tables import print_table
from stantune.search.results.contract import Result


class EntriesLayerResult(Result):
    """One use of one accelerated layer."""

    name: str = Field(description="its name in the network; from its second use on with the use's number")
    pattern: str = Field(description='"rows", "columns" or "blocks"; "all" where it computes every entry')
    height: int = Field(description="rows of its output")
    width: int = Field(description="columns of its output")
    kept: float = Field(description="share of the entries that are computed, 0 to 1")
    error: float = Field(description="norm of exact less filled output over that of the exact one; not in percent")
    image_errors: list[float] = Field(description="the same of each image alone")


class LeftAloneResult(Result):
    """One convolution that STAN does not change."""

    name: str = Field(description="its name in the network")
    reason: str = Field(description="why it is left alone")


class EntriesResult(Result):
    """`stantune entries --json`."""

    schema_version: Literal["stantune.entries/1"] = Field(default="stantune.entries/1", description="kind and version")
    problem: str = Field(description="the problem's name")
    seed: int = Field(description="what was given with --seed")
    rate: float | Literal["auto"] = Field(description="what was given with --rate; the least of several")
    tolerance: float | None = Field(description="what was given with --tolerance; null where nothing was")
    trained: int = Field(description="iterations trained before looking")
    iteration: int = Field(description="the reduced iteration whose entries are drawn, counted from 0")
    image_ids: list[int] = Field(
        description="the training images: their numbers in the data set, in the picture's order"
    )
    layers: list[EntriesLayerResult] = Field(description="the accelerated layers, in the order of the forward pass")
    left_alone: list[LeftAloneResult] = Field(description="the other convolutions")
    picture: str = Field(description="the PNG file")


def layer_results(report: EntriesReport) -> list[EntriesLayerResult]:
    """Return the figures of a report, without its maps."""
    return [
        EntriesLayerResult(
            name=layer.name,
            pattern=layer.pattern,
            height=layer.entries.shape[1],
            width=layer.entries.shape[2],
            kept=layer.kept,
            error=layer.error,
            image_errors=layer.image_errors.tolist(),
        )
        for layer in report.layers
    ]


def left_alone(lines: Iterable[tuple[str, str]]) -> list[LeftAloneResult]:
    """Return those of (name, reason) that have a reason."""
    return [LeftAloneResult(name=name, reason=reason) for name, reason in lines if reason]


def show_entries(console: Console, result: EntriesResult) -> None:
    """Print a table of the layers, and where the picture is."""
    console.print(entries_title(result.problem, result.iteration, result.trained), soft_wrap=True)
    table = Table("layer", "output", "pattern", "computed", "error", box=SIMPLE_HEAD)
    for column in table.columns[3:]:
        column.justify, column.no_wrap = "right", True
    for layer in result.layers:
        size = f"{layer.height} x {layer.width}"
        table.add_row(layer.name, size, layer.pattern, f"{100 * layer.kept:.1f} %", f"{layer.error:.3f}")
    print_table(console, table)
    for line in result.left_alone:
        console.print(f"layer {line.name or '(the model)'} is left alone: {line.reason}", soft_wrap=True)
    console.print("error: norm of exact less filled output, over the norm of the exact one", soft_wrap=True)
    console.print(f"picture in {result.picture}", soft_wrap=True)


def entries_title(problem: str, iteration: int, trained: int) -> str:
    """Return one line on what is drawn."""
    return f"{problem}: entries of STAN in reduced iteration {iteration}, after {trained} iterations of training"
