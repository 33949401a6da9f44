"""What `stantune profile` predicted of an iteration, beside what the trials of a search measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stantune.errors import UsageError
from stantune.report.page.contract import Profiled, ProfiledLayer

if TYPE_CHECKING:
    from stantune.report.stan.profile import LayerProfile, ProfileResult


def read_profile(file: Path) -> ProfileResult:
    """Return what `stantune profile --json` wrote; raises UsageError where that is something else."""
    # It loads PyTorch, which a page without it does not.
    from stantune.report.stan.profile import ProfileResult

    try:
        return ProfileResult.model_validate_json(file.read_bytes())
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
    for what, here, there in (
        ("images an iteration", profile.batch_size, identity.get("batch-size")),
        ("threads", profile.threads, identity.get("threads")),
        ("device", profile.device, identity.get("device")),
    ):
        if here != there:
            raise UsageError(
                f"the profile of {profile.problem} was made with {what}: {here}, and {name} trained with {there}; make "
                "one as the search trained"
            )
    exact = profile.step if profile.native_step is None else profile.native_step
    layers = [_layer(each) for each in profile.layers]
    return Profiled(
        seconds_pytorch=profile.step,
        seconds_exact=exact,
        seconds_reduced=exact - sum(layer.saved or 0.0 for layer in layers),
        predicted_speedup=profile.predicted_speedup,
        layers=layers,
    )


def check_all_used(profiles: Sequence[ProfileResult], problems: Sequence[str]) -> None:
    """Raise UsageError where a profile is of no search on the page."""
    for profile in profiles:
        if profile.problem not in problems:
            raise UsageError(
                f"there is a profile of {profile.problem}, and the searches are of {', '.join(sorted(set(problems)))}; "
                "leave it out, or give one of theirs"
            )


def _layer(layer: LayerProfile) -> ProfiledLayer:
    used = [pattern for pattern in layer.patterns if pattern.planned]
    return ProfiledLayer(
        name=layer.name,
        exact=None if layer.t_f is None or layer.t_b is None else layer.t_f + layer.t_b,
        # Drawn anew in each iteration: their mean.
        saved=sum(pattern.t_i + pattern.t_j for pattern in used) / len(used) if used else None,
        patterns=[pattern.name for pattern in used],
        left_alone=layer.left_alone,
    )
