"""skorch really trains under the callback, and agrees with the plain loop bit for bit."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys

import pytest
import torch
from sklearn.base import clone
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, Checkpoint, LoadInitState
from torch import nn

from stantune import Stan, StantuneError, restore_
from stantune.errors import UsageError
from stantune.integrations.skorch import StanCallback
from stantune.stan.config import Memo

STAN = Stan(rate=0.25, period=2, pretrain=1)
MEMO = Stan(rate=0.25, period=1, memo=Memo(samples=10, epoch=5))


class Watch(Callback):
    """Notes the grids of each training batch, and fails in the `fail_at`th."""

    def __init__(self, task, fail_at=None, failure=RuntimeError):
        self.task = task
        self.fail_at = fail_at
        self.failure = failure
        self.seen = []

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        if training:
            self.seen.append(self.task.grids(net.module_))
            if len(self.seen) == self.fail_at:
                raise self.failure


def validated_on_itself(data, y=None):
    return data, data


def net_of(task, *callbacks, module=None, **settings):
    return NeuralNetClassifier(
        task.network if module is None else module,
        criterion=nn.CrossEntropyLoss,
        callbacks=list(callbacks),
        **{"lr": task.lr, "batch_size": task.batch, "max_epochs": 1, "train_split": None, "verbose": 0, **settings},
    )


def handle_of(net):
    return dict(net.callbacks_)["StanCallback"].handle_


def test_it_trains_as_the_plain_loop_does_and_gives_the_module_back(task):
    watch = Watch(task)
    net = net_of(task, StanCallback(STAN), watch, max_epochs=2).fit(task.images, task.labels)
    model, grids = task.plain(STAN, 10)
    assert watch.seen == grids
    assert task.same_weights(net.module_, model)
    assert task.is_restored(net.module_)
    assert handle_of(net).iteration == 10
    assert [line.name for line in handle_of(net).report] == ["0", "2"]


def test_validation_is_exact_and_is_no_iteration(task):
    class Looking(Callback):
        def on_batch_end(self, net, batch=None, training=False, y_pred=None, **kwargs):
            if not training:
                exact = copy.deepcopy(net.module_)
                restore_(exact)
                assert torch.equal(y_pred, exact(batch[0]))
                assert not task.is_restored(net.module_)
                looked.append(handle_of(net).iteration)

    looked = []
    settings = {"train_split": validated_on_itself, "max_epochs": 2}
    net_of(task, StanCallback(Stan(rate=0.25, period=None)), Looking(), **settings).fit(task.images, task.labels)
    assert looked == [5] * 5 + [10] * 5


class WithIds(nn.Module):
    """Takes {"images", "ids"}, as skorch's inputs may be."""

    def __init__(self, net):
        super().__init__()
        self.net = copy.deepcopy(net)

    def forward(self, images, ids=None):
        return self.net(images)


def images_in(batch):
    return batch[0]["images"]


def ids_in(batch):
    return batch[0]["ids"]


@pytest.mark.parametrize("way", ["partial_fit", "warm_start", "pickle", "deepcopy", "set_params"])
def test_a_continued_training_goes_on_at_its_iteration(task, way):
    net = net_of(task, StanCallback(STAN), Watch(task), warm_start=way == "warm_start").fit(task.images, task.labels)
    if way == "set_params":
        net.set_params(callbacks__StanCallback__stan=STAN)
    net = continued(net, way, task.images, task.labels)
    model, grids = task.plain(STAN, 10)
    assert dict(net.callbacks_)["Watch"].seen == grids
    assert task.same_weights(net.module_, model)
    assert task.is_restored(net.module_)


