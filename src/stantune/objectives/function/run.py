"""Run: what a function that trains is given of its segment: where to go on, what is kept, when it is to end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Never

from stantune.objectives.returned import loss_of
from stantune.protocols import Segment
from stantune.seeds import derive

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from stantune.objectives.function.acceleration import Acceleration
    from stantune.objectives.function.course import Course


class Run:
    """One segment of a trial's training, as a function sees it.

    ```python
    def train(run: st.Run) -> dict[str, float]:
        model = Net(run.params["width"])
        optimizer = torch.optim.AdamW(model.parameters(), run.params["lr"])
        run.keep(model=model, optimizer=optimizer)
        for epoch in run.steps():
            ...
        return {"accuracy": ...}
    ```

    A function is called once for each segment: from the beginning of a training to its first rung, from there to the
    second, and so on, perhaps in another process. Each time the random states of Python, NumPy and PyTorch begin alike
    (they follow from the trial's seed), so that what is made before `steps` (a split of the data, say) is the same in
    all segments; `steps` then puts back the states that the last segment ended with. What is kept is kept between two
    steps: what happens within one is done again if it is cut.

    A function that returns has trained up to `stop`. It returns its metrics, a mapping of names to numbers, or just the
    number that is compared. It may do without `keep`, `steps` and all the rest, and then trains from the beginning each
    time.

    Attributes:
        params: the trial's setting.
        seed: of the trial, from 0 to 2**31 - 1: what NumPy, scikit-learn and all others take.
        start: where this segment goes on, in the objective's unit; 0 where it begins anew.
        stop: where it ends.
        length: R in trials, and in a final training its own length, for schedules of the learning rate.
        final: whether this is the final training of one of the best settings: from scratch, exact, its checkpoint kept
            as the search's weights. What is measured on a test set is returned here.
        device: where to train: "cpu", "cuda:0".
        threads: of PyTorch, which are set already.
    """

    def __init__(self, segment: Segment, course: Course, device: str, threads: int) -> None:
        """Stand at the beginning of a segment; made by stantune alone."""
        self.params: dict[str, Any] = dict(segment.params)
        self.seed = derive("run", segment.seed) >> 32
        self.start = course.start
        self.stop = segment.stop
        self.length = segment.length or segment.stop
        self.final = segment.final
        self.device = device
        self.threads = threads
        self._course = course
        self._directory = segment.checkpoint.parent / segment.checkpoint.stem

    @property
    def done(self) -> int:
        """How far the training is, in the objective's unit."""
        return self._course.done

    @property
    def directory(self) -> Path:
        """A folder of the trial's own, for logs and the like. It is made here; it is no part of what is kept.

        It lies in the search's directory, and is deleted with the search: by `fresh` and `stantune delete`. Where
        checkpoints are kept at a URL, it lies on the node that trains, and is deleted after each segment that does not
        fail.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory

    @property
    def checkpoint_dir(self) -> Path:
        """A folder for checkpoints in a format of your own; the files in it are kept, and there in the next segment.

        Links to files are kept as what they lead to; one to a folder is refused, since what is there would be lost.

        Who takes it keeps something, as with `keep`. They are read when the checkpoint is written, all of them as they
        are then: between two steps, and when a function without steps returns.
        """
        return self._course.directory

    @property
    def should_stop(self) -> bool:
        """Whether the search is to end, for loops that want to see to that themselves.

        A function that has been told so returns when it likes; what it returns before it is at `stop` is not looked at.
        What it keeps is not saved as it is then, which may be in the middle of a step: what was saved last counts, at
        the end of a step of `steps`, or by `reached`. Without either all since `start` is done again.
        """
        return self._course.should_stop

    @property
    def validation_share(self) -> float:
        """How much of the validation set will do to compare settings here: 1.0 at the end and in a final training.

        Less of it on lower rungs of a search with `validation="by-rung"`. Take the same samples in all trials, of each
        class alike, and in a higher rung more of them. Who looks at this is taken to measure by so much.
        """
        self._course.asked_share = True
        return self._course.validation_share

    @property
    def curve(self) -> list[tuple[int, float]]:
        """The losses so far: how many, and their mean since the point before; at most 512 points."""
        return self._course.losses.means.points

    def keep(self, *unnamed: Never, **things: Any) -> None:
        """Keep things from segment to segment under the names they have here, and put back what they were, now.

        A thing is whatever has `state_dict` and `load_state_dict` (models, optimizers, schedulers, scalers), a
        torch.Generator, a NumPy generator, a random.Random, a tensor or an array; and, for plain values, a list or a
        dict that holds them: `best = [0.0]`, kept as `run.keep(best=best)`, has its former value in `best[0]`. What was
        in such a list or dict from the beginning remains the same object, as a parameter that an optimizer has, too.

        Call it before `steps`, as often as you like, with the same names each time that the function is called.

        Raises:
            UsageError: it is something else, has no name, or its name is taken.
            CheckpointError: the checkpoint has nothing of that name, or what it has does not fit.
        """
        self._course.keep(things, unnamed)

    def accelerate(self, model: nn.Module, example: Tensor | None = None, **changes: Any) -> Acceleration | None:
        """Have STAN accelerate the model as the search says: at the present rung's rate, exactly in a final training.

        The rate changes between steps where the search has several. The schedule goes on with each step of a kept
        optimizer that has any of the model's parameters; where there is none, call `step()` of what is returned.

        Args:
            model: changed in place, as by `stantune.accelerate_`.
            example: a batch of inputs; for Stan(memo=...) alone.
            **changes: settings of Stan that this model has of its own, such as layers=("features.*",).

        Returns:
            What moves the schedule, None where the search does not accelerate.

        Raises:
            UsageError: a rate of "auto", which would be measured anew in each segment, or settings that Stan does not
                take.
        """
        return self._course.accelerate(model, example, changes)

    def steps(self) -> Iterator[int]:
        """Go through what this segment has still to do: numbers in the objective's unit, from `start` to `stop` - 1.

        Between two steps the state is saved, at most once a minute (four times where the function asks `should_stop`),
        and after the last one; and there a search ends that is asked to. Where nothing is kept, the steps begin at 0 in
        every segment.
        """
        for number in range(self.go_on(), self.stop):
            self._course.within = number + 1
            yield number
            self._course.within = None
            self.reached(number + 1)

    def go_on(self) -> int:
        """Return where to go on, with all random states as they were there; for loops that cannot use `steps`.

        They call `reached` after each of theirs.
        """
        return self._course.go_on()

    def reached(self, done: int) -> None:
        """Say how far the training is, between two steps; see `go_on`.

        It is saved if it is time, and ended if the search ends. A function that was told so by `should_stop` ends
        itself; each of these calls then saves it.
        """
        self._course.reached(done)

    def report(self, metrics: object) -> None:
        """Report what the training is worth now: metrics as they are returned, in a step or between two.

        In a final training what is kept is then written to `best.pt`, if it is the best that was reported: the weights
        of the best epoch, where each reports. In a trial nothing comes of it: settings are compared by what is returned
        at their rungs. A compared metric that is not finite ends the function at once, as a loss does.

        Raises:
            ReturnError: it is no such metrics, which fails the trial.
        """
        self._course.report(metrics)

    def loss(self, value: float | Tensor) -> None:
        """Take a loss, a number or a tensor of one: it is part of the curve, and tells when the training is lost.

        One that is not finite ends the function at once, and so does a loss that stays far above what it began with and
        does not fall: a thousand times, for hundreds of losses. On a GPU a tensor's value has to be waited for.

        Raises:
            LossError: it is no number, which fails the trial.
        """
        self._course.loss(value if type(value) is float else loss_of(value))
