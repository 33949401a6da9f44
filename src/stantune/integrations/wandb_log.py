"""A logger for Weights & Biases: a group for the search, and a run for each training."""

from __future__ import annotations

from typing import Any

from stantune.errors import StantuneError
from stantune.search.results.columns import metric_columns
from stantune.search.telling.loggers import LoggedSearch, LoggedSegment, LoggedTraining


class WandbLogger:
    """Writes to the project with the name of what is searched, or to the one that it is given.

    A run is opened for each segment and closed after it. With WANDB_MODE=offline each leaves a part of its training's
    run on disk, and what becomes of several parts is up to `wandb sync`; see docs/loggers.md.
    """

    def __init__(self, project: str | None = None) -> None:
        """Write to a project; raises StantuneError where W&B is not installed."""
        try:
            import wandb
        except ImportError as error:
            raise StantuneError("Weights & Biases is not installed; pip install 'stantune[wandb]'") from error
        self.name = "wandb" if project is None else f"wandb={project}"
        self._wandb, self._project = wandb, project
        self._search: LoggedSearch | None = None

    def begin(self, search: LoggedSearch) -> None:
        """See Logger."""
        self._search = search

    def training(self, training: LoggedTraining) -> None:
        """See Logger: its run is opened with its first segment."""

    def segment(self, training: LoggedTraining, segment: LoggedSegment) -> None:
        """See Logger."""
        assert self._search is not None, "a search begins before its trainings"
        # Step by step upwards: W&B passes over those that a run has already.
        logged: dict[int, dict[str, Any]] = {}
        for count, mean in segment.losses:
            logged[count] = {"loss": mean, "losses": count}
        last = max(logged, default=0)
        for iterations, metrics in segment.measured.items():
            # Where losses are told by their number, what was measured stands beside the last of them.
            step = last if segment.losses and iterations == segment.iterations else iterations
            keys = metric_columns(metrics, ["loss", "losses", self._search.unit])
            found = {keys[name]: value for name, value in metrics.items()}
            logged.setdefault(step, {}).update({**found, self._search.unit: iterations})
        with self._open(training) as run:
            for step in sorted(logged):
                run.log(logged[step], step=step)

    def ended(self, training: LoggedTraining, how: str) -> None:
        """See Logger."""
        with self._open(training) as run:
            run.summary["ended"] = how

    def close(self) -> None:
        """See Logger."""

    def _open(self, training: LoggedTraining) -> Any:
        search = self._search
        assert search is not None, "a search begins before its trainings"
        return self._wandb.init(
            project=self._project or search.key.rpartition("-")[0],
            group=search.key,
            id=f"{search.key}-{training.name}",
            name=training.name,
            config={
                name: value if isinstance(value, int | float) else str(value) for name, value in training.params.items()
            },
            dir=str(search.directory),
            resume="allow",
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off"),
        )