@pytest.mark.parametrize("way", ["partial_fit", "warm_start", "pickle", "deepcopy"])
def test_memo_trains_as_in_the_plain_loop_and_goes_on_with_what_it_remembers(task, way):
    """An epoch that fills the memory, and after a break one that uses it."""
    net = net_of(
        task,
        StanCallback(MEMO, ids=ids_in, inputs=images_in),
        module=WithIds,
        module__net=task.network(),
        train_split=validated_on_itself,
        warm_start=way == "warm_start",
    )
    inputs = {"images": task.images, "ids": torch.arange(10)}
    net = continued(net.fit(inputs, task.labels), way, inputs, task.labels)
    assert task.same_weights(net.module_, task.plain(MEMO, 10)[0])
    assert not task.same_weights(net.module_, task.plain(Stan(pretrain=10), 10)[0])


def continued(net, way, inputs, labels):
    if way == "pickle":
        net = pickle.loads(pickle.dumps(net))
    elif way == "deepcopy":
        net = copy.deepcopy(net)
    return (net.fit if way == "warm_start" else net.partial_fit)(inputs, labels)


def test_fit_begins_anew(task):
    module = task.network()
    watch = Watch(task)
    net = net_of(task, StanCallback(STAN), watch, module=module).fit(task.images, task.labels)
    net.fit(task.images, task.labels)
    grids = task.plain(STAN, 5)[1]
    assert watch.seen == grids + grids


@pytest.mark.parametrize("loads_first", [True, False], ids=["loaded before", "loaded after"])
def test_a_checkpoint_brings_its_iteration(task, tmp_path, loads_first):
    saving = Checkpoint(monitor=None, dirname=str(tmp_path))
    net_of(task, StanCallback(STAN), saving).fit(task.images, task.labels)
    watch, loading, stan = Watch(task), LoadInitState(saving), StanCallback(STAN)
    net = net_of(task, *((loading, stan) if loads_first else (stan, loading)), watch)
    net.fit(task.images, task.labels)
    model, grids = task.plain(STAN, 10)
    assert watch.seen == grids[5:]
    assert task.same_weights(net.module_, model)


def test_a_checkpoint_of_the_best_epoch_that_ends_a_training_is_where_the_next_goes_on(task, tmp_path):
    best = Checkpoint(monitor=lambda net: len(net.history) == 1, dirname=str(tmp_path), load_best=True)
    watch = Watch(task)
    net = net_of(task, StanCallback(STAN), best, watch, max_epochs=2).fit(task.images, task.labels)
    net.partial_fit(task.images, task.labels)
    grids = task.plain(STAN, 15)[1]
    assert watch.seen == grids[:10] + grids[5:15]


@pytest.mark.parametrize("stan", [STAN, Stan(rate="auto", tolerance=10.0)], ids=["fixed", "auto"])
def test_a_pickle_from_mid_training_goes_on(task, tmp_path, planned, stan):
    saving = Checkpoint(monitor=None, f_pickle="net.pkl", dirname=str(tmp_path))
    net_of(task, StanCallback(stan), Watch(task), saving).fit(task.images, task.labels)
    planned.clear()
    net = pickle.loads((tmp_path / "net.pkl").read_bytes())
    assert not task.is_restored(net.module_)
    assert handle_of(net) is None
    net.partial_fit(task.images, task.labels)
    assert planned == []
    model, grids = task.plain(stan, 10)
    assert dict(net.callbacks_)["Watch"].seen == grids
    assert task.same_weights(net.module_, model)


def test_state_that_does_not_fit_the_history_is_left(task):
    """Which patterns were chosen at iteration 4 says nothing after iteration 2; the next refresh chooses."""
    stan = Stan(rate=0.25, tolerance=10.0, period=3)
    watch = Watch(task)
    net = net_of(task, StanCallback(stan), watch).fit(task.images, task.labels)
    del net.history[-1, "batches"][2:]
    net.partial_fit(task.images, task.labels)
    grids = task.plain(stan, 7)[1]
    assert grids[2] != [None, None]
    assert watch.seen == grids[:5] + [[None, None]] * 2 + grids[4:]


