"""The options of `stantune search` and `brackets` in their help, by what they are about."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

# By parameters of the command. What is in none of them comes first.
PANELS: dict[str, tuple[str, ...]] = {
    "Caffe's files": ("solver", "dataset", "batch_size"),
    "Size": (
        "quick",
        "max_iterations",
        "min_iterations",
        "eta",
        "plan",
        "brackets",
        "variant",
        "mode",
        "trials",
        "finalists",
        "final",
        "final_iterations",
        "budget",
    ),
    "Sampling": ("sampler", "lag", "validation", "start_from", "enqueue", "set", "seed"),
    "STAN": ("accelerate", "rate", "tolerance", "period", "pretrain", "tail", "layers"),
    "Small images": ("resize",),
    "Where it runs": (
        "workers",
        "together",
        "engine",
        "address",
        "checkpoints",
        "threads",
        "device",
        "precision",
        "compile",
        "data",
        "trial_timeout",
        "trial_memory",
        "retries",
    ),
    "Output": (
        "out",
        "storage",
        "json",
        "log",
        "fresh",
        "accept_changes",
        "yes",
        "config",
        "show_config",
        "debug",
        "help",
    ),
}


class PanelledCommand(TyperCommand):
    """Shows its options in several sections."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """See TyperCommand."""
        panels = {name: panel for panel, names in PANELS.items() for name in names}
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], **{panel: [] for panel in PANELS}}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                other = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections[panels.get(parameter.name or "", other)].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
