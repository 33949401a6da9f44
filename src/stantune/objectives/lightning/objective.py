"""A Lightning module as an objective: trained by Lightning's own Trainer, from Lightning's own checkpoints."""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import cloudpickle
import torch

from stantune.arguments import function
from stantune.errors import AheadCheckpointError, NoEffectWarning, StanWarning, UsageError
from stantune.loss_curve import LossMeans
from stantune.objectives.function.objective import can_be_imported, name_of
from stantune.objectives.lightning import checkpoint as checkpoints
from stantune.objectives.lightning.fit import Fit
from stantune.objectives.lightning.following import Lost, Stopped
from stantune.objectives.lightning.given import callbacks_of, check_settings, is_callback
from stantune.objectives.lightning.package import quiet, require_lightning
from stantune.objectives.preparing import check_told, chosen_threads
from stantune.objectives.surroundings import as_it_was
from stantune.outcome import Cost, Outcome
from stantune.protocols import Conditions, Metric, Place, Prepared, Segment, StopEarly
from stantune.search.settings import CODE
from stantune.space import Space
from stantune.stan.config import Stan
from stantune.user_code.digest import digest

MODES: Mapping[str, Literal["minimize", "maximize"]] = {"min": "minimize", "max": "maximize"}
# A process that is killed loses no more than this, and the epoch that it was in.
SAVE_SECONDS = 60.0
# Saving takes a new fit: so much longer than a fit takes to begin lies between two.
SAVE_SETUPS = 10
Params = dict[str, Any]


class MetricError(ValueError):
    """The monitored metric was not logged, and would not be, were it tried again."""

    again = False


class NoBatchError(ValueError):
    """Nothing was trained, and nothing would be, were it tried again."""

    again = False


