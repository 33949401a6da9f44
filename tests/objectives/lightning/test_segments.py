"""Lightning trains the trials, and whatever cuts them into segments leaves every bit as it was."""

from __future__ import annotations

import importlib
import json
import os
import random
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from stantune.errors import CheckpointError, DamagedCheckpointError, StantuneError, UsageError
from stantune.objectives.lightning import objective as objectives
from stantune.objectives.lightning.objective import LightningObjective, MetricError
from stantune.parameters import Float, Integer
from stantune.protocols import Conditions, Metric, Objective, Place, Segment
from stantune.space import Space
from stantune.stan.config import Memo, Stan
from stantune.testing import check_objective
from stantune.tuning.tune import tune

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]
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
    return LightningObjective(module, data, SPACE, **{"whole": 6, **more})


def segment(folder, start, stop, **more) -> Segment:
    values = {"trial": 3, "params": PARAMS, "seed": 2**62 + 1, "checkpoint": Path(folder) / "trial-3.pt", **more}
    return Segment(start=start, stop=stop, **values)


def trained(what, asked, stop_early=lambda: False, watch=lambda done: None):
    return what.trainer(Place(threads=1)).train(asked, stop_early, watch)


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


class TestSegments:
    def test_the_parts_are_the_whole_bit_by_bit(self, tmp_path):
        moved = []
        whole = check_segments(tmp_path, objective())
        assert set(whole.metrics) == {"train_loss", "val_loss", "accuracy"}
        assert (whole.iterations, whole.diverged_at, whole.interrupted) == (6, None, False)
        again = trained(objective(), segment(tmp_path / "other", 0, 6), watch=moved.append)
        assert again == whole
        assert moved == sorted(moved)
        assert (moved[0], moved[-1]) == (0, 6)
        assert again.cost.exact == 6
        assert again.cost.exact_seconds > 0
        assert again.cost.evaluation_seconds > 0
        assert trained(objective(), segment(tmp_path / "third", 0, 6, seed=5)) != whole

    def test_each_single_epoch_may_be_a_fit_of_its_own(self, tmp_path, monkeypatch):
        whole = trained(objective(), segment(tmp_path / "whole", 0, 6))
        monkeypatch.setattr(objectives, "SAVE_SECONDS", 0.0)
        monkeypatch.setattr(objectives, "SAVE_SHARE", 0.0)
        cut = trained(objective(), segment(tmp_path / "cut", 0, 6))
        assert cut == whole
        assert cut.cost.exact == 6
        same_state(tmp_path / "cut/trial-3.pt", tmp_path / "whole/trial-3.pt")

    def test_a_data_module_whose_split_is_drawn(self, tmp_path):
        class Data(LightningDataModule):
            def setup(self, stage):
                self.parts = torch.utils.data.random_split(dataset(90), (60, 30))

            def train_dataloader(self):
                return DataLoader(self.parts[0], batch_size=10, shuffle=True)

            def val_dataloader(self):
                return DataLoader(self.parts[1], batch_size=10, shuffle=True)

        check_segments(tmp_path, objective(data=lambda params: Data()))
        once = Data()
        assert trained(objective(data=lambda params: once), segment(tmp_path / "1", 0, 2)) == trained(
            objective(data=lambda params: once), segment(tmp_path / "2", 0, 2)
        )
        assert "train_dataloader" not in vars(once)

    def test_a_module_with_loaders_of_its_own(self, tmp_path):
        class Own(Net):
            def train_dataloader(self):
                return loaders({})[0]

            def val_dataloader(self):
                return loaders({})[1]

        assert (
            check_segments(tmp_path, objective(Own, None)).metrics
            == trained(objective(), segment(tmp_path / "given", 0, 6)).metrics
        )

    def test_a_loader_with_a_generator_and_processes_that_stay(self, tmp_path):
        def data(params):
            generator = torch.Generator().manual_seed(4)
            return loaders(params, generator=generator, num_workers=2, persistent_workers=True)

        check_segments(tmp_path, objective(data=data), (1, 3))

    def test_several_loaders_and_a_stream_of_unknown_length(self, tmp_path):
        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                images, labels = dataset()[:]
                for place in torch.randperm(len(labels)):
                    yield images[place], labels[place]

        class Several(Net):
            def training_step(self, batch, batch_idx):
                return super().training_step(batch["one"], batch_idx) + super().training_step(batch["two"], batch_idx)

        def data(params):
            both = {"one": loaders(params)[0], "two": DataLoader(Stream(), batch_size=20)}
            return CombinedLoader(both, "min_size"), loaders(params)[1]

        check_segments(tmp_path, objective(Several, data), (1, 3))
        check_segments(
            tmp_path / "alone",
            objective(data=lambda params: (DataLoader(Stream(), 20), loaders(params)[1]), module=plain),
            (1, 3),
        )

    def test_random_choices_in_hooks_and_in_a_loaders_processes(self, tmp_path):
        class Noisy(torch.utils.data.Dataset):
            def __len__(self):
                return 60

            def __getitem__(self, place):
                image, label = dataset()[place]
                return image + 0.1 * torch.randn(()) + 0.1 * random.random() + 0.1 * np.random.rand(), label

        class Drawing(Net):
            def on_train_epoch_start(self):
                self.noise = random.random() + np.random.rand() + torch.rand(()).item()

            def training_step(self, batch, batch_idx):
                return super().training_step([batch[0].float() + self.noise, batch[1]], batch_idx)

        def data(params):
            return DataLoader(Noisy(), batch_size=10, shuffle=True, num_workers=2), loaders(params)[1]

        check_segments(tmp_path, objective(Drawing), (1, 3))
        check_segments(tmp_path / "workers", objective(Drawing, data), (1, 3))

    def test_a_plateau_schedule_and_accumulated_gradients(self, tmp_path):
        class Plateau(Net):
            def configure_optimizers(self):
                optimizer = torch.optim.Adam(self.parameters(), self.lr)
                schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
                return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}

        check_segments(tmp_path, objective(Plateau, trainer_settings={"accumulate_grad_batches": 4}), (1, 2, 6))
        rates = [group["lr"] for group in kept(tmp_path / "whole/trial-3.pt")["optimizer_states"][0]["param_groups"]]
        assert rates[0] < 0.01

    def test_a_schedule_sees_the_whole_length(self, tmp_path):
        seen = []

        class Looking(Net):
            def configure_optimizers(self):
                seen.append((self.trainer.max_epochs, self.trainer.estimated_stepping_batches))
                return super().configure_optimizers()

            def on_train_batch_start(self, batch, batch_idx):
                seen.append((self.trainer.max_epochs, 162))

        prepared = LightningObjective(Looking, loaders, SPACE).prepared(Conditions(27)).objective
        trained(prepared, segment(tmp_path, 0, 3))
        assert set(seen) == {(27, 162)}

    def test_validation_that_is_not_due_is_done_in_the_end(self, tmp_path):
        seldom = check_segments(tmp_path, objective(trainer_settings={"check_val_every_n_epoch": 4}), (1, 3))
        often = trained(objective(), segment(tmp_path / "often", 0, 3))
        assert seldom.metrics == often.metrics

    def test_a_segment_that_was_done_is_not_done_again(self, tmp_path):
        what, asked = objective(), segment(tmp_path, 0, 2)
        first = trained(what, asked)
        content = asked.checkpoint.read_bytes()

        def not_again(params: object) -> None:
            raise AssertionError("it makes a module")

        second = trained(objective(module=not_again, name="Net"), asked)
        assert (second, second.cost) == (first, first.cost)
        assert asked.checkpoint.read_bytes() == content

    def test_without_its_checkpoint_it_begins_anew(self, tmp_path):
        assert trained(objective(), segment(tmp_path / "a", 2, 4)) == trained(
            objective(), segment(tmp_path / "b", 0, 4)
        )

    @pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
    def test_either_package(self, tmp_path, package):
        base = importlib.import_module(package).LightningModule
        assert (
            check_segments(tmp_path, objective(module_of(base)), (1, 2)).metrics
            == trained(objective(), segment(tmp_path / "net", 0, 2)).metrics
        )


