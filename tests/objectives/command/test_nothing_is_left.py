"""Of a command, and of what it has started, nothing is left, however it or its worker ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import pytest
from command_training import SPACE, TRAIN, segment
from segments import trained

from stantune.errors import StantuneError
from stantune.objectives.command import groups
from stantune.objectives.command.objective import CommandObjective
from stantune.parameters import Categorical
from stantune.space import Space
from stantune.tuning.tune import tune

# Starts a child and a grandchild that ignore SIGTERM, says so, and waits.
FAMILY = """
    import os, signal, subprocess, sys, time
    from pathlib import Path

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    where = Path(sys.argv[4])
    sleeper = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    shell = subprocess.Popen(["sh", "-c", f"{sys.executable} -c \\"$1\\" {where}/grandchild; true", "sh", sleeper])
    (where / "child").write_text(str(shell.pid))
    while not (where / "grandchild").exists() or not (where / "grandchild").read_text():
        time.sleep(0.01)
    (where / "own").write_text(str(os.getpid()))
    print('{"resource": 0}')
    if sys.argv[3] == "1":
        print('{"loss": 1}')
    else:
        time.sleep(600)
"""


def alive(number: int) -> bool:
    try:
        # A zombie is dead, whoever has not noticed.
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_gone(where: Path) -> bool:
    return gone(*(int((where / name).read_text()) for name in ("own", "child", "grandchild")))


def gone(*numbers: int) -> bool:
    end = time.monotonic() + 5
    while any(map(alive, numbers)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, numbers))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
class TestNothingIsLeft:
    @pytest.fixture
    def family(self, tmp_path, script):
        space = Space({"where": Categorical((str(tmp_path),))})
        return CommandObjective(script(FAMILY, "{dir} {start} {stop} {where}"), space, minimize="loss")

    def test_of_one_that_has_ended(self, tmp_path, family):
        began = time.monotonic()
        assert trained(family, segment(tmp_path, 0, 1, params={"where": str(tmp_path)})).metrics == {"loss": 1}
        assert all_gone(tmp_path)
        assert time.monotonic() - began < 10

    def test_of_one_that_is_asked_to_end_and_will_not(self, tmp_path, family, monkeypatch):
        monkeypatch.setattr(groups, "GRACE_SECONDS", 0.3)
        asked = segment(tmp_path, 0, 5, params={"where": str(tmp_path)})
        outcome = trained(family, asked, stop_early=(tmp_path / "own").exists)
        assert (outcome.interrupted, outcome.iterations, outcome.metrics) == (True, 0, {})
        assert all_gone(tmp_path)
        assert not asked.checkpoint.exists()

    def test_after_an_exception(self, tmp_path, family):
        def watch(done):
            if (tmp_path / "own").exists():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trained(family, segment(tmp_path, 0, 5, params={"where": str(tmp_path)}), watch=watch)
        assert all_gone(tmp_path)

    @pytest.mark.parametrize("ignored", [False, True], ids=["", "ignoring SIGTERM"])
    def test_of_one_whose_worker_is_killed(self, tmp_path, family, ignored):
        (tmp_path / "order").write_bytes(
            cloudpickle.dumps((family, segment(tmp_path, 0, 5, params={"where": str(tmp_path)})))
        )
        code = f"""
import pickle, signal
from stantune.protocols import Place
{"signal.signal(signal.SIGTERM, signal.SIG_IGN)" if ignored else ""}
objective, segment = pickle.load(open({str(tmp_path / "order")!r}, "rb"))
objective.trainer(Place(threads=1)).train(segment, lambda: False, lambda done: None)
"""
        worker = subprocess.Popen([sys.executable, "-c", code])
        end = time.monotonic() + 60
        while not (tmp_path / "own").exists() and time.monotonic() < end:
            time.sleep(0.02)
        worker.kill()
        worker.wait()
        assert all_gone(tmp_path)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_of_a_search_whose_terminal_is_lost(self, tmp_path, family, workers):
        (tmp_path / "objective").write_bytes(cloudpickle.dumps(family))
        code = f"""
import pickle
import stantune as st
from stantune.errors import StantuneError
from stantune.objectives.command import groups
groups.GRACE_SECONDS = 0.3
st.tune(pickle.load(open({str(tmp_path / "objective")!r}, "rb")), max_resource=5, workers={workers},
        out={str(tmp_path / "out")!r})
"""
        search = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
        end = time.monotonic() + 60
        while not (tmp_path / "own").exists() and time.monotonic() < end:
            time.sleep(0.02)
        # From the shell and from the system, one after the other.
        search.send_signal(signal.SIGHUP)
        time.sleep(0.05)
        search.send_signal(signal.SIGHUP)
        _, err = search.communicate(timeout=60)
        assert (tmp_path / "out" / "result.json").exists(), "it ended in good order"
        # What comes after the search ends the program, as a lost terminal does where nobody heeds it.
        assert search.returncode in (-signal.SIGINT, -signal.SIGHUP), err.decode()
        assert all_gone(tmp_path)

    def test_of_one_that_uses_too_much_memory(self, tmp_path, script):
        text = """
            import os, sys, time
            with open(sys.argv[3] + "/own", "a") as file:
                print(os.getpid(), file=file)
            much = bytearray(os.urandom(1 << 20)) * 500
            time.sleep(20)
        """
        space = Space({"where": Categorical((str(tmp_path),))})
        greedy = CommandObjective(script(text, "{start} {stop} {where}"), space, minimize="loss")
        cause = "its process with those that it has started used more than 300 MB of memory, its limit"
        with pytest.raises(StantuneError, match=f"none of the first 5 trials.*{cause}"):
            tune(greedy, max_resource=9, trial_memory="300M", retries=0, workers=1, out=tmp_path / "out")
        numbers = [int(line) for line in (tmp_path / "own").read_text().splitlines()]
        assert len(numbers) >= 5
        assert gone(*numbers)

    def test_a_command_obeys_even_where_its_worker_ignores_signals(self, tmp_path, monkeypatch):
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            objective = CommandObjective("sleep 60{lr}", SPACE, minimize="loss")
            began = time.monotonic()
            outcome = trained(objective, segment(tmp_path, 0, 5), stop_early=lambda: time.monotonic() > began + 0.3)
            assert outcome.interrupted
            assert time.monotonic() - began < groups.GRACE_SECONDS / 2
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGTERM, before)

    def test_from_a_thread_it_works_as_well(self, tmp_path, script):
        objective = CommandObjective(script(TRAIN), SPACE, minimize="loss")
        outcomes = []
        thread = threading.Thread(target=lambda: outcomes.append(trained(objective, segment(tmp_path, 0, 2))))
        thread.start()
        thread.join(60)
        assert outcomes[0].metrics["loss"] == pytest.approx(0.9**2)
