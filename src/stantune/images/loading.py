"""load: the network that a search of a problem has trained in the end, ready to predict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from stantune.arguments import path as checked_path
from stantune.arguments import shown, truth
from stantune.errors import CheckpointError, DamagedCheckpointError, StantuneError, UsageError
from stantune.images.objective import made_of
from stantune.images.predictor import Inputs, Predictor
from stantune.images.problem.built_in import Problem, built_in, find
from stantune.search.plan.finals import Evaluation, best_of, last_of
from stantune.search.table.looking.look import Seen, look
from stantune.search.table.looking.recorded import recorded
from stantune.texts import brief
from stantune.training.checkpoint import load_any
from stantune.user_code.noted import as_noted

Weights = Literal["final", "best"]


def load(
    directory: Path | str,
    problem: Problem | str | None = None,
    *,
    weights: Weights = "final",
    data: Path | str | None = None,
    storage: str | None = None,
    accept_changes: bool = False,
) -> Predictor:
    """Return the network of a search's winner, with its weights and its normaliser, ready to predict.

    ```python
    net = st.load("runs/lenet")
    scores = net(images)  # (B, 1, 28, 28) uint8 -> (B, 10)
    ```

    It is on the CPU and in evaluation mode, and an ordinary module: `net.to("cuda")`, `torch.export.export(net, …)`.
    Nothing in the directory is executed: a problem of your own is made by code, so you say where that is. A search of a
    function, a Lightning module or a command, or by ask and tell, has no Problem, and its weights are read otherwise;
    the error says how.

    Args:
        directory: the search's, complete.
        problem: the one that was searched, or its name (FILE.py:NAME), where it is no built-in one.
        weights: "final", of the training's end, or "best", of its best evaluation.
        data: where data sets are kept; looked at for weights of before normalisers were kept beside them.
        storage: the URL of the search's storage, where that has a password.
        accept_changes: whether the problem's network may be of other code than when the search began.

    Raises:
        UsageError: there is no search, it is of no Problem or of another one.
        CheckpointError: the weights are missing, damaged, others than the search has written, or do not fit.
        StantuneError: the search has no winner yet, or none at all.
    """
    if weights not in ("final", "best"):
        raise UsageError(f"`weights`={shown(weights)} is neither final nor best; give one of the two")
    truth("accept_changes", accept_changes)
    seen = look(checked_path("directory", directory), storage)
    identity, trained = seen.identity, _trained(seen, weights)
    if "batch-size" not in identity:
        raise UsageError(
            f"the search in {seen.directory.path} is of code of your own, which alone can make its network: "
            f"{_how_else(identity, trained.file)}"
        )
    state = _state(seen, trained)
    made = _problem(identity, problem, seen.directory.path)
    depends_on = ("network",) if "inputs" in state else ("network", "normalise", "data")
    if not accept_changes:
        _check_same(made, identity, depends_on, seen.directory.path)
    if "inputs" in state:
        kept = state["inputs"]
    else:
        kept = made.inputs(made.load(None if data is None else checked_path("data", data)))
    with torch.random.fork_rng([]):
        network = made.tried(trained.setting)
    try:
        network.load_state_dict(state["model"])
        return Predictor(network, Inputs(**kept), trained.setting, trained.evaluation.metrics)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"{trained.file} does not fit the network that problem {made.name!r} makes now; give the problem as it was "
            "when the search began"
        ) from error


class _Trained(NamedTuple):
    """A winner's weights: their file, the digest that it should have (None where none was noted), and what is known."""

    file: Path
    digest: str | None
    setting: Mapping[str, Any]
    evaluation: Evaluation


