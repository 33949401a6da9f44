"""StanCallback for skorch: trains a net's module under STAN and gives it back as it was."""

from __future__ import annotations

from typing import Any

from stantune.errors import StantuneError
from stantune.integrations.start import FromBatch, Inputs, accelerate_at, first_of, require_ids, state_of, visit
from stantune.stan.config import Stan
from stantune.stan.handle import StanHandle
from stantune.stan.surgery import restore_

try:
    from skorch.callbacks import Callback
except ImportError as error:
    raise StantuneError("skorch is not installed; pip install 'stantune[skorch]'") from error


class StanCallback(Callback):  # type: ignore[misc]  # skorch has no types
    """Trains `net.module_` under STAN: `NeuralNetClassifier(..., callbacks=[StanCallback(Stan(rate=0.5))])`.

    The module is accelerated at its first training batch and restored when the training ends or is interrupted.
    Validation and prediction are exact. skorch tells its callbacks nothing of other exceptions: after one the module
    stays accelerated until the next fit, which goes on as it should, or until `stantune.restore_(net.module_)`.

    The iteration is the number of training batches in the net's history, one optimizer step each in skorch. So it is
    right wherever the history is: in `partial_fit`, `warm_start`, pickles, `load_params(checkpoint=...)` and
    `LoadInitState`; `fit` starts again at 0. What else the handle keeps goes along in pickles of the net.

    The names of arguments are those of skorch's parameters: `net.set_params(callbacks__StanCallback__stan=...)`.

    Attributes:
        handle_: of the present training, or of the last one; None before the first training batch and in pickles.

    Args:
        stan: the settings; layers are named as in the module.
        ids: gives the ids, (B,), of a batch's samples; for Stan(memo=...) alone.
        inputs: gives what the module is called with of a batch: a tensor, (B, C, H, W), a tuple of arguments or a
            dictionary of them by name; by default the batch's first item. For Stan(rate="auto") and memo alone.

    Raises:
        UsageError: memo without ids, when the net is initialized.
    """

    handle_: StanHandle | None = None
    running_ = False

    def __init__(self, stan: Stan, *, ids: FromBatch | None = None, inputs: Inputs = first_of) -> None:
        self.stan = stan
        self.ids = ids
        self.inputs = inputs
        self.state_: dict[str, Any] = {}

    def initialize(self) -> StanCallback:
        """Forget the training before; skorch calls it with the net's initialize and after changed parameters."""
        require_ids(self.stan, self.ids)
        self.handle_ = None
        self.running_ = False
        self.state_ = {}
        return self

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:  # noqa: N803
        """End a training that an exception has ended."""
        self._end()

    def on_batch_begin(self, net: Any, batch: Any = None, training: bool | None = False, **kwargs: Any) -> None:
        """Accelerate the module if this is the first training batch."""
        if not training:
            return
        if self.handle_ is None or not self.running_:
            # Here and not in on_train_begin, since a callback after this one may load another history there. There are
            # layers to restore after an exception and in a pickle from mid-training.
            restore_(net.module_)
            trained = sum("train_batch_size" in row for epoch in net.history for row in epoch["batches"])
            self.handle_ = accelerate_at(net.module_, self.stan, batch, self.inputs, self.state_, trained)
            self.state_ = {}  # a memo's state is large, and the handle holds it now
            self.running_ = True
        visit(self.handle_, batch, self.ids, self.inputs)

    def on_batch_end(self, net: Any, batch: Any = None, training: bool | None = False, **kwargs: Any) -> None:
        """Go on to the next iteration."""
        if training and self.handle_ is not None:
            self.handle_.step()

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:  # noqa: N803
        """Restore the module."""
        self._end()
        restore_(net.module_)

    def _end(self) -> None:
        if self.handle_ is not None:
            self.state_ = state_of(self.handle_)
        self.running_ = False

    def __getstate__(self) -> dict[str, Any]:
        """Return a copy without the handle, whose layers would be others than those of the net's own copy."""
        state = self.state_ if self.handle_ is None else state_of(self.handle_)
        return {**self.__dict__, "state_": state, "handle_": None}
