"""The names under which a search keeps in its study, and in its trials, what Optuna has no place for."""

from __future__ import annotations

# In the study.
IDENTITY = "stantune:identity"
START = "stantune:start"
# What of the identity was another when the search began, each time that it was taken for the same nevertheless.
ACCEPTED = "stantune:accepted"
FINAL = "stantune:final"
# In a shared storage, where the search was begun: a key that the directory's note has, too, and "PATH on NODE".
OWNER = "stantune:owner"
# In a copy for other programs alone: a mark of who copies until it is whole, then False.
COPYING = "stantune:copying"
# Optuna's own.
METRIC_NAMES = "study:metric_names"
# What searches compared by before metrics had names.
BEFORE = "validation error"

# In its trials.
NUMBER = "stantune:number"
BRACKET = "stantune:bracket"
DIVERGED_AT = "stantune:diverged_at"
COST = "stantune:cost:"
METRICS = "stantune:metrics:"
LOSSES = "stantune:losses:"
SHARE = "stantune:validation_share:"
FAILURES = "stantune:failures"
FAILED = "stantune:failed"
TAKEN = "stantune:taken_over_from:"
STARTED_FROM = "stantune:started_from"
END = "stantune:end"
