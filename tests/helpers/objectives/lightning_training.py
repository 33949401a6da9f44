"""A module with all that a cut could disturb, and its trainings by Lightning, whole and in segments."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import torch
from lightning.pytorch import LightningModule
from segments import trained
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from stantune.objectives.lightning.objective import LightningObjective
from stantune.parameters import Float, Integer
from stantune.protocols import Segment
from stantune.space import Space
from stantune.stan.config import Stan

SPACE = Space({"lr": Float(0.001, 1, log=True), "width": Integer(2, 32)})
PARAMS = {"lr": 0.1, "width": 8}


def module_of(base):
    class Net(base):
        """Has dropout, batch norm, momentum, a schedule over max_epochs, and random choices of all three kinds."""

        def __init__(self, params):
            super().__init__()
            self.lr = params["lr"]
            self.net = nn.Sequential(
                nn.Conv2d(1, params["width"], 3, padding=1),
                nn.BatchNorm2d(params["width"]),
                nn.ReLU(),
                nn.Dropout(0.3),
                nn.Flatten(),
                nn.Linear(36 * params["width"], 3),
            )

        def training_step(self, batch, batch_idx):
            noise = random.random() + np.random.rand()
            loss = cross_entropy(self.net(batch[0] + 0.01 * noise), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            scores = self.net(batch[0])
            self.log("val_loss", cross_entropy(scores, batch[1]))
            self.log("accuracy", (scores.argmax(1) == batch[1]).float().mean())

        def test_step(self, batch, batch_idx):
            self.log("test_loss", cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, self.lr, total_steps=self.trainer.estimated_stepping_batches
            )
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Net


Net = module_of(LightningModule)


def dataset(count=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 6, 6, generator=generator)
    return TensorDataset(images, (images[:, 0, 0, 0] > 0).long() + (images[:, 0, 1, 1] > 0).long())


def loaders(params, **more):
    train = DataLoader(dataset(), batch_size=10, shuffle=True, **more)
    return train, DataLoader(dataset(30, 1), batch_size=10), DataLoader(dataset(30, 2), batch_size=10)


def objective(module=Net, data=loaders, **more) -> LightningObjective:
    """Of six epochs."""
    return LightningObjective(module, data, **{"space": SPACE, "whole": 6, **more})


def segment(folder, start, stop, **more) -> Segment:
    """Of trial 3, in a folder."""
    values = {"trial": 3, "params": PARAMS, "seed": 2**62 + 1, "checkpoint": Path(folder) / "trial-3.pt", **more}
    return Segment(start=start, stop=stop, **values)


def kept(path):
    return torch.load(path, weights_only=True)


def same_state(one, other):
    """Everything that Lightning keeps, but for the note: compared bit by bit."""
    one, other = ({k: v for k, v in kept(path).items() if k != "stantune"} for path in (one, other))

    def same(a, b, where):
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b), where
        elif isinstance(a, dict):
            assert list(a) == list(b), where
            for key in a:
                same(a[key], b[key], f"{where}.{key}")
        elif isinstance(a, list | tuple):
            assert len(a) == len(b), where
            for place, (mine, theirs) in enumerate(zip(a, b, strict=True)):
                same(mine, theirs, f"{where}.{place}")
        else:
            assert a == b, where

    for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        same(one[key], other[key], key)


def check_segments(tmp_path, what, stops=(2, 6), **more):
    """0 to 2 to 6 gives what 0 to 6 gives."""
    whole = trained(what, segment(tmp_path / "whole", 0, stops[-1], **more))
    start = 0
    for stop in stops:
        outcome = trained(what, segment(tmp_path / "cut", start, stop, **more))
        start = stop
    assert outcome == whole
    same_state(tmp_path / "cut/trial-3.pt", tmp_path / "whole/trial-3.pt")
    return whole


STAN = Stan(rate=0.25, period=2)


def as_others_find_it(path: Path, *values: object) -> None:
    """Write a pickle for a process that cannot import this module."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    path.write_bytes(cloudpickle.dumps(values))
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
