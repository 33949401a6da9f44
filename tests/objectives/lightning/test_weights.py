"""Weights that callbacks put in when a training ends, and steps that Lightning does not count: what is measured."""

from __future__ import annotations

import warnings

import pytest
import torch
from lightning.pytorch import Callback, callbacks
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning_training import PARAMS, STAN, Net, check_segments, dataset, kept, objective, same_state, segment
from segments import trained
from torch import nn
from torch.nn.functional import cross_entropy

from stantune.errors import StanWarning
from stantune.objectives.lightning import objective as objectives
from stantune.objectives.lightning.following import fingerprint
from stantune.protocols import Place
from stantune.stan.config import Stan

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]


class Bare(Net):
    """Without batch norm."""

    def __init__(self, params):
        super().__init__(params)
        self.net[1] = nn.Identity()


class Manual(Net):
    """Steps its optimizer itself, and past Lightning's wrapper."""

    def __init__(self, params):
        super().__init__(params)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


class Wrapped(Manual):
    """Steps its optimizer itself, by Lightning's wrapper."""

    def training_step(self, batch, batch_idx):
        loss = Net.training_step(self, batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


class ByHand(Manual):
    """Has no optimizer that steps."""

    def training_step(self, batch, batch_idx):
        loss = Net.training_step(self, batch, batch_idx)
        self.zero_grad()
        self.manual_backward(loss)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter -= 0.01 * parameter.grad
        return loss


class Halving(Callback):
    """Puts other weights in when a training ends."""

    def on_train_end(self, trainer, pl_module):
        for parameter in pl_module.parameters():
            parameter.data.mul_(0.5)


def val_loss(path, module=Net, factor=1.0):
    """What the weights in a checkpoint give, times a factor."""
    net = module(PARAMS)
    net.load_state_dict(kept(path)["state_dict"])
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= factor
        images, labels = dataset(30, 1)[:]
        return pytest.approx(cross_entropy(net.eval().net(images), labels).item(), rel=1e-5)


def averaging():
    if not hasattr(callbacks, "EMAWeightAveraging"):
        pytest.skip("Lightning has none before 2.6")
    return callbacks.EMAWeightAveraging(decay=0.9)


class TestOtherWeightsAtTheEnd:
    def test_a_trial_goes_on_from_the_weights_that_were_trained(self, tmp_path, monkeypatch):
        what = objective(callbacks=[averaging()])
        whole = check_segments(tmp_path, what)
        assert whole.metrics["val_loss"] == val_loss(tmp_path / "whole/trial-3.pt")
        first = trained(what, segment(tmp_path / "first", 0, 2))
        assert first.metrics["val_loss"] == val_loss(tmp_path / "first/trial-3.pt")
        saved = kept(tmp_path / "first/trial-3.pt")
        key = "net.0.weight"
        assert not torch.equal(saved["current_model_state"][key], saved["state_dict"][key])
        monkeypatch.setattr(objectives, "SAVE_SECONDS", 0.0)
        monkeypatch.setattr(objectives, "SAVE_SETUPS", 0.0)
        assert trained(what, segment(tmp_path / "saved", 0, 6)) == whole
        same_state(tmp_path / "saved/trial-3.pt", tmp_path / "whole/trial-3.pt")

    def test_a_callback_of_the_users_own(self, tmp_path):
        what = objective(callbacks=[Halving()])
        whole = check_segments(tmp_path, what)
        assert whole.metrics["val_loss"] == val_loss(tmp_path / "whole/trial-3.pt")
        first = trained(what, segment(tmp_path / "first", 0, 2))
        assert first.metrics["val_loss"] == val_loss(tmp_path / "first/trial-3.pt", factor=0.5)

    def test_a_final_keeps_what_was_measured(self, tmp_path):
        final = segment(tmp_path, 0, 3, length=3, finalist=0)
        outcome = trained(objective(callbacks=[Halving()]), final)
        assert outcome.metrics["val_loss"] == val_loss(final.checkpoint)

    @pytest.mark.parametrize("module", [Net, Bare])
    def test_stochastic_weight_averaging(self, tmp_path, module):
        what, seen = objective(module, callbacks=[StochasticWeightAveraging(0.05, swa_epoch_start=0.5)]), []
        whole = check_segments(tmp_path, what, (2, 4, 6))
        assert whole.metrics["val_loss"] == val_loss(tmp_path / "whole/trial-3.pt", module)
        again = trained(what, segment(tmp_path / "again", 0, 6), watch=seen.append)
        assert again == whole
        assert (again.iterations, max(seen), again.losses.end) == (6, 6, 36)
        if module is Net:
            # Of one more epoch, in which nothing was trained.
            assert kept(tmp_path / "whole/trial-3.pt")["state_dict"]["net.1.num_batches_tracked"] == 6

    def test_no_step_is_made_where_statistics_are_taken(self, tmp_path):
        averages = []

        class Noting(StochasticWeightAveraging):
            def on_train_end(self, trainer, pl_module):
                super().on_train_end(trainer, pl_module)
                averages.extend(each.clone() for each in self._average_model.parameters())

        # No validation behind the last epoch clears its gradients.
        settings = {"check_val_every_n_epoch": 4}
        what = objective(callbacks=lambda run: [Noting(0.05, swa_epoch_start=0.5)], trainer_settings=settings)
        trained(what, segment(tmp_path, 0, 6))
        saved = kept(tmp_path / "trial-3.pt")["state_dict"]
        names = [name for name, _ in Net(PARAMS).named_parameters()]
        assert all(torch.equal(saved[name], each) for name, each in zip(names, averages, strict=True))

    def test_under_manual_optimization_it_adds_no_epoch(self, tmp_path):
        what = objective(Wrapped, callbacks=[StochasticWeightAveraging(0.05, swa_epoch_start=0.5)])
        whole = check_segments(tmp_path, what, (2, 4, 6))
        saved = kept(tmp_path / "whole/trial-3.pt")
        assert (saved["global_step"], whole.losses.end) == (36, 36)
        assert whole.metrics["val_loss"] == val_loss(tmp_path / "whole/trial-3.pt")

    def test_weights_that_stay_are_not_validated_again(self, tmp_path):
        seen = []

        class Looking(Net):
            def on_validation_epoch_start(self):
                seen.append(self.trainer.state.fn)

            def on_validation_epoch_end(self):
                # As those do that keep what was best in a buffer.
                self.net[1].running_mean.add_(0.1)

        trained(objective(Looking), segment(tmp_path, 0, 2))
        assert seen == ["fit", "fit"]

    def test_weights_that_make_way_for_a_validation_are_not_validated_again(self, tmp_path):
        seen = []

        class Looking(Net):
            def on_validation_epoch_start(self):
                seen.append(self.trainer.state.fn)

        class Exchanging(Callback):
            """Has others validated, as averages by hand are."""

            def on_validation_start(self, trainer, pl_module):
                self.trained = [each.detach().clone() for each in pl_module.parameters()]
                for each in pl_module.parameters():
                    each.data.mul_(0.5)

            def on_validation_end(self, trainer, pl_module):
                for each, trained_one in zip(pl_module.parameters(), self.trained, strict=True):
                    each.data.copy_(trained_one)

        outcome = trained(objective(Looking, callbacks=lambda run: [Exchanging()]), segment(tmp_path, 0, 2))
        assert seen == ["fit", "fit"]
        assert outcome.metrics["val_loss"] == val_loss(tmp_path / "trial-3.pt", factor=0.5)


class TestStepsThatLightningDoesNotCount:
    def test_what_was_not_validated_after_them_is(self, tmp_path):
        seldom = check_segments(tmp_path, objective(Manual, trainer_settings={"check_val_every_n_epoch": 2}), (1, 3))
        assert seldom.metrics == trained(objective(Manual), segment(tmp_path / "often", 0, 3)).metrics

    def test_they_move_stan(self, tmp_path):
        whole = check_segments(tmp_path, objective(Manual, stan=STAN), (1, 3))
        assert whole.metrics != trained(objective(Manual), segment(tmp_path / "exact", 0, 3)).metrics
        assert (whole.cost.reduced, whole.cost.exact) == (3, 0)

    # Without any refresh the one iteration in which it stands is a reduced one.
    @pytest.mark.parametrize(("stan", "booked"), [(STAN, (0, 2)), (Stan(rate=0.25, period=None), (2, 0))])
    def test_where_nothing_moves_stan_it_is_said_once(self, tmp_path, monkeypatch, stan, booked):
        # Each epoch is a fit of its own.
        monkeypatch.setattr(objectives, "SAVE_SECONDS", 0.0)
        monkeypatch.setattr(objectives, "SAVE_SETUPS", 0.0)
        trainer = objective(ByHand, stan=stan).trainer(Place(threads=1))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            outcomes = [
                trainer.train(segment(tmp_path, start, stop), lambda: False, lambda done: None)
                for start, stop in ((0, 2), (2, 4))
            ]
        assert [str(each.message).partition(":")[0] for each in said if each.category is StanWarning] == [
            "STAN stood still for an epoch"
        ]
        assert [(each.cost.reduced, each.cost.exact) for each in outcomes] == [booked, booked]


def test_a_fingerprint_is_of_all_that_can_be_written():
    def module():
        made = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2, dtype=torch.bfloat16), nn.LazyLinear(3))
        made.register_buffer("sparse", torch.eye(2).to_sparse(), persistent=False)
        made.register_buffer("empty", torch.empty(0), persistent=False)
        return made

    one = module()
    found = {fingerprint(one)}
    assert fingerprint(one) in found
    for change in (
        lambda: one[0].running_mean.data.add_(1),
        lambda: one[0].num_batches_tracked.add_(1),
        lambda: one[1].weight.data.mul_(2),
        lambda: one.sparse.mul_(2),
    ):
        change()
        assert fingerprint(one) not in found
        found.add(fingerprint(one))
