"""Tables on narrow terminals: no name and no number is cut or torn apart, and all of them are there."""

from __future__ import annotations

import io

import pytest
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from stantune.report.tables import print_table

NAMES = ["validation error", "features.conv1_l2", "lr"]
TRIALS = ["trial 16", "trial 10", "trial 3", "trial 100000"]
VALUES = [["11.20 %", "0.0006123", "1.3e-05"], ["6.31 %", "0.1302", "5"], ["7 %", "1.249", "2"], ["8 %", "-", "0.25"]]


def best_trials() -> Table:
    table = Table("best trials", *TRIALS, box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for number, name in enumerate(NAMES):
        table.add_row(name, *(values[number] for values in VALUES), end_section=number == 0)
    return table


def printed(table: Table, width: int, **options: object) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    print_table(console, table, **options)  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 70, 60, 50, 40, 33, 30, 20, 5])
def test_all_is_there_whole(width: int) -> None:
    lines = printed(best_trials(), width)
    text = " ".join(" ".join(lines).split())
    for whole in ["validation", "error", "features.conv1_l2", *TRIALS, *(value for each in VALUES for value in each)]:
        assert f" {whole} " in f" {text} ", text
    assert "…" not in text
    if width >= 34:
        assert max(map(len, lines)) <= width


def test_a_wide_terminal_has_one_table() -> None:
    wide = printed(best_trials(), 200)
    assert wide == printed(best_trials(), 100)
    (error,) = [line for line in wide if "error" in line]
    assert error.split() == ["validation", "error", "11.20", "%", "6.31", "%", "7", "%", "8", "%"]
    assert sum("lr" in line for line in wide) == 1


def test_a_narrow_one_has_fewer_columns_each_with_the_names() -> None:
    lines = printed(best_trials(), 46)
    assert [line.split()[2:] for line in lines if "trials" in line] == [
        ["trial", "16", "trial", "10"],
        ["trial", "3", "trial", "100000"],
    ]
    assert sum("features.conv1_l2" in line for line in lines) == 2


def test_words_of_a_long_label_are_kept_whole() -> None:
    table = Table("where the time went", "", box=SIMPLE_HEAD)
    table.columns[1].justify, table.columns[1].no_wrap = "right", True
    table.add_row("saved by continuing instead of restarting", "about 14.2 s")
    text = printed(table, 40)
    assert max(map(len, text)) <= 40
    assert [word for line in text[3:] for word in line.split() if word] == (
        ["saved", "by", "continuing", "about", "14.2", "s", "instead", "of", "restarting"]
    )


def test_several_columns_may_say_what_a_row_is() -> None:
    table = Table("layer", "t_f\nms", "pattern", "t_i\nms", "error", box=SIMPLE_HEAD)
    table.add_row("features.0", "123.45", "columns", "12.34", "0.123")
    table.add_row("", "", "blocks", "23.45", "0.234")
    lines = printed(table, 36, labels=(0, 2))
    assert sum("columns" in line for line in lines) == sum("blocks" in line for line in lines) == 2
    assert max(map(len, lines)) <= 36


def test_a_table_without_rows_has_its_head() -> None:
    assert "best trials" in printed(Table("best trials", "trial 1", box=SIMPLE_HEAD), 80)[1]
