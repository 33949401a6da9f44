"""Checks for what users write themselves, as plain functions that raise AssertionError; they need no test framework."""

from stantune.testing.samplers import check_sampler

__all__ = ["check_sampler"]