def _trained(seen: Seen, weights: Weights) -> _Trained:
    """Return where a search's weights are; raises StantuneError where it has none."""
    path, state = seen.directory.path, recorded(seen).state
    rank, final = state.winner, state.final
    if rank is None or final is None:
        if seen.state == "running":
            raise StantuneError(f"the search in {path} still runs and has no winner yet; load it when it is done")
        if seen.state == "interrupted":
            raise StantuneError(
                f"the search in {path} was interrupted and has no winner yet; give its command again, which goes on"
            )
        raise StantuneError(
            f"the search in {path} has no winner: no trial had a result, no final training was asked for, or it failed"
        )
    found = last_of(rank, final) if weights == "final" else best_of(rank, final, seen.metric)
    if found is None or found.weights is None:
        why = "its trainings keep nothing; have them call run.keep, and search anew"
        if _is_told(seen.identity):
            file = seen.directory.best(rank) if weights == "best" and final.curve else seen.directory.final(rank)
            why = f"your own program trained, and kept nothing at {file}; look where it kept what it trained"
        if final.diverged_at is not None:
            why = f"the final training diverged at {seen.unit} {final.diverged_at}; train others, too, with `finalists`"
        raise StantuneError(f"the search in {path} has no {weights} weights: {why}")
    # The best evaluation of a training that was not followed on its way is its last.
    digest = final.digest if found.weights == last_of(rank, final).weights else final.best_digest
    return _Trained(path / found.weights, digest, final.params, found)


def _state(seen: Seen, trained: _Trained) -> dict[str, Any]:
    """Return what a file of weights holds; raises CheckpointError where it is another than the search has written."""
    remedy = "put it back, or give the search's command again, which trains it anew"
    try:
        state = load_any(trained.file)
    except FileNotFoundError:
        raise CheckpointError(f"{trained.file} is not there any more; {remedy}") from None
    except DamagedCheckpointError as error:
        # What else is said there is of trials that go on from their checkpoints.
        raise CheckpointError(f"{trained.file} is cut short or altered; {remedy}") from error
    if trained.digest is not None and seen.directory.digest(trained.file) != trained.digest:
        raise CheckpointError(f"{trained.file} is another file than the search has written; {remedy}")
    return state


def _problem(identity: Mapping[str, Any], given: Problem | str | None, path: Path) -> Problem:
    """Return the problem that was searched, from what the caller gives or by its name among the built-in ones."""
    name = identity.get("problem")
    if given is None:
        own = built_in(str(name)) if "made-of" not in identity else None
        if own is None:
            raise UsageError(
                f"the search in {path} is of your own problem {shown(name)}, and only its code can make the network; "
                "give it as well: load(directory, problem), or its place, FILE.py:NAME"
            )
        return own
    made = find(given) if isinstance(given, str) else given
    if not isinstance(made, Problem):
        raise UsageError(f"`problem`={shown(given)} is no Problem; give one, or FILE.py:NAME")
    if made.name != name:
        raise UsageError(
            f"the search in {path} is of the problem {shown(name)}, and `problem` is {made.name!r}; give that one"
        )
    return made


def _check_same(made: Problem, identity: Mapping[str, Any], parts: tuple[str, ...], path: Path) -> None:
    """Raise UsageError where what matters of a problem is another than when the search began, as far as it is noted."""
    there = identity.get("made-of")
    here = json.loads(json.dumps(as_noted(made_of(made), identity))).get("made-of")
    if there is None or here is None:
        # Built-in, or begun when nothing of it was noted.
        return
    if others := [part for part in parts if part in there and there[part] != here.get(part)]:
        raise UsageError(
            f"the {' and the '.join(others)} of problem {made.name!r} changed since the search in {path} began; undo "
            "that, or say accept_changes=True where the network computes what it did"
        )


def _is_told(identity: Mapping[str, Any]) -> bool:
    """Tell whether a program of the user's own trained, by ask and tell or as an objective: nothing here knows how."""
    return not identity.keys() & {"batch-size", "command", "code"}


def _how_else(identity: Mapping[str, Any], file: Path) -> str:
    """Say how weights are read that belong to no Problem."""
    if "command" in identity:
        return f"{file} is a tar archive with what the command left in its folder"
    if _is_told(identity):
        return f"{file} is what your program kept there, and is read as it wrote it"
    where = brief(str(file))
    return (
        f"torch.load({where!r}, weights_only=True)['state']['kept'] is what a function gave to run.keep, and a "
        "Lightning module's load_from_checkpoint takes the file itself"
    )
