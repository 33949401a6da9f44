"""Prints tables so that no name and no number is cut: where the terminal is narrow, one part below the other."""

from __future__ import annotations

from collections.abc import Collection

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from stantune.texts import printable

_BOUNDLESS = 1_000_000
# Above, right of, below and left of a cell.
_CLOSE = (0, 1, 0, 0)


def print_table(console: Console, table: Table, labels: Collection[int] = (0,)) -> None:
    """Print a table; one that is too wide has its columns closer together, and then in several tables.

    Args:
        console: where.
        table: its cells are texts. Columns that are not `no_wrap` may be as narrow as their longest words.
        labels: the places of the columns that say what a row is, and are in each part.
    """
    every = range(len(table.columns))
    if _least_width(console, _part(table, every)) > console.width:
        table.padding = _CLOSE
    part: list[int] = []
    for place in every:
        if place not in labels:
            wider = sorted({*labels, *part, place})
            if part and _least_width(console, _part(table, wider)) > console.width:
                _print(console, _part(table, sorted({*labels, *part})))
                part = []
            part.append(place)
    _print(console, _part(table, sorted({*labels, *part})))


def hold_numbers(table: Table, first: int) -> None:
    """Have all columns from `first` on hold numbers."""
    for column in table.columns[first:]:
        column.justify, column.no_wrap = "right", True


def _part(table: Table, places: Collection[int]) -> Table:
    """Return a table of some of the columns, its texts as they are shown: their widths are measured."""
    columns = [table.columns[place] for place in places]
    part = Table(box=table.box, pad_edge=table.pad_edge, padding=table.padding)
    for column in columns:
        # A head may have several lines.
        lines = str(column.header).split("\n")
        part.add_column(Text("\n".join(map(printable, lines))), justify=column.justify, no_wrap=column.no_wrap)
    for row, cells in zip(table.rows, zip(*(column.cells for column in columns), strict=True), strict=True):
        part.add_row(*(printable(str(cell)) for cell in cells), end_section=row.end_section)
    return part


def _print(console: Console, table: Table) -> None:
    """Print a table in the terminal's width, or as narrow as it can be."""
    excess = _width(console, table) - console.width
    for column in sorted((column for column in table.columns if not column.no_wrap), key=_widest, reverse=True):
        column.width = max(_widest(column) - max(excess, 0), _longest_word(column))
        excess -= _widest(column) - column.width
    table.width = _width(console, table)
    # What is still too wide is wrapped by the terminal, and not cut.
    console.print(table, soft_wrap=True)


def _width(console: Console, table: Table) -> int:
    return Measurement.get(console, console.options.update(width=_BOUNDLESS), table).maximum


def _least_width(console: Console, table: Table) -> int:
    spare = sum(_widest(column) - _longest_word(column) for column in table.columns if not column.no_wrap)
    return _width(console, table) - spare


def _widest(column: Column) -> int:
    return max(map(cell_len, "\n".join(map(str, (column.header, *column.cells))).split("\n")))


def _longest_word(column: Column) -> int:
    return max(map(cell_len, " ".join(map(str, (column.header, *column.cells))).split()), default=0)