def test_an_interrupt_gives_the_module_back_and_training_can_go_on(task):
    watch = Watch(task, fail_at=4, failure=KeyboardInterrupt)
    net = net_of(task, StanCallback(STAN), watch).fit(task.images, task.labels)
    assert task.is_restored(net.module_)
    net.partial_fit(task.images, task.labels)
    grids = task.plain(STAN, 8)[1]
    assert watch.seen == grids[:4] + grids[3:]


@pytest.mark.parametrize("again", ["fit", "partial_fit"])
def test_after_an_exception_prediction_is_exact_and_training_can_go_on(task, again):
    watch = Watch(task, fail_at=4)
    net = net_of(task, StanCallback(STAN), watch, module=task.network())
    with pytest.raises(RuntimeError):
        net.fit(task.images, task.labels)
    exact = copy.deepcopy(net.module_)
    restore_(exact)
    # In its own batches: of others PyTorch may round otherwise.
    expected = torch.cat([exact(images) for images in task.images.split(net.batch_size)])
    assert torch.equal(net.forward(task.images), expected)
    getattr(net, again)(task.images, task.labels)
    assert task.is_restored(net.module_)
    grids = task.plain(STAN, 8)[1]
    assert watch.seen == grids[:4] + (grids[:5] if again == "fit" else grids[3:])


def test_after_an_exception_between_an_optimizer_step_and_the_callbacks_it_goes_on_at_the_next_iteration(task):
    class Failing(Callback):
        def on_batch_end(self, net, **kwargs):
            if len(watch.seen) == 4:
                raise RuntimeError

    watch = Watch(task)
    net = net_of(task, Failing(), StanCallback(STAN), watch)
    with pytest.raises(RuntimeError):
        net.fit(task.images, task.labels)
    net.partial_fit(task.images, task.labels)
    assert watch.seen == task.plain(STAN, 9)[1]


def test_sklearn_can_clone_it_and_set_its_settings(task):
    callback = StanCallback(STAN, ids=len, inputs=len)
    assert clone(callback).get_params() == {"stan": STAN, "ids": len, "inputs": len}
    net = clone(net_of(task, StanCallback(STAN))).set_params(callbacks__StanCallback__stan=Stan(rate=0.5))
    assert handle_of(net.fit(task.images, task.labels)).stan == Stan(rate=0.5)


def test_memo_without_ids_is_refused_when_the_net_is_initialized(task):
    net = net_of(task, StanCallback(Stan(memo=Memo(samples=10, epoch=5))))
    with pytest.raises(UsageError, match=r"give the callback ids="):
        net.initialize()


@pytest.mark.parametrize("way", ["partial_fit", "pickle"])
def test_auto_is_planned_once_on_the_first_batch(task, planned, way):
    auto, watch = Stan(rate="auto", tolerance=10.0), Watch(task)
    net = net_of(task, StanCallback(auto), watch, train_split=validated_on_itself)
    net = continued(net.fit(task.images, task.labels), way, task.images, task.labels)
    assert torch.equal(torch.cat(planned), task.images[:2])
    assert dict(net.callbacks_)["Watch"].seen == task.plain(auto, 10)[1]
    assert task.same_weights(net.module_, task.plain(auto, 10)[0])


def test_fit_plans_anew(task, planned):
    net = net_of(task, StanCallback(Stan(rate="auto", tolerance=10.0))).fit(task.images, task.labels)
    net.fit(task.images[2:], task.labels[2:])
    assert torch.equal(torch.cat(planned), task.images[:4])


def test_inputs_are_taken_as_told(task, planned):
    net = net_of(task, StanCallback(Stan(rate="auto", tolerance=10.0), inputs=lambda batch: batch[0] + 1))
    net.fit(task.images, task.labels)
    assert torch.equal(torch.cat(planned), task.images[:2] + 1)


def test_without_skorch_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skorch.callbacks", None)
    monkeypatch.delitem(sys.modules, "stantune.integrations.skorch")
    with pytest.raises(StantuneError, match=r"pip install 'stantune\[skorch\]'"):
        importlib.import_module("stantune.integrations.skorch")
