"""`stantune doctor`."""

from __future__ import annotations

from stantune.cli import options as o
from stantune.cli.output import console_for, say_loading, write_json


def doctor(data: o.Data = None, json: o.Json = None, threads: o.Threads = None, debug: o.Debug = False) -> None:
    """Say what is installed and found here, which native kernels run and why, and how fast one block is."""
    say_loading("PyTorch", json)
    from stantune.process.runtime import tune_process
    from stantune.report.diagnosis import diagnose
    from stantune.report.doctor import show_doctor

    console = console_for(json)
    result = diagnose(tune_process(threads), data)
    show_doctor(console, result)
    write_json(result, json)
