"""What is the user's own in a training by Lightning: callbacks, loggers, settings, a folder, random states, output."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import lightning.pytorch
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning_training import STAN, Net, as_others_find_it, kept, objective, segment
from segments import trained

from stantune.errors import UsageError
from stantune.objectives.lightning.fit import trainer_arguments

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]


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

    # Never met, met in the middle of the third epoch, and at its end.
    @pytest.mark.parametrize(
        ("settings", "ends"),
        [({"min_steps": 10**6}, (4, 24, 0.25)), ({"min_steps": 15}, (3, 15, 0.5)), ({"min_epochs": 3}, (3, 18, 0.5))],
    )
    def test_early_stopping_waits_for_lightnings_own_least(self, tmp_path, settings, ends):
        class Once(Net):
            def validation_step(self, batch, batch_idx):
                # Asks for the end after the second epoch, and never again.
                self.log("val_loss", torch.tensor([1.0, 2.0, 0.5, 0.25][self.trainer.current_epoch]))

        what = objective(Once, callbacks=[EarlyStopping("val_loss", patience=1)], trainer_settings=settings)
        for name, stops in (("whole", (4,)), ("cut", (2, 4))):
            for start, stop in pairwise((0, *stops)):
                outcome = trained(what, segment(tmp_path / name, start, stop))
            saved = kept(tmp_path / name / "trial-3.pt")
            assert (saved["epoch"], saved["global_step"], outcome.metrics["val_loss"]) == ends

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


@pytest.mark.parametrize(
    ("device", "settings", "accelerator", "devices"),
    [
        ("cpu", {}, "cpu", 1),
        ("cuda:1", {}, "gpu", [1]),
        ("cuda:1", {"devices": 1}, "gpu", [1]),
        ("cuda:1", {"accelerator": "gpu"}, "gpu", [1]),
        ("cuda:1", {"accelerator": "cuda", "devices": 1}, "cuda", [1]),
        ("cuda:1", {"accelerator": "auto", "devices": "auto"}, "auto", [1]),
        ("cuda:1", {"accelerator": "cpu"}, "cpu", 1),
        ("cuda:1", {"accelerator": "gpu", "devices": [0]}, "gpu", [0]),
        ("cuda:1", {"accelerator": "gpu", "devices": 2}, "gpu", 2),
        ("cpu", {"accelerator": "mps"}, "mps", 1),
    ],
)
def test_a_training_has_the_one_device_of_its_place(device, settings, accelerator, devices):
    fit = SimpleNamespace(device=device, whole=3, folder="trial-3")
    arguments = trainer_arguments(lightning.pytorch, fit, settings, [], [])
    assert (arguments["accelerator"], arguments["devices"]) == (accelerator, devices)


def test_an_accelerator_of_lightnings_is_one_by_its_name():
    fit = SimpleNamespace(device="cuda:1", whole=3, folder="trial-3")
    settings = {"accelerator": CUDAAccelerator()}
    assert trainer_arguments(lightning.pytorch, fit, settings, [], [])["devices"] == [1]


def test_a_worker_says_nothing(tmp_path):
    """Also where both packages are there, one of which then speaks for the other."""
    segments = segment(tmp_path, 0, 1), segment(tmp_path, 1, 2, finalist=0)
    as_others_find_it(tmp_path / "order", objective(stan=STAN), *segments)
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