def plain(params):
    class Plain(Net):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)

    return Plain(params)


class TestInterruptions:
    def test_it_is_left_within_an_epoch_and_gone_on_with(self, tmp_path, monkeypatch):
        monkeypatch.setattr(objectives, "SAVE_SECONDS", 0.0)
        monkeypatch.setattr(objectives, "SAVE_SHARE", 0.0)
        whole = trained(objective(), segment(tmp_path / "whole", 0, 6))
        asked, count = segment(tmp_path / "cut", 0, 6), [0]

        def stop_early():
            count[0] += 1
            return count[0] > 20  # in the third epoch

        outcome = trained(objective(), asked, stop_early)
        assert (outcome.interrupted, outcome.iterations, outcome.metrics) == (True, 2, {})
        assert trained(objective(), asked) == whole
        same_state(asked.checkpoint, tmp_path / "whole/trial-3.pt")

    @pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
    def test_a_kill_in_the_middle_of_an_epoch(self, tmp_path):
        whole = trained(objective(), segment(tmp_path / "whole", 0, 6))
        asked = segment(tmp_path / "cut", 0, 6)
        code = f"""
import pickle, signal, os, time
import torch
torch.set_num_threads(1)
from stantune.protocols import Place
from stantune.objectives.lightning import objective as lightning
lightning.SAVE_SECONDS = lightning.SAVE_SHARE = 0.0
objective, segment = pickle.load(open({str(tmp_path / "order")!r}, "rb"))
batches = []
def watch(done):
    batches.append(done)
    if batches.count(3) == 4:  # in the fourth epoch
        os.kill(os.getpid(), signal.SIGKILL)
objective.trainer(Place(threads=1)).train(segment, lambda: False, watch)
"""
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        (tmp_path / "order").write_bytes(cloudpickle.dumps((objective(), asked)))
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert kept(asked.checkpoint)["stantune"]["note"]["done"] == 3
        assert trained(objective(), asked) == whole
        same_state(asked.checkpoint, tmp_path / "whole/trial-3.pt")

    def test_ctrl_c_stays_what_it_is(self, tmp_path):
        before = signal.getsignal(signal.SIGINT)

        class Interrupted(Net):
            def training_step(self, batch, batch_idx):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trained(objective(Interrupted), segment(tmp_path, 0, 1))
        assert signal.getsignal(signal.SIGINT) is before

    def test_a_worker_that_ignores_sigterm_goes_on_ignoring_it(self, tmp_path):
        seen = []

        class Looking(Net):
            def on_train_batch_start(self, batch, batch_idx):
                os.kill(os.getpid(), signal.SIGTERM)
                seen.append(signal.getsignal(signal.SIGTERM))

        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            assert not trained(objective(Looking), segment(tmp_path, 0, 1)).interrupted
            assert set(seen) == {signal.SIG_IGN}
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGTERM, before)