@dataclass(frozen=True)
class LightningObjective:
    """Searches the settings of a LightningModule: `LightningObjective(Classifier, make_loaders, space)`.

    A trial is trained by `Trainer.fit`, from segment to segment by Lightning's own checkpoints, which hold all that
    Lightning keeps: weights, optimizers, schedulers, callbacks. The checkpoint of a final training, `final.pt`, is one
    too: `Classifier.load_from_checkpoint("final.pt")`.

    A segment ends with an epoch, and `trainer.max_epochs` is R all the while, in a final training its own length, so
    that a learning-rate schedule over max_epochs, or over `trainer.estimated_stepping_batches`, is the same in a trial
    that is dropped early as in one that is trained to the end.

    All random choices follow from the trial's seed and the epoch: Python's, NumPy's and PyTorch's states are seeded
    before data and module are made, and in each epoch before its loaders begin, its hooks are called and its first
    batch is trained. So 0 to 2 to 6 epochs give the bits that 0 to 6 give, also after a kill in the middle of an epoch.
    Generators of loaders and samplers are seeded by epoch as well, and a loader's workers begin anew with each epoch.
    Generators of your own that live longer than an epoch belong into `state_dict`, as everything else of the kind does.

    A loss or a monitored value that is not finite means that the trial is lost. A callback that ends the training, such
    as EarlyStopping, ends the trial with what it has by then, once Lightning's min_epochs and min_steps are met. Where
    there is no batch to train on, as with drop_last and batches larger than the data, the trial fails. In the end
    weights that were not validated are validated; after a final training the test set is evaluated, where there is one.

    Callbacks may put other weights in when a training ends, as those do that average. A trial is compared by these, and
    goes on from those that were trained; a training's last checkpoint has what was measured. The epoch that
    StochasticWeightAveraging adds for batch norms' statistics comes after the last one and does not count.

    Attributes:
        module: from a setting, a dict, to a LightningModule; a class that takes the dict is one.
        data: from a setting to a data module, to a loader, or to a tuple of loaders for training, validation and test;
            None where the module has its own.
        space: the parameters.
        monitor: the logged metric that trials are compared by.
        mode: "min" or "max": what is better.
        unit: "epoch".
        length: the longest training there is, in epochs; None where there is no end.
        trainer_settings: of Lightning's Trainer, or a function from a setting to these.
        callbacks: Lightning's, one or several; each fit has fresh copies, whose states go along in checkpoints. Or a
            function from a Segment to them.
        logger: Lightning's, or several, copied too; or a function from a Segment to it. None for none.
        name: of the search; the module's own by default.
        stan: how trials are accelerated, with layers named as in the module; None for exactly. Final trainings are
            exact, with every entry computed by native kernels where there are STAN's settings.
        whole: R of the search; `prepared` says it.

    Raises:
        UsageError: something is out of its range.
    """

    module: Callable[[Params], Any]
    data: Callable[[Params], Any] | None
    space: Space
    _: KW_ONLY
    monitor: str = "val_loss"
    mode: str = "min"
    unit: str = "epoch"
    length: int | None = None
    trainer_settings: Mapping[str, Any] | Callable[[Params], Mapping[str, Any]] | None = None
    callbacks: Any = ()
    logger: Any = None
    name: str = ""
    stan: Stan | None = None
    whole: int | None = None

    def __post_init__(self) -> None:
        """Check what can be checked."""
        if self.mode not in MODES:
            raise UsageError(f"`mode`={self.mode!r} is unknown; give min or max")
        if not callable(self.callbacks) or is_callback(self.callbacks):
            object.__setattr__(self, "callbacks", callbacks_of(self.callbacks))
        function("module", self.module, ("params",))
        if self.data is not None:
            function("data", self.data, ("params",))
        for field, takes in (("trainer_settings", "params"), ("callbacks", "segment"), ("logger", "segment")):
            if callable(given := getattr(self, field)):
                function(field, given, (takes,))
        if self.unit != "epoch":
            raise UsageError(
                f"`unit`={self.unit!r} is none of Lightning's segments; they end with an epoch: give epoch"
            )
        if self.trainer_settings is not None and not callable(self.trainer_settings):
            check_settings(self.trainer_settings)
        if self.stan is not None and (self.stan.least_rate == "auto" or self.stan.memo is not None):
            raise UsageError(
                "STAN's rate of auto is measured on one network, and memo needs the samples' ids, which a search does "
                "not know; give Stan a rate, such as 0.5, and no memo"
            )
        if not self.name:
            object.__setattr__(self, "name", name_of(self.module))
        check_told(self.name, self.space, self.metric, self.unit, self.length)

    @property
    def metric(self) -> Metric:
        """What is monitored."""
        return Metric(self.monitor, MODES[self.mode])

    @property
    def rate(self) -> float | Literal["auto"] | None:
        """The share of the entries that STAN computes; None for exact training."""
        return None if self.stan is None else self.stan.least_rate

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """The name, what is compared, STAN's settings, a digest of the code, a training's settings and callbacks."""
        identity: dict[str, Any] = {
            "problem": self.name,
            "metric": self.monitor,
            "direction": self.metric.direction,
            "unit": self.unit,
            "accelerate": "none" if self.stan is None else "stan",
            "rate": self.rate,
            "code": digest(self.module) + digest(self.data),
            # Also where there are none of them, so that those that come later are told from what nobody noted.
            "made-of": {"trainer_settings": _noted(self.trainer_settings or {}), "callbacks": _noted(self.callbacks)},
        }
        if self.stan is not None:
            settings = {name: value for name, value in self.stan.identity.items() if name not in ("rate", "seed")}
            identity["stan"] = json.loads(json.dumps(settings))
        return identity

    def prepared(self, conditions: Conditions) -> Prepared:
        """See Objective: the number of threads is chosen."""
        require_lightning()
        threads = chosen_threads(conditions, self.name, torch.get_num_threads)
        return Prepared(replace(self, whole=conditions.max_resource), threads)

    def trainer(self, place: Place) -> LightningTrainer:
        """See Objective; raises StantuneError where Lightning is not installed."""
        require_lightning()
        return LightningTrainer(self, place)

    def __getstate__(self) -> dict[str, Any]:
        """Take along code that another process would not find by its name."""
        for each in (self.module, self.data, self.trainer_settings, self.callbacks, self.logger):
            module = sys.modules.get(getattr(each, "__module__", None) or "__main__") if callable(each) else None
            if module is not None and module.__name__ != "__main__" and not can_be_imported(module.__name__):
                cloudpickle.register_pickle_by_value(module)
        return {"identity": self.identity} | vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put all back, frozen as this is."""
        vars(self).update(state)


class LightningTrainer:
    """Trains settings by Lightning; see protocols.Trainer."""

    def __init__(self, objective: LightningObjective, place: Place) -> None:
        """Train in this process, at a place."""
        if objective.stan is not None:
            # Now, since both of Lightning's packages set their loggers' levels when they are imported.
            importlib.import_module("stantune.integrations.lightning")
        self._what = objective
        self._threads = place.threads or torch.get_num_threads()
        gpus = torch.cuda.device_count()
        self._device = f"cuda:{place.number % gpus}" if place.device == "cuda" and gpus else place.device
        # Whether it was said that STAN stood still, which each fit would say again.
        self._said = False

    def train(self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """See protocols.Trainer.

        Raises:
            MetricError: the monitored metric was not logged.
            NoBatchError: the loader for training gave no batch.
        """
        identity = self._identity(segment)
        note = checkpoints.load_note(segment.checkpoint, identity) or {"done": 0, "start": None}
        if note["done"] > segment.stop:
            raise AheadCheckpointError(
                f"checkpoint {segment.checkpoint} is at epoch {note['done']}, beyond {segment.stop}; delete it to "
                "train anew"
            )
        cost = Cost.from_plain(note["cost"]) if note["start"] == segment.start else Cost()
        if note.get("ended") or (note["done"] == segment.stop and note["metrics"] is not None):
            return self._outcome(segment, note["metrics"], cost, LossMeans(note.get("losses")))
        with as_it_was(self._device):
            torch.set_num_threads(self._threads)
            with quiet():
                warnings.simplefilter("ignore", NoEffectWarning)
                losses = LossMeans(note.get("losses"))
                asked = bool(note.get("asked_to_end"))
                return self._train(segment, identity, int(note["done"]), asked, cost, losses, stop_early, watch)

    def _train(
        self,
        segment: Segment,
        identity: str,
        done: int,
        asked: bool,
        cost: Cost,
        losses: LossMeans,
        stop_early: StopEarly,
        watch: Callable[[int], None],
    ) -> Outcome:
        """Train in as many fits as it takes: a fit ends where it is saved, and where STAN's rate changes."""
        length = self._length(segment)
        while True:
            watch(done)
            if stop_early():
                return Outcome(done, {}, None, True, cost)
            stan, until = self._stan(segment, done)
            fit = Fit(
                segment.params,
                segment.seed,
                done,
                until,
                max(length or segment.stop, segment.stop),
                self._device,
                segment.checkpoint.parent / segment.checkpoint.stem,
                stop_early,
                watch,
                lambda setup: max(SAVE_SECONDS, SAVE_SETUPS * setup),
                lambda trainer: checkpoints.taken(trainer, segment.checkpoint),
                losses,
                asked,
            )
            began = time.perf_counter()
            try:
                self._fit(fit, segment, stan, done)
            except Lost:
                lost = fit.epoch + 1
                _add(cost, stan, 0, time.perf_counter() - began - fit.evaluation_seconds)
                return Outcome(lost, {}, lost, False, cost, losses=losses.curve)
            except Stopped:
                return Outcome(done, {}, None, True, cost)
            if not (fit.batches or fit.trainer.should_stop):
                raise NoBatchError(
                    "Lightning trained nothing, since the loader for training gave no batch; make batches no larger "
                    "than the data, or leave drop_last=True and limit_train_batches=0 away"
                )
            asked = bool(fit.trainer.should_stop)
            ended, reached = fit.ended, fit.epoch
            saved, fit.left = fit.left, {}
            if ended or (length is not None and reached >= length):
                # Nothing goes on from here: the file holds the weights that are measured, whoever has put them in.
                saved.clear()  # before another copy is made
                saved = checkpoints.taken(fit.trainer, segment.checkpoint)
            metrics = None
            if ended or reached >= segment.stop:
                metrics = self._metrics(fit, segment)
            seconds = time.perf_counter() - began - fit.evaluation_seconds
            _add(cost, stan if fit.spares else None, reached - done, seconds)
            cost.evaluation_seconds += fit.evaluation_seconds
            done = reached
            note = {
                "done": done,
                "ended": ended,
                "asked_to_end": asked,
                "metrics": metrics,
                "start": segment.start,
                "cost": asdict(cost),
                "losses": losses.state,
            }
            # It raises KeyboardInterrupt once more where a module or a callback has swallowed it.
            stop_early()
            checkpoints.save(segment.checkpoint, identity, saved, note)
            if metrics is not None:
                return self._outcome(segment, metrics, cost, losses)

    def _fit(self, fit: Fit, segment: Segment, stan: Stan | None, done: int) -> None:
        what = self._what
        settings = what.trainer_settings
        if callable(settings):
            settings = settings(dict(segment.params))
            check_settings(settings)
        callbacks = callbacks_of(what.callbacks(segment)) if callable(what.callbacks) else what.callbacks
        # Loggers are no functions, however much can be called on them.
        logger = what.logger(segment) if callable(what.logger) else what.logger
        checkpoint = segment.checkpoint if done else None
        if self._said:
            warnings.filterwarnings("ignore", "STAN stood still", StanWarning)
        fit.run(what.module, what.data, settings or {}, callbacks, logger or False, stan, checkpoint)
        self._said = self._said or fit.stands

    def _metrics(self, fit: Fit, segment: Segment) -> dict[str, float]:
        """Return what was measured, as it is noted: not finite where the trial is lost."""
        metrics = fit.evaluated()
        if self._what.monitor not in metrics:
            there = ", ".join(metrics) or "nothing"
            raise MetricError(
                f"{self._what.monitor!r} was not logged, by which trials are compared; there is {there}: log it with "
                "self.log in validation_step, or give another `monitor`"
            )
        if segment.final and math.isfinite(metrics[self._what.monitor]):
            metrics = {**fit.tested(), **metrics}
        return {name: value for name, value in metrics.items() if name == self._what.monitor or math.isfinite(value)}

    def _outcome(self, segment: Segment, metrics: Mapping[str, float], cost: Cost, losses: LossMeans) -> Outcome:
        if not math.isfinite(metrics[self._what.monitor]):
            return Outcome(segment.stop, {}, segment.stop, False, cost, losses=losses.curve)
        return Outcome(segment.stop, dict(metrics), None, False, cost, losses=losses.curve)

    def _stan(self, segment: Segment, done: int) -> tuple[Stan | None, int]:
        """Return how it is accelerated from here on, and up to where."""
        stan = self._what.stan
        if stan is None:
            return None, segment.stop
        if segment.final:
            # Every entry computed, by native kernels where the trials' are.
            return Stan(rate=1, seed=segment.seed, native=stan.native), segment.stop
        rate: Any = next((rate for start, rate in reversed(segment.rates) if start <= done), stan.rate)
        until = min([start for start, _ in segment.rates if start > done] + [segment.stop])
        return replace(stan, seed=segment.seed, rate=rate), until

    def _identity(self, segment: Segment) -> str:
        # Not the code: whether changed code may go on is the search's to decide, and it decides before it trains.
        depends_on = {name: value for name, value in self._what.identity.items() if name not in CODE}
        depends_on |= {"params": dict(segment.params), "seed": segment.seed, "rates": segment.rates}
        depends_on |= {"length": self._length(segment), "final": segment.final}
        return json.dumps(depends_on, sort_keys=True)

    def _length(self, segment: Segment) -> int | None:
        """Return how long a training is at most, of which a segment is a part; None where nobody has said it."""
        return segment.length or self._what.whole or self._what.length


def _add(cost: Cost, stan: Stan | None, epochs: int, seconds: float) -> None:
    if stan is None or stan.least_rate == 1:
        cost.exact += epochs
        cost.exact_seconds += seconds
    else:
        cost.reduced += epochs
        cost.reduced_seconds += seconds


def _noted(given: Any) -> Any:
    """Return settings and callbacks as an identity has them: plain values as they are, all else by its digest."""
    if isinstance(given, Mapping):
        return {str(name): _noted(value) for name, value in given.items()}
    if isinstance(given, list | tuple):
        return [_noted(value) for value in given]
    return given if given is None or isinstance(given, bool | int | float | str) else digest(given)
