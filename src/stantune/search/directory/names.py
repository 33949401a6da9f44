"""The names of a search's files, by which its own are told from others that lie beside them."""

from __future__ import annotations

import re

ASIDE = ".aside"
DATABASE = "search.db"
LOCK = ".lock"
LOG = "messages.log"
LOGGED = "logged.jsonl"
NOTE = "search.json"
# What a study of many searches has in its folder, to know one by.
STUDY_RESULT = "study.json"
# Checkpoints, what was damaged of them, and the folders beside them in which trainings keep files of their own; best
# weights have none.
_WEIGHTS = r"\.pt(\.aside(\.\d+)?)?"
TRAINED = re.compile(rf"(trial-\d{{6,}}|final(-\d+)?)({_WEIGHTS}|\.checkpoint)?|best(-\d+)?{_WEIGHTS}")
LOGS = re.compile(rf"{re.escape(LOG)}(\.\d)?")
# What is written to a file until it is whole (see files.whole), and the sign that other nodes look for.
PART = re.compile(r"\.(?:(.+)\.[0-9a-f]+|[0-9a-f]{16})\.part")
