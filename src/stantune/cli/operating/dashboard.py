"""`stantune dashboard`."""

from __future__ import annotations

from typing import Annotated

import typer

from stantune.cli import options as o
from stantune.cli.operating.directories import Directory, Storage

Host = Annotated[str, typer.Option("--host", help="The address to listen on; 0.0.0.0 for all of this machine's.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="The port to listen on; 0 for any that is free.")]


def dashboard(
    directory: Directory,
    storage: Storage = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    debug: o.Debug = False,
) -> None:
    """Show a search in Optuna's dashboard, in a browser, until Ctrl-C; nothing can be changed there."""
    from stantune.search.table.looking.dashboard import serving

    with serving(directory, storage, host, port) as server:
        print(f"the search in {directory} is at {server.url}; Ctrl-C ends this", flush=True)
        server.serve()
