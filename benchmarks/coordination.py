"""Times what a search costs besides training: planning, sampling and the trial table, in SQLite."""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

from stantune.search.coordinator import endings, ready_jobs, status
from stantune.search.hyperband import Bracket, Rung, plan
from stantune.search.sampling import sample
from stantune.search.store import Store, sqlite_url
from stantune.space import Float, Space

ETA = 3
# The space of the LeNet problem: the number of parameters is what counts here.
SPACE = Space(
    {
        "lr": Float(5e-5, 5, log=True),
        "conv1_l2": Float(5e-5, 5, log=True),
        "conv2_l2": Float(5e-5, 5, log=True),
        "momentum": Float(0.001, 0.99, log=True),
    }
)


def plan_of(trials: int) -> tuple[Bracket, ...]:
    """Return the brackets of R = 81 and eta = 3, made wider or narrower so that they have `trials` trials."""
    shape = plan(81, 1, ETA)
    total = sum(bracket.rungs[0].trials for bracket in shape)
    firsts = [max(ETA**bracket.s, bracket.rungs[0].trials * trials // total) for bracket in shape]
    firsts[0] += trials - sum(firsts)
    return tuple(
        Bracket(bracket.s, tuple(Rung(rung.iterations, n // ETA**i) for i, rung in enumerate(bracket.rungs)))
        for bracket, n in zip(shape, firsts, strict=True)
    )


def fake_error(number: int, iterations: int) -> float | None:
    """Return an error that looks random, or in a fifth of the cases None: diverged."""
    digest = hashlib.blake2b(f"{number} {iterations}".encode(), digest_size=2).digest()
    return None if digest[0] < 51 else digest[1] / 2.55


def run(trials: int, path: Path) -> dict[str, float]:
    """Run a search that trains nothing; return the seconds by part, with their total."""
    seconds = dict.fromkeys(("open", "plan", "sample", "create", "record", "close", "open again"), 0.0)
    clock = last = time.perf_counter()

    def book(part: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[part] += now - last
        last = now

    brackets, identity = plan_of(trials), {"seed": 0}
    with Store.open(sqlite_url(path), "coordination", identity, SPACE) as store:
        book("open")
        while jobs := ready_jobs(brackets, store.rows()):
            book("plan")
            created = len(store.rows())
            for job in jobs:
                if job.number >= created:
                    params = sample(SPACE, "random", 0, job.number)
                    book("sample")
                    store.create(job.number, params, job.bracket)
                    book("create")
                error = fake_error(job.number, job.stop)
                cost = {"training": 0.0, "evaluation": 0.0, "reduced": 0, "exact": job.stop - job.start}
                if error is None:
                    store.record_divergence(job.number, job.stop, job.start + 1, cost)
                else:
                    store.record(job.number, job.stop, error, cost)
                book("record")
            ended = endings(brackets, store.rows())
            book("plan")
            store.close(ended)
            book("close")
        final = status(brackets, store.rows())
        book("plan")
    assert final.running == 0
    assert len(final.trials) == trials
    total = time.perf_counter() - clock
    last = time.perf_counter()
    with Store.open(sqlite_url(path), "coordination", identity, SPACE) as store:
        assert not ready_jobs(brackets, store.rows())
    book("open again")
    return {**seconds, "total": total}


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000, help="how many trials (default: 1000)")
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as directory:
        seconds = run(trials, Path(directory) / "search.db")
    print(f"{'trials':>10} {'seconds':>10} {'ms a trial':>12}")
    print(f"{trials:>10} {seconds['total']:>10.2f} {1000 * seconds['total'] / trials:>12.3f}")
    print("of which (seconds, ms a trial):")
    for part, spent in seconds.items():
        if part != "total":
            print(f"{part + ('' if part != 'open again' else ' *'):>14} {spent:>10.2f} {1000 * spent / trials:>8.3f}")
    print("* not in the total: loading the finished table, as a command given again does")


if __name__ == "__main__":
    main()
