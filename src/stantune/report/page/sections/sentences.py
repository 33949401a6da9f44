"""What the report page says of a search in words, before any picture."""

from __future__ import annotations

from stantune.protocols import Metric
from stantune.quantities import duration
from stantune.report.page.contract import SearchNumbers
from stantune.report.page.times import MANY, off_by, time_text
from stantune.report.words import setting_text
from stantune.search.plan.validation import part_text
from stantune.search.results.contract import Final, SearchSummary


def sentences(search: SearchNumbers) -> list[str]:
    """Return what was searched, what was found, what it cost and what was saved, a sentence or two each."""
    summary = search.summary
    found = [_searched(search), _stands(search), _winner(summary), _final(summary), _cost(summary), *_saved(summary)]
    if search.stan is not None:
        found.append(_stan(search))
    found += [_profiled(search), _foretold(search)]
    return [sentence for sentence in [*found, *summary.notes] if sentence]


def metric_of(summary: SearchSummary) -> Metric:
    """Return what a search compares by."""
    return Metric(summary.metric.name, summary.metric.direction, summary.metric.unit)


def _searched(search: SearchNumbers) -> str:
    summary, names = search.summary, [each.name for each in search.trials.params]
    brackets = {"hyperband": "Hyperband", "wide": "One wide bracket", "measured": "Brackets by measured order"}
    how = "ASHA" if summary.mode == "async" else brackets[summary.plan]
    sampler = {"random": "at random", "tpe": "by TPE", "bohb": "by BOHB"}.get(summary.sampler, f"by {summary.sampler}")
    start = "" if summary.started_from is None else f", starting from {summary.started_from}"
    parameters = "1 parameter" if len(names) == 1 else f"{len(names)} parameters"
    return (
        f"{how} searched {parameters} of {summary.problem} ({', '.join(names)}) for the {metric_of(summary).best_is} "
        f"{summary.metric.name}; settings were proposed {sampler}{start}, and trained for {summary.min_iterations} to "
        f"{summary.max_iterations} {summary.unit}s."
    )


def _stands(search: SearchNumbers) -> str:
    summary, counts = search.summary, search.summary.counts
    planned = sum(bracket.rungs[0].trials for bracket in summary.brackets)
    lost = f", {counts.failed} failed" if counts.failed else ""
    told = f"{counts.promoted} were promoted, {counts.dropped} dropped early, {counts.diverged} diverged{lost}."
    if search.state == "done":
        return f"It is complete: of {counts.trials} trials {told}"
    return (
        f"{'It is running' if search.state == 'running' else 'It was interrupted, and the same call goes on'}: of at "
        f"most {planned} trials {counts.trials} were begun; {told}"
    )


def _winner(summary: SearchSummary) -> str:
    if not summary.leaders:
        return "No trial has a result that counts."
    best, metric = summary.leaders[0], metric_of(summary)
    others = _others(best.metrics, metric)
    value = f"{metric.text(best.value)}{part_text(best.validation_share)}"
    return (
        f"The best is trial {best.trial}, with {metric.name} {value}{others} "
        f"after {best.iterations} {summary.unit}s: {setting_text(best.params)}."
    )


def _final(summary: SearchSummary) -> str:
    final, metric = summary.final, metric_of(summary)
    if summary.final_failure is not None:
        return f"The final training failed: {summary.final_failure}."
    if final is None:
        return ""
    several = f", the best of {len(summary.finalists)}," if len(summary.finalists) > 1 else ""
    how = "its own as a trial" if summary.final_training == "continue" else "exactly and from scratch"
    head = f"The final training of trial {final.trial}{several or ','} {how}, "
    if final.value is None:
        return f"{head}diverged at {summary.unit} {final.iterations}."
    weights = "" if final.weights is None else f"; its weights are in {final.weights}"
    return (
        f"{head}came to {metric.name} {metric.text(final.value)}{_others(final.metrics, metric)}{weights}. "
        f"{_estimate(final, metric)}"
    )


