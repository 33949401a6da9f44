"""What settings say of a search besides its plan and its identity: the seeds of its trainings."""

from __future__ import annotations

from stantune.search.settings import SearchSettings


def test_seeds_are_the_recorded_ones() -> None:
    """Others would give every search that was begun another course."""
    settings = SearchSettings(5, 9, 1)
    assert (settings.trial_seed(3), settings.final_seed()) == (4337242629448774866, 2960293398917131242)


def test_each_trial_of_each_search_has_a_seed_of_its_own() -> None:
    searches = [SearchSettings(seed, 9, 1) for seed in (0, 1)]
    assert len({settings.trial_seed(number) for settings in searches for number in (0, 1)}) == 4
    assert len({settings.final_seed() for settings in searches}) == 2
