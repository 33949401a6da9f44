"""Lightning's objective: what it says of itself, refuses, and how it travels; with STAN; and the example."""

from __future__ import annotations

import functools
import json
import runpy
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest
import torch
from earlier_code import noted_as_before
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from lightning_training import PARAMS, SPACE, STAN, Net, check_segments, loaders, objective, segment
from segments import trained

from stantune.errors import StantuneError, UsageError
from stantune.objectives.lightning.objective import LightningObjective
from stantune.protocols import Conditions, Metric, Objective, Place
from stantune.search.propose.sampling import sample
from stantune.search.settings import SearchSettings
from stantune.stan.config import Memo, Stan
from stantune.testing import check_objective
from stantune.tuning.tune import tune

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]


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

    def test_settings_of_the_trainer_and_callbacks_are_what_it_is(self):
        class Own(Callback):
            def __init__(self, factor):
                self.factor = factor

        def some(segment):
            return [EarlyStopping("val_loss")]

        def others(segment):
            return [EarlyStopping("accuracy")]

        def given():
            yield {}
            yield from ({"trainer_settings": {"gradient_clip_val": value}} for value in (1.0, 0.01))
            yield from ({"trainer_settings": lambda params, each=each: {"min_epochs": each}} for each in (1, 2))
            yield from ({"callbacks": [EarlyStopping("val_loss", patience=each)]} for each in (1, 2))
            yield from ({"callbacks": [Own(each)]} for each in (1, 2))
            yield from ({"callbacks": each} for each in (some, others))

        found = [json.dumps(objective(**each).identity) for each in given()]
        assert len(set(found)) == len(found)
        assert [json.dumps(objective(**each).identity) for each in given()] == found
        assert objective(trainer_settings={}, callbacks=[], logger=CSVLogger("a")).identity == objective().identity

    def test_a_search_does_not_go_on_with_other_ones(self, tmp_path):
        def clipping(value):
            settings = {"accelerator": "cpu", **({} if value is None else {"gradient_clip_val": value})}
            return LightningObjective(Net, loaders, SPACE, trainer_settings=settings)

        for value in (1.0, None):
            options = {"max_resource": 1, "trials": 1, "mode": "async", "final": "none", "out": tmp_path / str(value)}
            tune(clipping(value), **options)
            with pytest.raises(UsageError, match=r"made-of\.trainer_settings\.gradient_clip_val: .* there, 0\.01 here"):
                tune(clipping(0.01), **options)
            assert tune(clipping(0.01), **options, accept_changes=True).complete

    def test_a_search_whose_code_an_earlier_version_noted_goes_on(self):
        @functools.lru_cache
        def loaders_of(params):
            return loaders(params)

        settings = SearchSettings(0, 9, 1)
        with noted_as_before():
            noted = settings.identity(LightningObjective(Net, loaders_of, SPACE))
        now = settings.identity(LightningObjective(Net, loaders_of, SPACE))
        assert now["code"] != noted["code"]
        assert settings.extends(noted, LightningObjective(Net, loaders_of, SPACE))
        assert not settings.extends(noted, LightningObjective(Net, loaders, SPACE))

    def test_a_search_from_when_they_were_not_noted_goes_on(self):
        what, settings = objective(trainer_settings={"gradient_clip_val": 1.0}), SearchSettings(0, 9, 1)
        noted = settings.identity(what)
        assert settings.extends({name: value for name, value in noted.items() if name != "made-of"}, what)
        assert not settings.extends(noted, objective())

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"mode": "up"}, "give min or max"),
            ({"unit": "step"}, "give epoch"),
            ({"space": {"lr": 1}}, "`space` of Net is a dict; give a Space of its parameters"),
            ({"monitor": 3}, "the metric of Net is called 3, which is no text; give its name"),
            ({"length": 0}, "the length of Net is 0; give a whole number of epochs, 1 or more"),
            ({"callbacks": 5}, "`callbacks` has 5, which is no callback of Lightning's; give one, such as EarlySt"),
            ({"callbacks": [EarlyStopping]}, "`callbacks` has <class .*EarlyStopping'>, which is no callback"),
            ({"callbacks": EarlyStopping}, "`callbacks` has <class .*EarlyStopping'>, which is no callback"),
            ({"trainer_settings": 5}, "`trainer_settings` is 5, and no dict of settings; give one"),
        ],
    )
    def test_what_it_refuses(self, values, sentence):
        with pytest.raises(UsageError, match=sentence):
            objective(**values)

    def test_one_callback_is_taken_as_several(self, tmp_path):
        several, one, none = (objective(callbacks=each) for each in ([EarlyStopping("a")], EarlyStopping("a"), None))
        assert one.identity == several.identity
        assert none.identity == objective().identity
        stopping = EarlyStopping("val_loss", patience=0, min_delta=10)
        for callbacks in (stopping, lambda segment: stopping):
            outcome = trained(objective(callbacks=callbacks), segment(tmp_path / str(id(callbacks)), 0, 6))
            assert outcome.metrics == trained(objective(), segment(tmp_path / f"two-{id(callbacks)}", 0, 2)).metrics

    def test_what_is_made_of_a_setting_is_looked_at_too(self, tmp_path):
        for given in ({"callbacks": lambda segment: 5}, {"trainer_settings": lambda params: None}):
            with pytest.raises(UsageError, match=f"`{next(iter(given))}`"):
                trained(objective(**given), segment(tmp_path, 0, 1))

    def test_what_is_no_module_or_no_data(self, tmp_path):
        with pytest.raises(UsageError, match="gave a dict, which is no LightningModule"):
            trained(objective(lambda params: params), segment(tmp_path, 0, 1))
        with pytest.raises(UsageError, match="gave a tuple of 4"):
            trained(objective(data=lambda params: (1, 2, 3, 4)), segment(tmp_path, 0, 1))

    def test_a_compiled_module_is_refused_and_one_of_compiled_parts_is_not(self, tmp_path):
        with pytest.raises(UsageError, match=r"gave what torch.compile made of a Net; give .* self\.net\.compile\(\)"):
            trained(objective(lambda params: torch.compile(Net(params))), segment(tmp_path, 0, 1))

        class Compiled(Net):
            def __init__(self, params):
                super().__init__(params)
                self.net.compile(backend="eager")

        plain = trained(objective(), segment(tmp_path / "plain", 0, 1))
        compiled = trained(objective(Compiled), segment(tmp_path / "compiled", 0, 1))
        assert compiled.metrics == pytest.approx(plain.metrics, rel=1e-3)

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


EXAMPLE = Path(__file__).parents[3] / "examples" / "lightning_module.py"


@pytest.mark.usefixtures("data_dir")
def test_the_example_can_be_searched():
    found = runpy.run_path(str(EXAMPLE))
    params = sample(found["objective"].space, 0, 0)
    images, labels = next(iter(found["loaders"](params)[0]))
    assert found["Digits"](params).net(images).shape == (len(labels), 10)


@pytest.mark.slow
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
