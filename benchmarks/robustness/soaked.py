"""What soak.py kills: searches whose every end can be compared, of each kind of objective.

A training is short, and where it is disturbed it is saved all the time, so that a kill meets each of the states that a
long one is saved in: `OFTEN` in the environment asks for that.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import stantune as st
from stantune.errors import DamagedCheckpointError
from stantune.files import write_whole

PROGRAM = Path(__file__).parents[2] / "examples" / "spirals.py"
# The name of a variable, which is set where trainings are to be saved all the time.
OFTEN = "STANTUNE_SOAK"
PAUSE_SECONDS = 0.003
FINALISTS = 2
EPOCHS = 9


class Soaked(NamedTuple):
    """A search: its objective, and how it is called.

    Attributes:
        objective: what st.tune takes.
        options: of that call.
    """

    objective: Any
    options: Mapping[str, Any]


# ---- hashes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HashChains:
    """Trains by hashing: an iteration that is done twice, left out, or gone on with from an older state is found out.

    A trial's training is a chain of hashes whose last link is its error; its checkpoint is how far the chain is. See
    stantune.Objective.
    """

    name: str = "chains"
    space: st.Space = field(
        default_factory=lambda: st.Space({"lr": st.Float(1e-3, 1.0, log=True), "momentum": st.Float(0.0, 0.9)})
    )
    metric: st.Metric = field(default_factory=lambda: st.Metric("error", unit="%"))
    unit: str = "iteration"
    length: int = 27
    rate: float | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The name."""
        return {"problem": self.name}

    def prepared(self, conditions: st.Conditions) -> st.Prepared:
        """See Objective."""
        return st.Prepared(self, 1)

    def trainer(self, place: st.Place) -> Hashing:
        """See Objective."""
        return Hashing()


class Hashing:
    """See stantune.Trainer."""

    def train(self, segment: st.Segment, stop_early: Callable[[], bool], watch: Callable[[int], None]) -> st.Outcome:
        """See Trainer."""
        start, stop, setting = segment.start, segment.stop, sorted(segment.params.items())
        done, link = _load(segment.checkpoint)
        while done < stop:
            time.sleep(PAUSE_SECONDS)
            done += 1
            link = hashlib.blake2b(f"{link} {done} {setting}".encode(), digest_size=8).hexdigest()
            _save(segment.checkpoint, done, link)
            watch(done)
            if done < stop and stop_early():
                return st.Outcome(done, {}, None, True, st.Cost(exact=done - start))
        number = int(link, 16)
        cost = st.Cost(exact=stop - start)
        if number % 16 == 0 and not segment.final:
            return st.Outcome(stop, {}, start, False, cost)
        return st.Outcome(
            stop, {"error": number % 10_007 / 100.07, "another": number % 9_973 / 99.73}, None, False, cost
        )


def _load(checkpoint: Path) -> tuple[int, str]:
    if not checkpoint.exists():
        return 0, ""
    try:
        done, link = json.loads(checkpoint.read_text())
    except ValueError as error:
        raise DamagedCheckpointError(f"{checkpoint} is damaged") from error
    return done, link


def _save(checkpoint: Path, done: int, link: str) -> None:
    checkpoint.parent.mkdir(exist_ok=True)
    write_whole(checkpoint, json.dumps([done, link]).encode())


def chains() -> Soaked:
    """Hashes, which need no PyTorch: most of the kills in a short time."""
    return Soaked(HashChains(), {"max_resource": 27, "min_resource": 1})


# ---- a Problem ----------------------------------------------------------------------------------------------------


def corners(root: Path | None) -> Any:
    """Return images of noise (N, 8, 8, 1), in each of which one of four corners is lit."""
    import torch

    choose = torch.Generator().manual_seed(0)

    def split(count: int) -> st.Split:
        labels = torch.randint(4, (count,), generator=choose)
        pixels = torch.randint(100, (count, 8, 8, 1), generator=choose)
        for image, label in zip(pixels, labels.tolist(), strict=True):
            image[4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 40
        return st.Split(pixels.to(torch.uint8), labels, torch.arange(count))

    return st.Dataset("corners", split(300), split(60), 4)


def network(dropout: float = 0.0) -> Any:
    """Return a new network: images (B, 1, 8, 8) to scores (B, 4)."""
    from torch import nn

    layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout)
    return nn.Sequential(*layers, nn.Linear(256, 4))


