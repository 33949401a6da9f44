"""Lightning really trains under the callback, and agrees with the plain loop bit for bit."""

from __future__ import annotations

import importlib
import signal
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_fits import Classifier, loader, trainer, training_of
from torch import nn
from torch.utils.data import DataLoader

from stantune import Stan, StantuneError
from stantune.errors import UsageError
from stantune.integrations.lightning import StanCallback
from stantune.stan.config import Memo

pytestmark = pytest.mark.filterwarnings("ignore")
STAN = Stan(rate=0.25, period=2, pretrain=1)
MEMO = Stan(rate=0.25, period=1, memo=Memo(samples=10, epoch=5))


def ids(batch):
    return batch[2]


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_either_package_trains_as_the_plain_loop_does(task, name):
    package = importlib.import_module(name)
    module = training_of(package.LightningModule)(task)
    callback = StanCallback(STAN)
    assert isinstance(callback, package.Callback)
    trainer(callback, package.Trainer, val_check_interval=2).fit(module, loader(task), loader(task))
    model, grids = task.plain(STAN, 10)
    assert module.seen == grids
    assert task.same_weights(module, model)
    assert len(module.exact) == 2 + 4 * 5  # the sanity check's two
    assert all(module.exact)
    assert task.is_restored(module)
    assert callback.handle.iteration == 10
    assert [line.name for line in callback.handle.report] == ["net.0", "net.2"]


def test_the_sanity_check_finds_the_module_as_it_was(task):
    class Looking(Classifier):
        def on_validation_start(self):
            if self.trainer.sanity_checking:
                assert task.is_restored(self)
                self.looked = True

    module = Looking(task)
    trainer(StanCallback(STAN), max_epochs=1).fit(module, loader(task), loader(task))
    assert module.looked


def test_an_iteration_is_an_optimizer_step_however_many_batches_it_takes(task):
    """Five batches in windows of two, two and one; the last is short since Lightning steps where an epoch ends."""
    module, callback = Classifier(task), StanCallback(Stan(rate=0.25, period=None))
    runner = trainer(callback, accumulate_grad_batches=2)
    runner.fit(module, loader(task))
    _, grids = task.plain(Stan(rate=0.25, period=None), 6)
    assert module.seen == [grids[i] for i in (0, 0, 1, 1, 2, 3, 3, 4, 4, 5)]
    assert callback.handle.iteration == runner.global_step == 6


