"""What moves the schedule of Lightning's callback, and what does not: steps, however they are made, and none."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning_fits import Classifier, loader, trainer
from torch import nn
from torch.nn.functional import cross_entropy

from stantune import Stan
from stantune.errors import StanWarning
from stantune.integrations.lightning import StanCallback

pytestmark = pytest.mark.filterwarnings("ignore")
STAN = Stan(rate=0.25, period=2, pretrain=1)


class Sam(torch.optim.Optimizer):
    """Takes one step away from the minimum and one of another optimizer's back, and none of its own."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {})
        self.base = torch.optim.SGD(self.param_groups, lr)

    @torch.no_grad()
    def move(self, factor):
        for parameter in self.param_groups[0]["params"]:
            parameter += factor * parameter.grad.sign()

    def back(self):
        self.base.step()


class Past(Classifier):
    """Steps past Lightning's wrapper: an optimizer of PyTorch's, SAM, or none at all."""

    def __init__(self, task, how):
        super().__init__(task, manual=True)
        self.how = how

    def training_step(self, batch, batch_idx):
        self.seen.append(self.task.grids(self.net))
        self.zero_grad()
        self.manual_backward(cross_entropy(self(batch[0]), batch[1]))
        optimizer = self.optimizers(use_pl_optimizer=False)
        if self.how == "torch":
            optimizer.step()
        elif self.how == "sam":
            optimizer.move(1e-3)
            optimizer.move(-1e-3)
            optimizer.back()
        else:
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter -= self.task.lr * parameter.grad

    def configure_optimizers(self):
        return (Sam if self.how == "sam" else torch.optim.SGD)(self.parameters(), self.task.lr)


@pytest.mark.parametrize("how", ["torch", "sam"])
def test_steps_past_lightnings_wrapper_count(task, tmp_path, how):
    _, grids = task.plain(STAN, 15)
    module, callback = Past(task, how), StanCallback(STAN)
    runner = trainer(callback)
    runner.fit(module, loader(task))
    assert module.seen == grids[:10]
    assert (callback.handle.iteration, runner.global_step) == (10, 0)
    runner.save_checkpoint(tmp_path / "saved.ckpt")
    runner.fit_loop.max_epochs = 3
    runner.fit(module, loader(task))
    assert module.seen == grids
    resumed = Past(task, how)
    trainer(StanCallback(STAN), max_epochs=3).fit(resumed, loader(task), ckpt_path=tmp_path / "saved.ckpt")
    assert resumed.seen == grids[10:]
    # No optimizer tells the callback any more.
    assert not callback._hooks
    callback._stepped = False
    (runner.optimizers[0] if how == "torch" else runner.optimizers[0].base).step()
    assert not callback._stepped


class Late(Classifier):
    """Steps in its own on_train_batch_end, which comes after callbacks'; of two optimizers the first before it."""

    def __init__(self, task, late):
        super().__init__(task, manual=True)
        self.late = late

    def training_step(self, batch, batch_idx):
        self.seen.append(self.task.grids(self.net))
        self.zero_grad()
        self.manual_backward(cross_entropy(self(batch[0]), batch[1]))
        for optimizer in self.optimizers()[self.late :]:
            optimizer.step()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for optimizer in self.optimizers()[: self.late]:
            optimizer.step()


@pytest.mark.parametrize("late", [1, 2])
@pytest.mark.parametrize("batches", [1, 5])
def test_steps_in_the_modules_own_hook_count_once(task, recwarn, late, batches):
    _, grids = task.plain(STAN, 15)
    module, callback = Late(task, late), StanCallback(STAN)
    runner = trainer(callback, limit_train_batches=batches)
    runner.fit(module, loader(task))
    assert callback.handle.iteration == 2 * batches
    runner.fit_loop.max_epochs = 3
    runner.fit(module, loader(task))
    assert callback.handle.iteration == 3 * batches
    assert module.seen == grids[: 3 * batches]
    assert not [each for each in recwarn if each.category is StanWarning]


def test_where_no_optimizer_steps_it_is_said_once(task):
    module, callback = Past(task, "by hand"), StanCallback(STAN)
    with pytest.warns(StanWarning, match=r"STAN stood still for an epoch: .* self\.optimizers\(\)\.step\(\)") as said:
        trainer(callback).fit(module, loader(task))
    assert [each.category for each in said].count(StanWarning) == 1
    assert (callback.stands, callback.handle.iteration) == (True, 0)
    trainer(callback).fit(Classifier(task), loader(task))
    assert not callback.stands


def test_averaged_weights_are_given_statistics_of_exact_passes(task):
    class Normed(Classifier):
        def __init__(self, task):
            super().__init__(task)
            self.net = nn.Sequential(self.net[0], nn.BatchNorm2d(4), *self.net[1:])

    module, callback = Normed(task), StanCallback(Stan(rate=0.25, period=None))
    # Without a validation behind it Lightning would take the last step once more, and have other weights.
    runner = trainer([callback, StochasticWeightAveraging(0.05, swa_epoch_start=1)])
    runner.fit(module, loader(task), loader(task))
    assert all(grid is not None for grids in module.seen[:10] for grid in grids)
    assert module.seen[10:] == [[None, None]] * 5
    assert callback.handle.iteration == 10
    with torch.no_grad():
        means = [module.net[0](images).mean((0, 2, 3)) for images in task.images.split(2)]
    torch.testing.assert_close(module.net[1].running_mean, torch.stack(means).mean(0))
