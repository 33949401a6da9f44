"""Trainings that are under way, a file each, so that a comparison that was killed goes on in the middle of a seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stantune.errors import CheckpointError
from stantune.training import checkpoint as checkpoints
from stantune.training.together.randomness import OwnRandom
from stantune.training.trial import Trial


@dataclass(frozen=True)
class UnderWay:
    """Where the trainings of a seed are kept until all of them are finished.

    Attributes:
        files: of each training, in their order.
        identities: what each depends on.
    """

    files: tuple[Path, ...]
    identities: tuple[str, ...]

    @classmethod
    def of(cls, directory: Path, seed: int, trainings: Mapping[str, Mapping[str, Any]]) -> UnderWay:
        """Name the files of trainings by their names; what each depends on is in the mapping."""
        return cls(
            tuple(directory / f"seed-{seed}-{name}.pt" for name in trainings),
            tuple(json.dumps({**what, "seed": seed}, sort_keys=True) for what in trainings.values()),
        )

    def restore(self, place: int, trial: Trial) -> int | None:
        """Put a training back to where it was kept, if it was; return the iteration at which it had diverged.

        Within the training's own random states (`OwnRandom.here`), and so is `keep`.

        Raises CheckpointError where the file is damaged, or of something else.
        """
        kept = checkpoints.load(self.files[place], self.identities[place])
        if kept is None:
            return None
        try:
            trial.restore(kept["trial"])
            # Files of before have none of Python's and NumPy's.
            if "random_others" in kept:
                OwnRandom.restore(kept["random_others"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint {self.files[place]} does not fit the network that is compared now; undo the change, or "
                "delete the file and it is trained again from its first iteration"
            ) from error
        diverged_at: int | None = kept["diverged_at"]
        return diverged_at

    def keep(self, place: int, trial: Trial, diverged_at: int | None) -> None:
        """Keep a training as it is now; raises StantuneError where that cannot be written."""
        kept = {"trial": trial.state(), "diverged_at": diverged_at, "random_others": OwnRandom.state()}
        checkpoints.save(self.files[place], self.identities[place], kept)

    def discard(self) -> None:
        """Delete the files: what they led to is kept elsewhere by now."""
        for file in self.files:
            file.unlink(missing_ok=True)