def test_accumulated_batches_are_one_larger_batch(task):
    module = Classifier(task)
    trainer(StanCallback(STAN), accumulate_grad_batches=5, max_epochs=4).fit(module, loader(task))
    model, _ = task.plain(STAN, 4, batch=10)
    for mine, theirs in zip(module.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_manual_optimization_with_two_optimizers_goes_on_once_for_each_batch(task, tmp_path):
    """Also in another fit of the same Trainer, and in one that goes on at a checkpoint."""
    _, grids = task.plain(STAN, 15)
    module, callback = Classifier(task, manual=True), StanCallback(STAN)
    runner = trainer(callback)
    runner.fit(module, loader(task))
    assert module.seen == grids[:10]
    assert (callback.handle.iteration, runner.global_step) == (10, 20)
    runner.save_checkpoint(tmp_path / "saved.ckpt")
    runner.fit_loop.max_epochs = 3
    runner.fit(module, loader(task))
    assert module.seen == grids
    resumed = Classifier(task, manual=True)
    trainer(StanCallback(STAN), max_epochs=3).fit(resumed, loader(task), ckpt_path=tmp_path / "saved.ckpt")
    assert resumed.seen == grids[10:]


@pytest.mark.parametrize("after_fit", [True, False], ids=["saved after the fit", "saved in the fit"])
@pytest.mark.parametrize("stan", [STAN, MEMO], ids=["neighbour", "memo"])
def test_a_resumed_training_goes_on_at_its_iteration(task, tmp_path, stan, after_fit):
    saving = ModelCheckpoint(tmp_path, filename="saved", every_n_train_steps=5)
    first = trainer([StanCallback(stan, ids=ids), saving], enable_checkpointing=True, max_epochs=1)
    first.fit(Classifier(task), loader(task))
    if after_fit:
        first.save_checkpoint(tmp_path / "saved.ckpt")
    module = Classifier(task)
    trainer(StanCallback(stan, ids=ids), max_epochs=3).fit(module, loader(task), ckpt_path=tmp_path / "saved.ckpt")
    model, grids = task.plain(stan, 15)
    assert module.seen == grids[5:]
    assert task.same_weights(module, model)


def test_a_checkpoint_of_an_exact_training_starts_at_the_trainers_count(task, tmp_path):
    exact = trainer([], max_epochs=1)
    exact.fit(Classifier(task), loader(task))
    exact.save_checkpoint(tmp_path / "exact.ckpt")
    module = Classifier(task)
    trainer(StanCallback(STAN)).fit(module, loader(task), ckpt_path=tmp_path / "exact.ckpt")
    assert module.seen == task.plain(STAN, 10)[1][5:]


def test_another_trainer_begins_anew(task):
    callback = StanCallback(STAN)
    for module in (Classifier(task), Classifier(task)):
        trainer(callback, max_epochs=1).fit(module, loader(task))
        assert module.seen == task.plain(STAN, 5)[1]


@pytest.mark.parametrize(("failure", "raised"), [(RuntimeError, RuntimeError), (KeyboardInterrupt, SystemExit)])
def test_an_exception_gives_the_module_back(task, failure, raised):
    on_interrupt = signal.getsignal(signal.SIGINT)
    module, callback = Classifier(task, fail_at=4, failure=failure), StanCallback(STAN)
    runner = trainer(callback)
    with pytest.raises(raised):
        runner.fit(module, loader(task))
    signal.signal(signal.SIGINT, on_interrupt)  # which Lightning ignores after an interrupt
    assert task.is_restored(module)
    assert callback.state_dict()["iteration"] == 3
    fresh = Classifier(task)
    trainer(callback).fit(fresh, loader(task))
    assert fresh.seen == task.plain(STAN, 10)[1]


def test_state_that_is_loaded_in_mid_fit_counts_at_once(task):
    """Lightning does so when a learning-rate finder runs inside a fit."""

    class Rewinding(StanCallback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                self.load_state_dict({"iteration": 2})

    module = Classifier(task)
    trainer(Rewinding(STAN)).fit(module, loader(task))
    _, grids = task.plain(STAN, 10)
    assert module.seen == [*grids[:5], *grids[2:7]]


def test_memo_trains_as_in_the_plain_loop(task):
    module, callback = Classifier(task), StanCallback(MEMO, ids=ids)
    trainer(callback, max_epochs=3).fit(module, loader(task), loader(task))
    assert task.same_weights(module, task.plain(MEMO, 15)[0])
    assert not task.same_weights(module, task.plain(Stan(pretrain=15), 15)[0])
    assert all(module.exact)


def test_memo_refuses_inputs_that_change(task):
    class Augmenting(Classifier):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] + 0.1 * torch.randn(2, 3, 8, 8), *batch[1:]]

    with pytest.raises(UsageError, match="differs from its first visit"):
        trainer(StanCallback(MEMO, ids=ids)).fit(Augmenting(task), loader(task))


def test_memo_without_ids_is_refused_at_once():
    with pytest.raises(UsageError, match=r"give the callback ids="):
        StanCallback(Stan(memo=Memo(samples=10, epoch=5)))


def test_auto_is_planned_on_the_first_batch_and_its_checkpoints_keep_the_plan(task, tmp_path, planned):
    auto, module = Stan(rate="auto", tolerance=10.0), Classifier(task)
    first, callback = trainer(StanCallback(auto), max_epochs=1), StanCallback(auto, inputs=lambda batch: batch[0] + 1)
    first.fit(module, loader(task), loader(task))
    assert torch.equal(torch.cat(planned), task.images[:2])
    first.save_checkpoint(tmp_path / "saved.ckpt")
    resumed = Classifier(task)
    trainer(callback).fit(resumed, loader(task), ckpt_path=tmp_path / "saved.ckpt")
    assert len(planned) == 1
    model, grids = task.plain(auto, 10)
    assert [[grid is not None for grid in pair] for pair in grids[:5]] == [[False, i not in (0, 4)] for i in range(5)]
    assert module.seen + resumed.seen == grids
    assert task.same_weights(resumed, model)
    trainer(callback).fit(Classifier(task), loader(task))
    assert torch.equal(planned[-1], task.images[:2] + 1)


