"""Checks for what users write themselves, as plain functions that raise AssertionError; they need no test framework."""

from stantune.testing.executors import check_executor
from stantune.testing.loggers import check_logger
from stantune.testing.objectives import check_objective
from stantune.testing.samplers import check_sampler

__all__ = ["check_executor", "check_logger", "check_objective", "check_sampler"]
