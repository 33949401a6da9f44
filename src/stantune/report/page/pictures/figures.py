"""The pictures of the report page, as Plotly has them; their data are names of columns in the page's numbers.

So each number is in the page once. `{"column": "searches.0.trials.value"}` stands for that list; with "of" for the
places in it that another list names, and with "where" for those with this status. `resolved` puts the lists in, as the
page's script does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stantune.report.page.contract import ReportNumbers
from stantune.report.page.pictures.parameters import importance_of, parallel_of, slice_of
from stantune.report.page.pictures.picture import Picture
from stantune.report.page.pictures.rungs import flow_of
from stantune.report.page.pictures.training import best_so_far, curves_of, losses_of


def pictures_of(numbers: ReportNumbers, place: int) -> list[Picture]:
    """Return the pictures of the search at this place; those that would be empty are left out."""
    search = numbers.searches[place]
    found = [
        curves_of(search, place),
        losses_of(search, place),
        *best_so_far([search], (place,)),
        flow_of(search),
        importance_of(search, place),
        parallel_of(search, place),
        *(slice_of(search, place, parameter) for parameter in range(len(search.trials.params))),
    ]
    return [picture for picture in found if picture is not None]


def compared(numbers: ReportNumbers) -> list[Picture]:
    """Return the pictures of all searches side by side."""
    return best_so_far(numbers.searches, tuple(range(len(numbers.searches))))


def resolved(part: Any, numbers: Mapping[str, Any]) -> Any:
    """Return a picture's data with lists in place of names of columns; `numbers` are the page's, in plain values."""
    if isinstance(part, list | tuple):
        return [resolved(each, numbers) for each in part]
    if not isinstance(part, Mapping):
        return part
    if "column" not in part:
        return {name: resolved(value, numbers) for name, value in part.items()}
    column: Any = numbers
    *above, last = part["column"].split(".")
    for name in (*above, last):
        column = column[int(name)] if isinstance(column, list) else column[name]
    if "of" in part:
        places = resolved({"column": part["of"]}, numbers)
        if "where" in part:
            status = resolved({"column": part["status"]}, numbers)
            places = [place for place in places if status[place] == part["where"]]
        column = places if last == "sample" else [column[place] for place in places]
    return column
