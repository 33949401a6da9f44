"""`stantune brackets`: what a search would run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import typer

from stantune.cli import options as o
from stantune.cli.output import console_for, say_loading, write_json
from stantune.cli.settings import brackets_of, check_heeded, device_of, setting_of, what_is_named
from stantune.cli.training.composition import composed
from stantune.cli.training.threads import threads_of
from stantune.cli.wording import worded

if TYPE_CHECKING:
    from stantune.search.plan.plans import PlanName


def brackets(
    ctx: typer.Context,
    problem: o.ProblemName,
    solver: o.CaffeSolver = None,
    dataset: o.CaffeDataset = None,
    batch_size: o.CaffeBatchSize = None,
    quick: o.Quick = False,
    max_iterations: o.MaxIterations = None,
    min_iterations: o.MinIterations = None,
    eta: o.Eta = 3,
    plan: o.Plan = "hyperband",
    brackets: o.Brackets = "all",
    variant: o.Variant = "algorithm1",
    mode: o.Mode = "sync",
    trials: o.Trials = None,
    accelerate: o.SearchAccelerate = None,
    rate: o.SearchRate = None,
    tolerance: o.Tolerance = None,
    period: o.SearchPeriod = None,
    pretrain: o.Pretrain = 0,
    tail: o.Tail = 0,
    layers: o.SearchLayers = None,
    sampler: o.Sampler = "random",
    validation: o.Validation = "all",
    finalists: o.Finalists = 1,
    final: o.Final = "scratch",
    final_iterations: o.FinalIterations = None,
    set: o.Fixed = None,
    seed: o.Seed = 0,
    data: o.Data = None,
    json: o.Json = None,
    workers: o.Workers = 1,
    threads: o.SearchThreads = None,
    device: o.Device = "auto",
    resize: o.Resize = None,
    precision: o.Precision = None,
    debug: o.Debug = False,
) -> None:
    """Show what a search with these options would run, without running it."""
    say_loading("PyTorch and the problem", json)
    from stantune.images.data import is_present
    from stantune.images.estimate import estimate_seconds
    from stantune.images.objective import ProblemObjective
    from stantune.protocols import Conditions
    from stantune.report.results import PlanResult
    from stantune.report.text import show_plan
    from stantune.search.plan.hyperband import trained_iterations
    from stantune.search.plan.measured import costliest
    from stantune.search.results.summary import bracket_results, rate_results
    from stantune.search.telling.notes import one_setting
    from stantune.tuning.compose import compose

    check_heeded(ctx)
    asked = threads_of(threads)
    named, sizes = composed(
        what_is_named(problem, solver, dataset, batch_size),
        quick,
        max_iterations,
        min_iterations,
        eta,
        (accelerate, rate, tolerance, period, pretrain, tail, layers),
        data,
    )
    what, settings = compose(
        named,
        **sizes,
        plan=plan,
        brackets=brackets_of(brackets),
        variant=variant,
        mode=mode,
        trials=trials,
        sampler=sampler,
        validation=validation,
        finalists=finalists,
        final=final,
        final_resource=final_iterations,
        fixed=setting_of(named, set),
        seed=seed,
        device=device_of(device),
        resize=resize,
        precision=precision,
    )
    console = console_for(json)
    run = settings.plan()
    estimate = None
    if isinstance(what, ProblemObjective) and (
        not isinstance(what.problem.data, str) or is_present(what.problem.data, what.data)
    ):
        prepared, of_each = what.prepared(
            Conditions(
                settings.max_resource,
                seed,
                asked,
                settings.device,
                side_by_side=workers > 1,
                say=lambda line: console.print(worded(line), soft_wrap=True),
            )
        )
        assert isinstance(prepared, ProblemObjective), "a problem stays one"
        what, settings = prepared, replace(settings, threads=of_each)
        estimate = estimate_seconds(
            prepared, settings, workers, lambda line: console.print(worded(line), soft_wrap=True)
        )
    iterations = trained_iterations(costliest(run))
    result = PlanResult(
        problem=what.name,
        unit=what.unit,
        plan=cast("PlanName", settings.plan_name),
        mode="async" if mode == "async" else "sync",
        variant=settings.variant,
        eta=settings.eta,
        max_iterations=settings.max_resource,
        min_iterations=settings.min_resource,
        rates=rate_results(what, settings),
        brackets=bracket_results(run),
        trials=sum(bracket.rungs[0].trials for bracket in run),
        iterations=iterations.continued,
        iterations_restarting=iterations.restarted,
        final_iterations=settings.finals * settings.final_trained,
        estimated_seconds=estimate,
    )
    show_plan(console, result)
    if (note := one_setting(settings, run)) is not None:
        console.print(f"note: {worded(note)}", soft_wrap=True)
    write_json(result, json)
