"""What `stantune profile` predicted of an iteration, beside what the trials of a search measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stantune.errors import UsageError
from stantune.files import read_small
from stantune.report.page.contract import Profiled, ProfiledLayer
from stantune.search.identity import kind_of

if TYPE_CHECKING:
    from stantune.report.stan.profile import LayerProfile, ProfileResult


def read_profile(file: Path) -> ProfileResult:
    """Return what `stantune profile --json` wrote; raises UsageError where that is something else."""
    # It loads PyTorch, which a page without it does not.
    from stantune.report.stan.profile import ProfileResult

    try:
        return ProfileResult.model_validate_json(read_small(file))
    except OSError as error:
        raise UsageError(f"the profile {file} cannot be read ({error.strerror}); name another file") from error
    except ValueError as error:
        raise UsageError(
            f"{file} is no profile; write one with `stantune profile PROBLEM --rate RATE --json FILE`"
        ) from error


def profile_for(profiles: Sequence[ProfileResult], identity: Mapping[str, Any], name: str) -> Profiled | None:
    """Return what the profile of this search's problem says, None where none is of it.

    Raises UsageError where it was made under other conditions, so that its times cannot be compared.
    """
    profile = next((each for each in profiles if each.problem == identity.get("problem")), None)
    if profile is None or identity.get("accelerate") in (None, "none"):
        return None
    for what, own in (("precision", "fp32"), ("memo", None), ("meprop", None), ("resize", None)):
        value = identity.get(what, own)
        if value != own:
            how = f"{what} {value}" if isinstance(value, str) else what
            raise UsageError(
                f"{name} trained with {how}, of which no profile can be made; leave that of {profile.problem} out"
            )
    for what, here, there in _conditions(profile, identity):
        if here != there:
            raise UsageError(
                f"the profile of {profile.problem} was made with {what}: {_text(here)}, and {name} trained with "
                f"{_text(there)}; make one as the search trained, or leave it out"
            )
    natively = identity.get("native", True)
    exact = profile.step if profile.native_step is None or not natively else profile.native_step
    spares = _spares(identity)
    layers = [_layer(each, spares) for each in profile.layers]
    return Profiled(
        seconds_pytorch=profile.step,
        seconds_exact=exact,
        seconds_reduced=exact - sum(layer.saved or 0.0 for layer in layers),
        predicted_speedup=profile.predicted_speedup if spares else profile.step / exact,
        layers=layers,
    )


def _conditions(profile: ProfileResult, identity: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    """Give what must be alike, in words, of the profile and of the search, so that the same is set beside the same."""
    yield "images an iteration", profile.batch_size, identity.get("batch-size")
    yield "threads", profile.threads, identity.get("threads")
    yield "device", kind_of(profile.device), kind_of(identity.get("device", ""))
    if not _spares(identity):
        # What a profile says of exact iterations is true of them, whatever its rate is.
        return
    changes = identity.get("rates") or identity.get("rate") is None
    planned = identity.get("plan") is not None
    yield "rate", profile.rate, "several, one after another" if changes else "auto" if planned else identity["rate"]
    if not planned:
        # The planner's own choice need not be the same twice, and an iteration does not depend on it.
        yield "reduced iterations after each exact one", profile.period, identity["period"]
    from stantune.images.stan_settings import stan_of
    from stantune.stan.entries.entries import PATTERNS, along_line

    stan = stan_of(identity)
    for layer in profile.layers:
        wanted = any(fnmatchcase(layer.name, pattern) for pattern in stan.layers)
        used = stan.patterns_of(layer.name) if wanted else ()
        if any(pattern.name == "quarter" for pattern in layer.patterns):
            # Of a line of entries, whose blocks are those of one row.
            used = along_line(used)
        here = [pattern.name for pattern in layer.patterns if pattern.planned]
        there = [pattern.name for pattern in layer.patterns if PATTERNS[pattern.name] in used]
        yield f"patterns of layer {layer.name}", here, there


def _spares(identity: Mapping[str, Any]) -> bool:
    """Tell whether trials leave entries out."""
    return identity.get("rate") != 1 or bool(identity.get("rates"))


def _text(value: object) -> str:
    if isinstance(value, list):
        return " or ".join(value) or "none"
    return "none" if value is None else str(value)


def check_all_used(profiles: Sequence[ProfileResult], problems: Sequence[str]) -> None:
    """Raise UsageError where a profile is of no search on the page."""
    for profile in profiles:
        if profile.problem not in problems:
            raise UsageError(
                f"there is a profile of {profile.problem}, and the searches are of {', '.join(sorted(set(problems)))}; "
                "leave it out, or give one of theirs"
            )


def _layer(layer: LayerProfile, spares: bool) -> ProfiledLayer:
    used = [pattern for pattern in layer.patterns if pattern.planned and spares]
    return ProfiledLayer(
        name=layer.name,
        exact=None if layer.t_f is None or layer.t_b is None else layer.t_f + layer.t_b,
        # Drawn anew in each iteration: their mean.
        saved=sum(pattern.t_i + pattern.t_j for pattern in used) / len(used) if used else None,
        patterns=[pattern.name for pattern in used],
        left_alone=layer.left_alone,
    )