def _estimate(final: Final, metric: Metric) -> str:
    """Say how far what the trial promised was from what came."""
    assert final.value is not None
    apart = metric.loss(final.value) - metric.loss(final.trial_value)
    how = (
        "as its trial had said"
        if apart == 0
        else "worse than its trial had said"
        if apart > 0
        else "better than its trial had said"
    )
    return f"That is {metric.text(abs(apart)) + ' ' if apart else ''}{how} ({metric.text(final.trial_value)})."


def _others(metrics: dict[str, float], metric: Metric) -> str:
    kind = metric.name.rpartition(" ")[2]
    words = [
        f", {name} {(metric if name.rpartition(' ')[2] == kind else Metric(name)).text(value)}"
        for name, value in metrics.items()
        if name != metric.name
    ]
    return "".join(words)


def _cost(summary: SearchSummary) -> str:
    seconds = summary.seconds
    return (
        f"All workers together took {duration(seconds.total)}: {duration(seconds.training)} of training "
        f"({summary.iterations_trained} {summary.unit}s of trials), {duration(seconds.evaluation)} of evaluation, "
        f"{duration(seconds.coordination)} of all else."
    )


def _saved(summary: SearchSummary) -> list[str]:
    saved, training = summary.saved, summary.seconds.training
    compared = (
        ("Stopping early", saved.early_stopping, "training every trial to the end"),
        ("Continuing from checkpoints", saved.continuing, "training promoted trials from scratch in every rung"),
        ("STAN", saved.stan, "as many exact iterations of these trials"),
    )
    told = []
    for what, seconds, against in compared:
        if seconds and training + seconds > 0:
            verb = "saved" if seconds > 0 else "lost"
            share = abs(seconds) / (training + seconds)
            told.append(f"{what} {verb} about {duration(abs(seconds))}, {share:.0%} against {against}.")
    spared = summary.iterations_spared
    if spared.diverged or spared.duplicates:
        told.append(
            f"{spared.diverged} {summary.unit}s were not trained because trials had diverged, and {spared.duplicates} "
            "because an equal trial had the result."
        )
    return told


def _profiled(search: SearchNumbers) -> str:
    """Say what native kernels bring, and how far the profile's times were off."""
    profiled, stan = search.profiled, search.stan
    if profiled is None or stan is None:
        return ""
    told = ""
    if profiled.seconds_exact < profiled.seconds_pytorch:
        share = 1 - profiled.seconds_exact / profiled.seconds_pytorch
        told = f"Native kernels saved about {share:.0%} of an exact iteration against plain PyTorch, as profiled. "
    off = [
        f"{off_by(measured, predicted)} for {kind} iterations"
        for kind, measured, predicted in (
            ("exact", stan.exact_seconds, profiled.seconds_exact),
            ("reduced", stan.reduced_seconds, profiled.seconds_reduced),
        )
        if measured is not None
    ]
    return told + (f"Measured against profiled times: {', '.join(off)}." if off else "")


def _foretold(search: SearchNumbers) -> str:
    """Say how far the estimate was off that one trial gives."""
    foretold = search.foretold
    if foretold is None:
        return ""
    ratio = foretold.taken / foretold.seconds
    if ratio >= MANY:
        how = f"{ratio:.3g} times as long"
    else:
        how = "as long" if abs(ratio - 1) < 0.005 else f"{abs(ratio - 1):.0%} {'less' if ratio < 1 else 'more'}"
    first = f"first {foretold.iterations} {search.summary.unit}s" if foretold.iterations > 1 else "first rung"
    return (
        f"At the pace of trial {foretold.trial} in its {first}, and if no trial diverged, all training and "
        f"evaluation was to take about {duration(foretold.seconds)}; it took {duration(foretold.taken)}, {how}."
    )


def _stan(search: SearchNumbers) -> str:
    stan = search.stan
    assert stan is not None
    if stan.exact_seconds is None or stan.reduced_seconds is None:
        return ""
    unit = search.summary.unit
    # What a function or Lightning counts has many iterations.
    how = "were reduced" if unit == "iteration" else "had reduced iterations"
    return (
        f"Of {stan.exact + stan.reduced} {unit}s {stan.reduced} {how}; one took {time_text(stan.reduced_seconds)}, "
        f"an exact one {time_text(stan.exact_seconds)}."
    )