def test_it_is_known_how_many_processes_train_the_module(task, monkeypatch):
    told = []
    monkeypatch.setattr("stantune.integrations.lightning.accelerate_at", lambda *given: told.append(given[-1]))
    monkeypatch.setattr("stantune.integrations.lightning.visit", lambda *given: None)
    precision = SimpleNamespace(train_step_context=nullcontext)
    loop = SimpleNamespace(_skip_backward=False)
    several = SimpleNamespace(global_step=0, world_size=3, precision_plugin=precision, fit_loop=loop, optimizers=[])
    StanCallback(STAN).on_train_batch_start(several, Classifier(task), (task.images, task.labels), 0)
    assert told == [3]


def test_auto_is_planned_in_the_precision_of_the_training(task, monkeypatch):
    found = []

    def plan_for(model, *_, **__):
        found.append(torch.is_autocast_enabled("cpu"))
        raise UsageError("enough")

    monkeypatch.setattr("stantune.stan.surgery.plan_for", plan_for)
    for precision in ("bf16-mixed", "32-true"):
        with pytest.raises(UsageError, match="enough"):
            trainer(StanCallback(Stan(rate="auto")), precision=precision).fit(Classifier(task), loader(task))
    assert found == [True, False]


@pytest.mark.parametrize(("before", "now"), [(STAN, Stan(tolerance=0.3)), (Stan(rate="auto", tolerance=10.0), STAN)])
def test_a_checkpoint_of_other_settings_is_refused_and_the_module_is_as_it_was(task, tmp_path, planned, before, now):
    first = trainer(StanCallback(before), max_epochs=1)
    first.fit(Classifier(task), loader(task))
    first.save_checkpoint(tmp_path / "saved.ckpt")
    module = Classifier(task)
    with pytest.raises(UsageError, match="made with other settings"):
        trainer(StanCallback(now)).fit(module, loader(task), ckpt_path=tmp_path / "saved.ckpt")
    assert task.is_restored(module)


def test_a_batch_without_inputs_at_its_start_or_ids_is_refused_only_where_they_are_needed(task):
    class Named(Classifier):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch["image"], batch["label"]), batch_idx)

    pairs = [{"image": image, "label": label} for image, label in zip(task.images, task.labels, strict=True)]
    module, data = Named(task), DataLoader(pairs, batch_size=2)
    trainer(StanCallback(STAN, ids=ids)).fit(module, data)
    assert module.seen == task.plain(STAN, 10)[1]
    with pytest.raises(UsageError, match="the batch, a dict, does not begin with a tensor; give the callback inputs="):
        trainer(StanCallback(Stan(rate="auto", tolerance=10.0))).fit(Named(task), data)


def test_layers_are_those_of_the_module(task):
    with pytest.raises(UsageError, match=r"it has net\.0, net\.2"):
        trainer(StanCallback(Stan(layers=("0",)))).fit(Classifier(task), loader(task))


def test_without_lightning_it_says_what_to_install(monkeypatch):
    for package in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "stantune.integrations.lightning")
    with pytest.raises(StantuneError, match=r"pip install 'stantune\[lightning\]'"):
        importlib.import_module("stantune.integrations.lightning")


def test_one_of_the_two_packages_is_enough(monkeypatch):
    for package in ("lightning", "lightning.pytorch"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "stantune.integrations.lightning")
    found = importlib.import_module("stantune.integrations.lightning").StanCallback
    assert found.__bases__ == (pytorch_lightning.Callback,)


def test_a_model_without_convolutions_trains_exactly(task):
    class Flat(Classifier):
        def __init__(self, task):
            super().__init__(task)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))

    callback = StanCallback(STAN)
    trainer(callback).fit(Flat(task), loader(task))
    assert callback.handle.report == ()
