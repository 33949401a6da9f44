"""How a training by Lightning ends: interrupted, killed, lost, damaged, or as a final one."""

from __future__ import annotations

import inspect
import io
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning_training import PARAMS, Net, as_others_find_it, dataset, kept, loaders, objective, same_state, segment
from segments import trained
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset

from stantune.errors import AheadCheckpointError, CheckpointError, DamagedCheckpointError, StantuneError, UsageError
from stantune.objectives.lightning import objective as objectives
from stantune.objectives.lightning.objective import MetricError, NoBatchError
from stantune.search.stopping import stoppable
from stantune.training.checkpoint import sealed

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]


class Nothing(IterableDataset):
    """Has no length, and no sample."""

    def __iter__(self):
        return iter(())


class TestInterruptions:
    def test_it_is_left_within_an_epoch_and_gone_on_with(self, tmp_path, monkeypatch):
        monkeypatch.setattr(objectives, "SAVE_SECONDS", 0.0)
        monkeypatch.setattr(objectives, "SAVE_SETUPS", 0.0)
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
lightning.SAVE_SECONDS = lightning.SAVE_SETUPS = 0.0
objective, segment = pickle.load(open({str(tmp_path / "order")!r}, "rb"))
batches = []
def watch(done):
    batches.append(done)
    if batches.count(3) == 4:  # in the fourth epoch
        os.kill(os.getpid(), signal.SIGKILL)
objective.trainer(Place(threads=1)).train(segment, lambda: False, watch)
"""
        as_others_find_it(tmp_path / "order", objective(), asked)
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

    def test_a_second_one_that_a_module_swallows_is_obeyed(self, tmp_path):
        class Swallows(Net):
            def validation_step(self, batch, batch_idx):
                super().validation_step(batch, batch_idx)
                # The last that is done of a segment.
                if self.trainer.current_epoch == 1 and batch_idx == 2:
                    try:
                        signal.raise_signal(signal.SIGINT)
                        signal.raise_signal(signal.SIGINT)
                    except KeyboardInterrupt:
                        pass

        asked = segment(tmp_path, 0, 2)
        with stoppable() as stop, pytest.raises(KeyboardInterrupt):
            trained(objective(Swallows), asked, stop.asked)
        assert not asked.checkpoint.exists()

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

    @pytest.mark.parametrize(
        ("data", "settings"),
        [
            (lambda params: DataLoader(dataset(), batch_size=61, drop_last=True), {}),
            (lambda params: DataLoader(Nothing(), batch_size=10), {}),
            (loaders, {"limit_train_batches": 0}),
        ],
    )
    def test_one_that_trains_nothing_fails(self, tmp_path, data, settings):
        class Constant(Net):
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), self.lr)

        asked, what = segment(tmp_path, 0, 2), objective(Constant, data, trainer_settings=settings)
        with pytest.raises(
            NoBatchError, match=r"^Lightning trained nothing, .* no batch; make batches no larg"
        ) as told:
            trained(what, asked)
        assert not told.value.again
        assert not asked.checkpoint.exists()

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
        with pytest.raises(AheadCheckpointError, match="is at epoch 1, beyond 0"):
            trained(objective(), segment(tmp_path, 0, 0))
        content = bytearray(asked.checkpoint.read_bytes())
        content[len(content) // 2] ^= 1
        asked.checkpoint.write_bytes(content)
        with pytest.raises(DamagedCheckpointError, match="cut short or altered"):
            trained(objective(), segment(tmp_path, 1, 2))

    @pytest.mark.parametrize("note", [None, [1], {}, {"done": "1", "metrics": None, "start": 0, "cost": {}}])
    def test_a_note_that_no_training_makes(self, tmp_path, note):
        asked = segment(tmp_path, 0, 1)
        trained(objective(), asked)
        saved = kept(asked.checkpoint)
        buffer = io.BytesIO()
        torch.save({**saved, "stantune": {**saved["stantune"], "note": note}}, buffer)
        asked.checkpoint.write_bytes(sealed(buffer.getvalue()))
        with pytest.raises(DamagedCheckpointError, match="a note that no training makes; delete it"):
            trained(objective(), segment(tmp_path, 1, 2))

    def test_lightning_executes_nothing_in_one_either(self, tmp_path, monkeypatch):
        """Not where it is exchanged after it was looked at, nor in an environment in which torch.load would."""
        if "weights_only" not in inspect.signature(Trainer.fit).parameters:
            pytest.skip("Lightning has no such argument before 2.6")
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        asked, exploded = segment(tmp_path, 0, 1), tmp_path / "exploded"
        trained(objective(), asked)

        class Bomb:
            def __reduce__(self):
                return os.mkdir, (str(exploded),)

        def exchanged(params):
            torch.save(Bomb(), asked.checkpoint)
            return Net(params)

        with pytest.raises(pickle.UnpicklingError):
            trained(objective(exchanged, name="Net"), segment(tmp_path, 1, 2))
        assert not exploded.exists()

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