class TestLostTrials:
    def test_a_loss_that_is_not_finite(self, tmp_path):
        class Bad(Net):
            def training_step(self, batch, batch_idx):
                loss = super().training_step(batch, batch_idx)
                return loss * float("nan") if self.trainer.current_epoch == 1 and batch_idx == 3 else loss

        for _ in range(2):
            outcome = trained(objective(Bad), segment(tmp_path, 0, 6))
            assert (outcome.iterations, outcome.diverged_at, outcome.metrics) == (2, 2, {})

    def test_a_monitored_value_that_is_not_finite(self, tmp_path):
        class Bad(Net):
            def validation_step(self, batch, batch_idx):
                self.log("val_loss", torch.tensor(float("inf")))

        for _ in range(2):
            outcome = trained(objective(Bad), segment(tmp_path, 0, 2))
            assert (outcome.iterations, outcome.diverged_at, outcome.metrics) == (2, 2, {})

    def test_others_that_are_not_finite_are_left_out(self, tmp_path):
        class Odd(Net):
            def validation_step(self, batch, batch_idx):
                super().validation_step(batch, batch_idx)
                self.log("odd", torch.tensor(float("nan")))

        assert set(trained(objective(Odd), segment(tmp_path, 0, 1)).metrics) == {"train_loss", "val_loss", "accuracy"}

    def test_what_is_not_logged_is_told(self, tmp_path):
        what = objective(monitor="val_acc", mode="max")
        with pytest.raises(MetricError, match=r"'val_acc' was not logged.* there is .*val_loss, accuracy: log it with"):
            trained(what, segment(tmp_path, 0, 1))

    def test_an_exception_is_the_trainings_own(self, tmp_path):
        class Bad(Net):
            def training_step(self, batch, batch_idx):
                raise RuntimeError("no memory")

        with pytest.raises(RuntimeError, match="no memory"):
            trained(objective(Bad), segment(tmp_path, 0, 1))


