"""tune(): an objective, settings, a directory and an executor put together to a search."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from stantune.arguments import MOST_AT_ONCE, amount, function, path, shown, text, truth, whole
from stantune.errors import StantuneError, UsageError, words_of
from stantune.integrations.loggers import loggers_of
from stantune.process.alone import NoTurnError
from stantune.process.alone import alone as in_turn
from stantune.process.crowding import crowding
from stantune.protocols import Conditions, Objective, Place, TakesTurns
from stantune.quantities import parse_bytes, parse_duration
from stantune.search.directory.directory import SearchDirectory
from stantune.search.directory.log import logging_to
from stantune.search.loop import search
from stantune.search.opening import plain_identity
from stantune.search.plan.finals import CONTINUE
from stantune.search.propose.sampler import Sampler
from stantune.search.results.result import SearchResult
from stantune.search.session import RETRIES
from stantune.search.stopping import Stop
from stantune.search.table.start_from import starting_from
from stantune.search.telling.lines import Lines
from stantune.search.telling.loggers import Logger
from stantune.search.telling.notes import one_setting
from stantune.search.telling.watching import Silent, Together, Watcher
from stantune.search.workers.executors import Executor, InProcess
from stantune.search.workers.order import Order
from stantune.search.workers.turns import InTurns
from stantune.search.workers.workers import Limits, Workers
from stantune.space import Space
from stantune.texts import one_line
from stantune.tuning.compose import compose
from stantune.tuning.process import kept, native_kernels, noted, put_in_place, unusual
from stantune.tuning.surroundings import (
    as_it_was,
    begun_in,
    check_memory,
    check_turns,
    cluster_for,
    device_for,
    directory_for,
    refuse_limits,
    say_of_kernels,
    stopping,
    watched_by,
)

if TYPE_CHECKING:
    from stantune.images.resizing import Resize
    from stantune.stan.config import Stan

# Trainings side by side, as far as it is known beforehand, where a cluster says how many there is room for.
SEVERAL = 2
MakeExecutor = Callable[[Order], "Executor | AbstractContextManager[Executor]"]


def tune(
    objective: object,
    space: Space | None = None,
    *,
    max_resource: int | None = None,
    min_resource: int | None = None,
    eta: int = 3,
    plan: str = "hyperband",
    brackets: int | None = None,
    variant: str = "algorithm1",
    mode: str = "sync",
    trials: int | None = None,
    sampler: str | Sampler = "random",
    lag: int = 16,
    seed: int = 0,
    unit: str | None = None,
    minimize: str | None = None,
    maximize: str | None = None,
    name: str | None = None,
    stan: Stan | Literal["usual"] | None = "usual",
    rates: Sequence[float] | Literal["auto"] = (),
    precision: str | None = None,
    resize: str | float | Resize | None = None,
    compile: bool = False,
    enqueue: Sequence[Mapping[str, Any]] = (),
    fixed: Mapping[str, Any] | None = None,
    validation: str = "all",
    finalists: int = 1,
    final: str = "scratch",
    final_resource: int | None = None,
    start_from: Path | str | None = None,
    out: Path | str | None = None,
    storage: str | None = None,
    fresh: bool = False,
    accept_changes: bool = False,
    workers: int | None = None,
    together: int = 1,
    executor: str | MakeExecutor = "local",
    address: str | None = None,
    checkpoints: str | None = None,
    threads: int | Literal["auto"] | None = None,
    device: str = "auto",
    budget: float | str | None = None,
    retries: int = RETRIES,
    trial_timeout: float | str | None = None,
    trial_memory: int | str | None = None,
    loggers: Sequence[str | Logger] = (),
    say: Callable[[str], None] = lambda line: None,
    watching: Callable[[], AbstractContextManager[Watcher | None]] | None = None,
    stop: Stop | None = None,
) -> SearchResult:
    """Search the settings of an objective with Hyperband or ASHA; the same call goes on where it was, after a kill too.

    Args:
        objective: a function of a `Run` (see there), a Problem, a built-in one's name, or any Objective.
        space: the parameters of a function, and their ranges.
        max_resource: R, the length of a trial that is never dropped, in `unit`s; the objective's own length by default.
        min_resource: r, the least length before a trial may be dropped; by default such that there are at most five
            brackets, and two rungs or more where `max_resource` has room for them.
        eta: one of so many trials is promoted in each rung.
        plan: "hyperband"; "wide" for one bracket from the lowest rung, with more settings; or "measured" for brackets
            whose first rung is chosen while searching, by how well low rungs have ordered the trials that went on.
        brackets: how many of Hyperband's brackets are run, from the one that drops most; None for all. Of a measured
            plan, how many there are; None for half as many as Hyperband has.
        variant: "algorithm1" or "table1": how the numbers of trials are rounded (Li et al., JMLR 18, 2018).
        mode: "sync" for Hyperband, "async" for ASHA, that waits for no rung's end.
        trials: how many settings ASHA or a wide plan tries; None for what costs as much as Hyperband, or half of it.
        sampler: what proposes settings: "random", "tpe", "bohb", or an object of your own (see Sampler).
        lag: what models and ASHA see: what a search by so many workers would see.
        seed: of every random choice.
        unit: what a function's resource counts, "epoch" by default.
        minimize: the metric of a function's that is compared, where less is better.
        maximize: the same, where more is better.
        name: of a function's search, its own by default.
        stan: how trials are accelerated: what `Run.accelerate` does, or how a Problem is trained; None for exactly, by
            PyTorch alone. "usual": a function's not at all, a built-in problem's with half of the entries, and any
            other Problem's with all of them, by native kernels, unless it is compiled. An Objective is trained as it
            says itself where this is no Stan.
        rates: the share of the work by rung, from the lowest to R, in place of `stan.rate`, under STAN in any case;
            "auto" for 1/4, 1/2, 1.
        resize: small images in the first part of a Problem's trials: "1/2", the share of their sides, up to a third of
            `max_resource`, or "1/2:1/4", up to a quarter; they are compared there by small images, too. Final trainings
            see whole ones.
        precision: in what numbers a Problem is trained, final trainings too: "bf16" (PyTorch's autocast), "tf32" or
            "fp32"; by default as PyTorch is set. Weights, updates and what is measured are float32 in each.
        compile: whether torch.compile compiles a Problem's network, for final trainings too; not with STAN.
        enqueue: settings that are tried first.
        fixed: parameters that have one value in all settings.
        validation: "all" compares trials by the whole validation set; "by-rung" by a part that grows with the rungs.
        finalists: so many of the best settings are trained once more in the end, exactly and from scratch, and the best
            of them wins; where all diverge the next one is trained, three more at most.
        final: "scratch"; "continue" takes the best trial's weights as they are, where it ended exactly; "none" trains
            nobody in the end.
        final_resource: how long final trainings are, where that is longer than `max_resource`.
        start_from: the directory of an earlier search, whose results are learned from.
        out: the search's directory, runs/NAME by default.
        storage: URL of an Optuna storage for the trials; SQLite in `out` by default.
        fresh: delete the directory's search and begin anew.
        accept_changes: go on with a search although the code, or what a Problem is made of, has changed since it began,
            or an earlier version did not note what PyTorch was set to; that is written into its table.
        workers: processes that train side by side; 1, this process, by default, and with Ray as many as there is room
            for.
        together: trainings of a Problem that take turns in a process, this one or each worker's, for a GPU that one
            alone leaves without work; the result is the same for every number.
        executor: "local", "ray", or what makes an Executor of your own of an Order.
        address: of the Ray cluster, HOST:PORT or "auto".
        checkpoints: URL of where a cluster's nodes keep them, if `out` is not on a file system that they share.
        threads: of each training; "auto" for what is fastest here, of a Problem; None for PyTorch's (of a command,
            OMP_NUM_THREADS or all cores), or 1 with several workers, and where Ray or your executor says how many.
        device: "auto", "cpu", "cuda" or "cuda:N".
        budget: seconds, or a text like "30m" or "2h", after which it ends in good order, also beside a `stop`.
        retries: how often a training that failed is tried again, in each rung.
        trial_timeout: seconds, or a text, after which a training that does nothing is ended.
        trial_memory: bytes, or a text like "2G", of a training's process and of those that it has started, beyond which
            it is ended (Linux). An executor of your own has neither.
        loggers: what is told of losses and metrics: "csv", "tensorboard", "mlflow", "wandb", or a Logger of your own.
        say: takes lines for the user: what is fetched, measured, planned, and how far the search is; `say=print`.
        watching: gives what is told of all that happens, for as long as the search runs, in place of lines on how far
            it is.
        stop: whether to end in good order; without one Ctrl-C and SIGTERM do that, and then raise KeyboardInterrupt.

    Returns:
        What the search has come to.

    Raises:
        UsageError: something that was asked for cannot be done as asked, or the directory holds another search.
        StantuneError: the search cannot go on; what was done is kept.
        KeyboardInterrupt: it was asked for; all that was trained is kept, and the same call goes on.
    """
    seconds = None if budget is None else amount("budget", budget, parse_duration)
    limits = Limits(
        None if trial_timeout is None else amount("trial_timeout", trial_timeout, parse_duration),
        None if trial_memory is None else int(amount("trial_memory", trial_memory, parse_bytes)),
    )
    for parameter, value in (("fresh", fresh), ("accept_changes", accept_changes)):
        truth(parameter, value)
    workers = None if workers is None else whole("workers", workers, 1, MOST_AT_ONCE)
    together = whole("together", together, 1, MOST_AT_ONCE)
    retries = whole("retries", retries, 0)
    if isinstance(threads, str) and threads != "auto":
        raise UsageError(f"`threads`={shown(threads)} is no number of threads; give 1 or more, or auto")
    if not isinstance(threads, str | None):
        threads = whole("threads", threads, 1, MOST_AT_ONCE)
    storage = None if storage is None else text("storage", storage)
    checkpoints = None if checkpoints is None else text("checkpoints", checkpoints)
    device = text("device", device)
    if not isinstance(executor, str):
        if not callable(executor):
            raise UsageError(f"`executor`={shown(executor)} is none; give local, ray, or what makes one of an Order")
        function("executor", executor, ("order",))
        refuse_limits(trial_timeout=trial_timeout, trial_memory=trial_memory)
    function("say", say, ("line",))
    logging = loggers_of(loggers)
    if watching is not None:
        function("watching", watching)
    if not isinstance(stop, Stop | None):
        raise UsageError(f"`stop`={shown(stop)} is no Stop; leave it away")
    local = isinstance(executor, str) and executor == "local"
    side = workers if workers is not None else 1 if local else SEVERAL
    what, settings = compose(
        objective,
        space,
        max_resource,
        min_resource,
        rates,
        unit=unit,
        minimize=minimize,
        maximize=maximize,
        name=name,
        stan=stan,
        precision=precision,
        resize=resize,
        compile=compile,
        seed=seed,
        eta=eta,
        plan=plan,
        brackets=brackets,
        variant=variant,
        mode=mode,
        trials=trials,
        sampler=sampler,
        lag=lag,
        enqueue=enqueue,
        fixed=fixed,
        validation=validation,
        finalists=finalists,
        final=final,
        final_resource=final_resource,
    )
    if checkpoints is not None and settings.final == CONTINUE:
        raise UsageError(
            "`final`=continue needs the trials' checkpoints in `out`; leave `checkpoints` away, or give scratch"
        )
    if mode == "async" and side * together > lag:
        say(
            f"note: an asynchronous search with `lag`={lag} has work for {lag} workers at most, and here are "
            f"{side * together}"
        )
    if (note := one_setting(settings, settings.plan())) is not None:
        say(f"note: {note}")
    directory = directory_for(path_of(out, what), storage, checkpoints)
    alone = local and side == 1 and limits == Limits()
    if together > 1:
        check_turns(what, together, local, limits)
    check_memory(what, lambda: together == 1 and not fresh and begun_in(directory) is not None, say)
    process = unusual()
    result: SearchResult | None = None
    with (
        suppress(NoTurnError),
        kept(),
        stopping(stop, seconds) as asks,
        cluster_for(executor, address, checkpoints) as cluster,
    ):
        # Before there is a directory: bad use leaves nothing behind.
        where = cluster.device(device) if cluster is not None else device_for(device)
        if precision is not None:
            from stantune.training.precision import precision_on

            precision_on(precision, where)
        if compile and cluster is None:
            # A cluster's nodes have compilers of their own.
            from stantune.training.compiling import check_compiler

            check_compiler(where)
        # The stack last: whatever ends a search, its workers end before others may have the directory.
        heeding = asks.heeding(directory.asked_to_stop)
        with directory.locked(), heeding, logging_to(directory.log) as log, ExitStack() as stack:
            # The log goes with a search that is cleared, which nothing is before all that may be refused is known: what
            # is said until then is written after it.
            early: list[str] | None = [] if fresh else None

            def write(line: str) -> None:
                if early is None:
                    log.info(one_line(line))
                else:
                    early.append(line)

            def tell(line: str) -> None:
                write(line)
                say(line)

            write(f"process {os.getpid()} begins the search of {what.name}, or goes on with it")

            def complain(line: str) -> None:
                log.warning(line)
                say(line)

            settings = replace(settings, device=where)
            if start_from is not None:
                earlier = SearchDirectory.begun(path("start_from", start_from), storage)
                settings = starting_from(settings, what, directory, earlier, fresh, tell)
            beside = not alone and side > 1
            conditions = Conditions(
                settings.max_resource,
                settings.seed,
                threads,
                where,
                alone,
                beside,
                None if fresh else begun_in(directory),
                tell,
                settings.fixed,
                asks.asked,
            )
            what, of_each = what.prepared(conditions)
            settings = replace(settings, threads=of_each, process=noted(process, what, where))
            if cluster is None and where == "cpu":
                say_of_kernels(what, tell)
                if note := crowding(of_each or 1, side):
                    tell(f"note: {note}")
            before = put_in_place(process) + (() if cluster is None else native_kernels(what, where))
            order = Order(what, Place(threads=of_each, device=where), before)
            train: Executor
            if cluster is not None:
                from stantune.search.ray.run import trainings_on

                train = stack.enter_context(trainings_on(cluster, order, directory, limits, workers, settings.finals))
            elif callable(executor):
                try:
                    made = executor(order)
                except StantuneError:
                    raise
                except Exception as error:
                    raise UsageError(f"`executor`={shown(executor)} makes no Executor ({words_of(error)})") from error
                train = stack.enter_context(made) if isinstance(made, AbstractContextManager) else made
                if not isinstance(train, Executor):
                    raise UsageError(f"`executor` made {shown(train)}, which is no Executor; see stantune.Executor")
            elif alone and together > 1:
                train = stack.enter_context(InTurns(cast(TakesTurns, order(0)), together, tell))
            elif alone:
                train = InProcess(order(0))
            else:
                train = stack.enter_context(Workers(order, side, limits, write, together, tell))
            if together > 1 and (told := getattr(what, "memory_told", None)) is not None:
                with in_turn(asks.asked) as ours:
                    if ours:
                        tell(told(together, where, isinstance(train, InTurns)))
            view = Lines(say) if watching is None else stack.enter_context(watched_by(watching))
            logged = Lines(lambda line: log.info(one_line(line)), lambda line: log.warning(one_line(line)))
            if early is not None:
                plain_identity(what, settings)
                directory.clear()
                held, early = early, None
                for line in held:
                    write(line)
            state = search(
                what,
                settings,
                directory,
                train,
                watcher=Together([view or Silent(), logged]),
                stop_early=asks.asked,
                retries=retries,
                accept_changes=accept_changes,
                loggers=logging,
                say=complain,
            )
            # Workers have ended, and a cluster's weights are here, before anything is said of them.
            stack.close()
            result = SearchResult(what, settings, state, directory.path, asks.asked() and not state.complete)
            try:
                directory.write_result(f"{result.summary.model_dump_json(indent=2)}\n")
            except StantuneError as error:
                # It is in the table, and whoever waited for it gets it nevertheless.
                result = replace(result, unwritten=str(error))
            for line in str(result).splitlines():
                log.info(one_line(line))
            log.info("the search is %s", "complete" if result.complete else "not complete, and ended in good order")
    if stop is None and asks.interrupted:
        raise KeyboardInterrupt
    return as_it_was(what, settings, directory, fresh) if result is None else result


def path_of(out: Path | str | None, objective: Objective) -> Path:
    """Return a search's directory; raises UsageError where that is none."""
    return Path("runs") / objective.name if out is None else path("out", out)
