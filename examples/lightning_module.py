"""A search of a Lightning module's settings: handwritten digits, with STAN in its convolutions.

    python examples/lightning_module.py

What a search needs is below: a LightningModule that is made from a setting, a function that gives its loaders, and an
objective that puts them together with a space. Every trial goes on from Lightning's own checkpoints; the best setting
is trained once more in the end, exactly, and its weights are read by `Digits.load_from_checkpoint`.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import stantune as st
from stantune.images.data import fetch, load
from stantune.objectives.lightning.objective import LightningObjective

IMAGES, VALIDATION = 2_000, 1_000


class Digits(LightningModule):
    """A small convolutional network."""

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.momentum, width = params["lr"], params["momentum"], params["width"]
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(params["dropout"]),
            nn.Linear(32 * width, 10),
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_error", 100 * self.wrong(batch))

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_error", 100 * self.wrong(batch))

    def wrong(self, batch: list[Tensor]) -> Tensor:
        """Return the share of wrong answers."""
        return (self.net(batch[0]).argmax(1) != batch[1]).float().mean()

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), self.lr, self.momentum)
        # Over the longest training of the search, however early a trial is dropped.
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loaders(params: dict[str, Any]) -> tuple[DataLoader, DataLoader, DataLoader]:
    """Return loaders for training, validation and test."""
    fetch("mnist")
    mnist = load("mnist")
    parts = mnist.train.take(0, IMAGES), mnist.train.take(50_000, 50_000 + VALIDATION), mnist.test
    sets = [TensorDataset(part.inputs.permute(0, 3, 1, 2).float() / 255, part.targets) for part in parts]
    train, validation, test = sets
    return DataLoader(train, 50, shuffle=True), DataLoader(validation, 500), DataLoader(test, 500)


objective = LightningObjective(
    Digits,
    loaders,
    st.Space(
        {
            "lr": st.Float(0.003, 0.3, log=True),
            "momentum": st.Float(0, 0.95),
            "width": st.Integer(6, 20, log=True),
            "dropout": st.Float(0, 0.5),
        }
    ),
    monitor="val_error",
    mode="min",
    length=9,
    stan=st.Stan(rate=0.5),
)

if __name__ == "__main__":
    print(st.tune(objective, workers=2, out="runs/digits"))