class TestFinals:
    def test_its_weights_are_lightnings_and_it_is_tested(self, tmp_path):
        final = segment(tmp_path, 0, 3, checkpoint=tmp_path / "final.pt", finalist=0)
        outcome = trained(objective(), final)
        assert set(outcome.metrics) == {"train_loss", "val_loss", "accuracy", "test_loss"}
        module = Net.load_from_checkpoint(tmp_path / "final.pt", params=PARAMS).eval()
        images, labels = dataset(30, 2)[:]
        assert cross_entropy(module.net(images), labels).item() == pytest.approx(outcome.metrics["test_loss"], rel=1e-5)
        assert trained(objective(), final) == outcome

    def test_without_a_test_set_there_is_no_test(self, tmp_path):
        what = objective(data=lambda params: loaders(params)[:2])
        final = segment(tmp_path, 0, 1, finalist=0)
        assert "test_loss" not in trained(what, final).metrics

    def test_the_test_set_of_a_data_module(self, tmp_path):
        def data(params):
            return LightningDataModule.from_datasets(dataset(), dataset(30, 1), dataset(30, 2), batch_size=10)

        assert "test_loss" in trained(objective(data=data), segment(tmp_path, 0, 1, finalist=0)).metrics


class TestCheckpoints:
    def test_one_that_is_damaged_or_anothers(self, tmp_path):
        asked = segment(tmp_path, 0, 1)
        trained(objective(), asked)
        with pytest.raises(CheckpointError, match="another trial's"):
            trained(objective(), segment(tmp_path, 1, 2, seed=1))
        with pytest.raises(UsageError, match="is at epoch 1, beyond 0"):
            trained(objective(), segment(tmp_path, 0, 0))
        content = bytearray(asked.checkpoint.read_bytes())
        content[len(content) // 2] ^= 1
        asked.checkpoint.write_bytes(content)
        with pytest.raises(DamagedCheckpointError, match="cut short or altered"):
            trained(objective(), segment(tmp_path, 1, 2))

    def test_what_would_execute_code_is_refused_in_a_sentence(self, tmp_path):
        class Odd(Net):
            def on_save_checkpoint(self, checkpoint):
                checkpoint["mine"] = Path("x")

        with pytest.raises(UsageError, match=r"cannot be read without executing code .*keep tensors, numbers"):
            trained(objective(Odd), segment(tmp_path, 0, 1))
        assert not list(tmp_path.iterdir())

    def test_hyperparameters_are_kept(self, tmp_path):
        class Saving(Net):
            def __init__(self, params):
                super().__init__(params)
                self.save_hyperparameters()

        trained(objective(Saving), segment(tmp_path, 0, 1))
        assert Saving.load_from_checkpoint(tmp_path / "trial-3.pt").hparams["params"] == PARAMS

    def test_a_disk_that_is_full(self, tmp_path, monkeypatch):
        def full(path, content):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("stantune.objectives.lightning.checkpoint.write_whole", full)
        with pytest.raises(StantuneError, match=r"cannot be written \(No space left on device\); make room"):
            trained(objective(), segment(tmp_path, 0, 1))


class Counting(Callback):
    """Counts the epochs it has seen, and keeps the number in checkpoints."""

    def __init__(self):
        self.epochs = 0
        self.seen = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs += 1
        self.seen.append(self.epochs)

    def state_dict(self):
        return {"epochs": self.epochs}

    def load_state_dict(self, state):
        self.epochs = state["epochs"]


class TestWhatIsTheUsers:
    def test_callbacks_are_copied_and_keep_their_states(self, tmp_path):
        counting = Counting()
        what = objective(callbacks=[counting])
        for start, stop in ((0, 2), (2, 3)):
            trained(what, segment(tmp_path, start, stop))
        assert counting.seen == []
        assert kept(tmp_path / "trial-3.pt")["callbacks"]["Counting"] == {"epochs": 3}

    def test_callbacks_and_loggers_by_segment(self, tmp_path):
        made = []

        def callbacks(asked):
            made.append(asked)
            return [LearningRateMonitor()]

        def logger(asked):
            return CSVLogger(tmp_path / "logs", name=f"trial-{asked.trial}", version="")

        what = objective(callbacks=callbacks, logger=logger, trainer_settings={"log_every_n_steps": 1})
        asked = segment(tmp_path, 0, 2)
        trained(what, asked)
        assert made == [asked]
        rows = (tmp_path / "logs/trial-3/metrics.csv").read_text().splitlines()
        assert {"train_loss", "val_loss", "lr-SGD"} <= set(rows[0].split(","))

    def test_a_logger_is_copied(self, tmp_path):
        logger = CSVLogger(tmp_path / "logs")
        trained(objective(logger=logger), segment(tmp_path, 0, 1))
        assert logger._experiment is None
        assert (tmp_path / "logs/lightning_logs/version_0/metrics.csv").exists()

    def test_early_stopping_ends_the_trial_for_good(self, tmp_path):
        class Flat(Net):
            def validation_step(self, batch, batch_idx):
                self.log("val_loss", torch.tensor(1.0 if self.trainer.current_epoch < 2 else 2.0))

        what = objective(Flat, callbacks=[EarlyStopping("val_loss", patience=1)])
        whole = trained(what, segment(tmp_path / "whole", 0, 6))
        assert (whole.iterations, whole.metrics["val_loss"]) == (6, 1.0)  # it stops after the second epoch
        for start, stop in ((0, 2), (2, 4), (4, 6)):
            outcome = trained(what, segment(tmp_path / "cut", start, stop))
        assert outcome == whole
        assert kept(tmp_path / "cut/trial-3.pt")["epoch"] == kept(tmp_path / "whole/trial-3.pt")["epoch"]

    def test_checkpoints_of_lightnings_own_lie_in_the_trials_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        trained(objective(callbacks=[ModelCheckpoint(save_last=True)]), segment(tmp_path / "kept", 0, 1))
        assert [place.name for place in tmp_path.iterdir()] == ["kept"]
        assert (tmp_path / "kept/trial-3/checkpoints/last.ckpt").exists()

    def test_nothing_else_is_left_anywhere(self, tmp_path, monkeypatch, capfd):
        monkeypatch.chdir(tmp_path)
        trained(objective(), segment(tmp_path / "kept", 0, 2))
        assert [place.name for place in tmp_path.iterdir()] == ["kept"]
        assert [place.name for place in (tmp_path / "kept").iterdir()] == ["trial-3.pt"]
        assert capfd.readouterr() == ("", "")

    def test_settings_of_the_trainer_by_setting(self, tmp_path):
        seen = []

        class Looking(Net):
            def on_train_start(self):
                seen.append(self.trainer.gradient_clip_val)

        trained(
            objective(Looking, trainer_settings=lambda params: {"gradient_clip_val": params["lr"]}),
            segment(tmp_path, 0, 1),
        )
        assert seen == [0.1]

    @pytest.mark.parametrize("settings", [{"max_epochs": 3}, {"max_steps": 3}, {"callbacks": []}, {"logger": True}])
    def test_settings_that_are_not_theirs(self, tmp_path, settings):
        with pytest.raises(UsageError, match="which is not theirs to say"):
            objective(trainer_settings=settings)
        with pytest.raises(UsageError, match="which is not theirs to say"):
            trained(objective(trainer_settings=lambda params: settings), segment(tmp_path, 0, 1))

    def test_the_callers_random_states_come_back(self, tmp_path):
        def states():
            return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

        before, environment = states(), dict(os.environ)
        trained(objective(), segment(tmp_path, 0, 2))
        assert states() == before
        assert dict(os.environ) == environment


STAN = Stan(rate=0.25, period=2)


def test_a_worker_says_nothing(tmp_path):
    """Also where both packages are there, one of which then speaks for the other."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    (tmp_path / "order").write_bytes(
        cloudpickle.dumps((objective(stan=STAN), segment(tmp_path, 0, 1), segment(tmp_path, 1, 2, finalist=0)))
    )
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    code = f"""
import pickle
from stantune.protocols import Place
objective, *segments = pickle.load(open({str(tmp_path / "order")!r}, "rb"))
for number, segment in enumerate(segments):
    segment.checkpoint.unlink(missing_ok=True)
    objective.trainer(Place(threads=1)).train(segment, lambda: False, lambda done: None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


class TestStan:
    def test_it_trains_with_stan_and_its_parts_are_the_whole(self, tmp_path):
        what = objective(stan=STAN)
        whole = check_segments(tmp_path, what)
        assert whole.metrics != trained(objective(), segment(tmp_path / "exact", 0, 6)).metrics
        assert (whole.cost.reduced, whole.cost.exact) == (6, 0)
        assert what.rate == 0.25

    def test_rates_by_epoch(self, tmp_path):
        seen = []

        def module(params):
            class Looking(Net):
                def on_train_epoch_start(self):
                    seen.append((self.trainer.current_epoch, self.trainer.callbacks[-1].stan.rate))

            return Looking(params)

        rates = ((0, 0.25), (2, 0.5), (4, 1.0))
        check_segments(tmp_path, objective(module, stan=STAN, name="Net"), (3, 6), rates=rates)
        expected = [(0, 0.25), (1, 0.25), (2, 0.5), (3, 0.5), (4, 1.0), (5, 1.0)]
        assert seen == 2 * expected

    def test_a_final_is_exact(self, tmp_path):
        exact = trained(objective(), segment(tmp_path / "exact", 0, 3, finalist=0))
        final = trained(objective(stan=STAN), segment(tmp_path / "stan", 0, 3, finalist=0, rates=((0, 0.25),)))
        assert final.metrics == pytest.approx(exact.metrics, rel=1e-3)
        assert (final.cost.reduced, final.cost.exact) == (0, 3)

    @pytest.mark.parametrize("stan", [Stan(rate="auto"), Stan(memo=Memo(samples=9, epoch=3))])
    def test_what_a_search_cannot_do(self, stan):
        with pytest.raises(UsageError, match="give Stan a rate"):
            objective(stan=stan)


EXAMPLE = Path(__file__).parents[2] / "examples" / "lightning_module.py"


@pytest.mark.usefixtures("data_dir")
def test_the_example_is_searched(tmp_path):
    assert "python examples/lightning_module.py" in EXAMPLE.read_text()
    found = runpy.run_path(str(EXAMPLE))
    # A module that workers cannot import: it travels itself.
    result = tune(found["objective"], max_resource=3, out=tmp_path / "digits", workers=2)
    assert result.complete
    assert set(result.final.metrics) == {"val_error", "test_error"}
    assert result.final.metrics["test_error"] < 60
    params = result.final.params
    weights = found["Digits"].load_from_checkpoint(tmp_path / "digits" / "final.pt").net[0].weight
    assert weights.shape == (params["width"], 1, 5, 5)


def test_code_that_no_other_process_finds_by_its_name_travels(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import lightning.pytorch as pl\n"
        "class Mine(pl.LightningModule):\n"
        "    def __init__(self, params):\n"
        "        super().__init__()\n"
        "def data(params):\n"
        "    return 5\n"
    )
    code = f"""
import cloudpickle, sys
sys.path.insert(0, {str(tmp_path)!r})
from stantune.objectives.choose import load_source
from stantune.objectives.lightning.objective import LightningObjective
from stantune.space import Space
parts = [load_source({str(tmp_path / "mine.py")!r} + ":" + name) for name in ("Mine", "data")]
sys.stdout.buffer.write(cloudpickle.dumps(LightningObjective(*parts, Space({{}}))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    (tmp_path / "mine.py").unlink()
    back = cloudpickle.loads(done.stdout)
    assert (back.name, back.data({}), type(back.module({})).__name__) == ("Mine", 5, "Mine")


class TestTheObjective:
    def test_what_it_says(self):
        what = objective(mode="max", monitor="accuracy", length=9)
        assert isinstance(what, Objective)
        assert (what.name, what.metric, what.unit, what.length, what.rate) == (
            "Net",
            Metric("accuracy", "maximize"),
            "epoch",
            9,
            None,
        )
        assert json.loads(json.dumps(what.identity)) == what.identity
        assert what.identity != objective(stan=STAN).identity

    @pytest.mark.parametrize(
        ("values", "sentence"), [({"mode": "up"}, "give min or max"), ({"unit": "step"}, "give epoch")]
    )
    def test_what_it_refuses(self, values, sentence):
        with pytest.raises(UsageError, match=sentence):
            objective(**values)

    def test_what_is_no_module_or_no_data(self, tmp_path):
        with pytest.raises(UsageError, match="gave a dict, which is no LightningModule"):
            trained(objective(lambda params: params), segment(tmp_path, 0, 1))
        with pytest.raises(UsageError, match="gave a tuple of 4"):
            trained(objective(data=lambda params: (1, 2, 3, 4)), segment(tmp_path, 0, 1))

    @pytest.mark.parametrize(
        ("conditions", "threads"),
        [({"side_by_side": True}, 1), ({"threads": 3}, 3), ({"begun": {"threads": 5}}, 5), ({}, 1)],
    )
    def test_its_threads(self, conditions, threads):
        assert objective().prepared(Conditions(9, **conditions)).threads == threads

    def test_without_lightning_it_says_what_to_install(self, monkeypatch):
        for package in ("lightning", "lightning.pytorch", "pytorch_lightning"):
            monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(StantuneError, match=r"pip install 'stantune\[lightning\]'"):
            objective().trainer(Place())

    @pytest.mark.parametrize("stan", [None, STAN], ids=["exact", "stan"])
    def test_it_does_all_that_is_asked_of_one(self, stan):
        check_objective(LightningObjective(Net, loaders, SPACE, stan=stan), PARAMS, stop=2)
