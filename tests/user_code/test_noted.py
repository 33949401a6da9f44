"""Digests that earlier versions noted are known again by their rule."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

from decorators import INSTALLED, SCALED

from stantune.user_code.digest import digest
from stantune.user_code.noted import Digest, as_noted

# What earlier versions saw as today's does, and what they did not see, or looked into.
FILES = {
    "site-packages/lib.py": f"""{INSTALLED}
class Optimizer:
    rate = 0.1
""",
    "helpers.py": """
LIMITS = [1]
def helper(x):
    return x + LIMITS[0]
""",
    "mine.py": """
import functools, sys
sys.path.append("site-packages")
import helpers, lib
from stantune.user_code.digest import digest

"""
    + SCALED
    + """
@scaled(2.0)
def decorated(x):
    return x + 1

@functools.cache
def cached(x):
    return x + 2

WIDTH = 3
HEIGHT, (DEPTH, _) = 4, (5, 5)
DEPTHS = {}
DEPTHS.update(a=6)
for STEP in [7]:
    pass

class Net:
    @lib.around
    def evaluate(self):
        return 8

class Plain:
    scale = 9
    def forward(self, x):
        return x * WIDTH

def make(held):
    def train(run):
        return held
    return train

def seen(run):
    return cached(1), WIDTH, DEPTHS, Plain(), helpers.helper(1)

def unseen(run):
    return decorated(1), DEPTH, STEP

def looked_into(run):
    return Net()

for each in (seen, make(3), make([Plain, 1]), functools.partial(seen, 2), unseen, looked_into, make(lib.Optimizer)):
    print(digest(each), digest(each).earlier)
""",
}
EARLIER = (
    "12eea675b2e26242 f719e54299c7b7eb dd22a6350a0c1c4d 7321fe37685c315e "
    "cc30bf34720f24a0 5702494dbf3365d3 cb6bd1bda49dca7b"
)
SAME = 4


def test_code_is_known_again_by_what_earlier_versions_noted(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    run = [sys.executable, tmp_path / "mine.py"]
    said = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    pairs = [line.split() for line in said.splitlines()]
    assert [earlier for _, earlier in pairs] == EARLIER.split()
    assert [one == earlier for one, earlier in pairs] == [place < SAME for place in range(len(pairs))]


def test_a_digest_travels_with_what_it_was() -> None:
    one = Digest("abc", "abd")
    for other in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert (other, other.earlier, type(other)) == ("abc", "abd", Digest)
    both = one + Digest("x", "y")
    assert (both, both.earlier) == ("abcx", "abdy")
    assert json.dumps(both) == '"abcx"'
    assert digest(len) == str(digest(len))


def test_an_identity_is_told_by_the_rule_of_what_was_noted() -> None:
    one = Digest("new", "old")
    here = {"code": one, "made-of": {"network": one, "data": [one, 3], "more": (one,)}, "seed": 1, "later": one}
    plain = json.loads(json.dumps(here))
    assert as_noted(here, plain) == plain
    assert as_noted(here, None) == here
    there = json.loads(json.dumps(here).replace("new", "old"))
    del there["later"]
    assert as_noted(here, there) == {**there, "later": "new"}
    others = {"code": "other", "made-of": {"network": "old", "data": ["old"], "more": "old"}, "seed": 2}
    assert as_noted(here, others) == {**here, "made-of": {**here["made-of"], "network": "old"}}