def problem() -> Soaked:
    """A Problem, with dropout and batch norm."""
    what = st.Problem(
        name="corners",
        network=network,
        data=corners,
        space=st.Space({"lr": st.Float(1e-5, 10, log=True), "dropout": st.Float(0.0, 0.9)}),
        solver=st.Solver(lr=1e-3, momentum=0.9, weight_decay=0.0),
        iterations=81,
        batch_size=10,
        validation=60,
        hold_out="last",
    )
    return Soaked(what, {"max_resource": 81, "min_resource": 9})


# ---- a loop of one's own ------------------------------------------------------------------------------------------


def moons() -> tuple[Any, Any]:
    """Return points (200, 2) of two classes, and which they are (200,)."""
    import torch

    choose = torch.Generator().manual_seed(0)
    points = torch.randn(200, 2, generator=choose)
    return points, (points.prod(1) > 0).long()


def train(run: st.Run) -> dict[str, float]:
    """Train with all that keeps a state: dropout, AdamW, a schedule, a loader that shuffles, a running average."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from stantune.objectives.function import course

    if OFTEN in os.environ:
        course.SAVE_SECONDS = 0.0
    points, labels = moons()
    width = run.params["width"]
    model = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 2))
    optimizer = torch.optim.AdamW(model.parameters(), run.params["lr"], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    average: dict[str, float] = {"loss": 0.0}
    run.keep(model=model, optimizer=optimizer, schedule=schedule, average=average)
    loader = DataLoader(TensorDataset(points[:120], labels[:120]), batch_size=16, shuffle=True)
    for _ in run.steps():
        for x, y in loader:
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.loss(loss)
            average["loss"] = 0.9 * average["loss"] + 0.1 * loss.item()
            time.sleep(PAUSE_SECONDS)
        schedule.step()
    model.eval()
    with torch.inference_mode():
        error = nn.functional.cross_entropy(model(points[120:]), labels[120:]).item()
    return {"error": error, "average": average["loss"]}


def loop() -> Soaked:
    """A function that trains."""
    space = st.Space({"lr": st.Float(1e-4, 1, log=True), "width": st.Integer(4, 32)})
    return Soaked(train, {"space": space, "minimize": "error", "max_resource": EPOCHS, "min_resource": 1})


# ---- Lightning ----------------------------------------------------------------------------------------------------


def module(params: dict[str, Any]) -> Any:
    """Return a LightningModule, of a class that is made where Lightning is imported."""
    import torch
    from lightning.pytorch import LightningModule
    from torch import nn

    from stantune.objectives.lightning import objective as ours

    if OFTEN in os.environ:
        ours.SAVE_SECONDS, ours.SAVE_SETUPS = 0.0, 0

    class Classifier(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            width = params["width"]
            self.net = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 2))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            time.sleep(PAUSE_SECONDS)
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), params["lr"])
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(self.trainer.max_epochs or 1))
            return {"optimizer": optimizer, "lr_scheduler": schedule}

    return Classifier()


def loaders(params: dict[str, Any]) -> tuple[Any, Any]:
    """Return loaders for training, which shuffles, and validation."""
    from torch.utils.data import DataLoader, TensorDataset

    points, labels = moons()
    learnt, held_out = TensorDataset(points[:120], labels[:120]), TensorDataset(points[120:], labels[120:])
    return DataLoader(learnt, 16, shuffle=True), DataLoader(held_out, 80)


def lightning() -> Soaked:
    """A Lightning module."""
    space = st.Space({"lr": st.Float(1e-4, 1, log=True), "width": st.Integer(4, 32)})
    what = st.LightningObjective(module, loaders, space, name="classifier", length=EPOCHS)
    return Soaked(what, {"max_resource": EPOCHS, "min_resource": 1})


# ---- a command ----------------------------------------------------------------------------------------------------


def command() -> Soaked:
    """A shell's line: plain Python, and another program that its output goes through to a file of the state folder."""
    what = st.CommandObjective(
        f"{{python}} {PROGRAM} --lr {{lr}} --momentum 0.9 --hidden {{hidden}}"
        " --from {start} --until {stop} --seed {seed} --state {dir} | tee -a {dir}/said",
        st.Space({"lr": st.Float(0.001, 1, log=True), "hidden": st.Integer(2, 32, log=True)}),
        metric=st.Metric("error", "minimize", "%"),
        length=27,
        shell=True,
    )
    return Soaked(what, {"max_resource": 27, "min_resource": 1})


OBJECTIVES: Mapping[str, Callable[[], Soaked]] = {
    "chains": chains,
    "problem": problem,
    "loop": loop,
    "lightning": lightning,
    "command": command,
}
