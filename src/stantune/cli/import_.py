"""`stantune import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stantune.cli import options as o
from stantune.errors import StantuneError, UsageError

Network = Annotated[str, typer.Argument(metavar="FILE.prototxt", help="Caffe's file of a network, as it is trained.")]
Solver = Annotated[Path, typer.Option("--solver", metavar="FILE", help="Its solver's file.")]
Dataset = Annotated[str, typer.Option("--dataset", metavar="NAME", help="The built-in data set that it trains on.")]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE.py", help="A new file for it (default: standard output).")
]


def import_caffe(
    network: Network,
    solver: Solver,
    dataset: Dataset,
    batch_size: o.CaffeBatchSize = None,
    out: Out = None,
    debug: o.Debug = False,
) -> None:
    """Write Caffe's network and solver as the Python problem that they amount to, to be read and changed.

    It trains as the files themselves, bit for bit: stantune search FILE.py.
    """
    from stantune.images.prototxt.writing import as_python

    text = as_python(network, solver, dataset, batch_size=batch_size)
    if out is None:
        print(text, end="")
        return
    if out.suffix != ".py":
        raise UsageError(f"--out {out} does not end in .py, as Python's files do; name one that does")
    try:
        # Never over another file, which may be one that was written before and has been changed since.
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"--out {out} is there already; name another file, or move that one away") from None
    except OSError as error:
        raise StantuneError(f"--out {out} cannot be written ({error.strerror}); name another file") from error
