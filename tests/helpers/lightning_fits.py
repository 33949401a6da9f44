"""A tiny task's LightningModule, its loader, and a Trainer that says nothing."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn.functional import conv2d, cross_entropy
from torch.utils.data import DataLoader, TensorDataset


def training_of(base):
    """The LightningModule of either package; `seen` holds the grids of each training batch."""

    class Classifier(base):
        def __init__(self, task, fail_at=None, failure=RuntimeError, manual=False):
            super().__init__()
            self.task = task
            self.net = task.network()
            self.seen = []
            self.exact = []
            self.fail_at = fail_at
            self.failure = failure
            self.automatic_optimization = not manual

        def forward(self, images):
            return self.net(images)

        def training_step(self, batch, batch_idx):
            self.seen.append(self.task.grids(self.net))
            if len(self.seen) == self.fail_at:
                raise self.failure
            loss = cross_entropy(self(batch[0]), batch[1])
            if not self.automatic_optimization:
                for optimizer in self.optimizers():
                    optimizer.zero_grad()
                self.manual_backward(loss)
                for optimizer in self.optimizers():
                    optimizer.step()
            return loss

        def validation_step(self, batch, batch_idx):
            first = self.net[0]
            self.exact.append(torch.equal(first(batch[0]), conv2d(batch[0], first.weight, first.bias, padding=1)))

        def configure_optimizers(self):
            if self.automatic_optimization:
                return torch.optim.SGD(self.parameters(), self.task.lr)
            return [torch.optim.SGD(self.net[i].parameters(), self.task.lr) for i in (0, 2)]

    return Classifier


Classifier = training_of(LightningModule)


def loader(task):
    return DataLoader(TensorDataset(task.images, task.labels, torch.arange(10)), batch_size=2)


def trainer(callback, package=Trainer, **settings):
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return package(
        callbacks=[callback] if not isinstance(callback, list) else callback,
        **{"enable_checkpointing": False, "max_epochs": 2, **quiet, **settings},
    )
