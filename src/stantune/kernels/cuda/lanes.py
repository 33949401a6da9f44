"""Lanes of a CUDA device: a stream each and memory for graphs, so that several trainings compute at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeVar

import torch

from stantune.kernels.cuda.ways import no_collection, replayed

T = TypeVar("T")
# Of each device: lanes whose trainings have ended. They are kept, and with them the memory for graphs.
_FREE: dict[int, list[Lane]] = {}


class Lane:
    """A stream of a device, and the memory of all graphs that are recorded and replayed on it.

    One training at a time has a lane, so that what follows in it is done in order, and nothing waits for other lanes.
    """

    def __init__(self, device: int) -> None:
        """Make a lane of the device with this number."""
        self.device = device
        with torch.cuda.device(device):
            self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()
            # With its last graph PyTorch would forget the pool, and its memory would not be used again.
            self._keeper = self.recorded(lambda: torch.zeros(1, device=self.stream.device))

    def recorded(self, work: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        """Record what `work` gives the device, which does nothing of it yet; return the graph and what `work` returned.

        Raises RuntimeError where that cannot be recorded.
        """
        try:
            # Left before the second try: the error holds on to all that the first one had made.
            with suppress(torch.OutOfMemoryError):
                return self._recorded(work)
            # While it records, PyTorch gives back nothing of what it keeps.
            torch.cuda.empty_cache()
            return self._recorded(work)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            self._end_recording()
            raise

    def _end_recording(self) -> None:
        """Have PyTorch know that nothing is recorded any more: before 2.12 it thinks that what failed goes on."""
        if torch.__version__ >= "2.12":
            return
        names = "_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"  # since 2.8, before
        end = next(getattr(torch._C, name) for name in names if hasattr(torch._C, name))
        with suppress(RuntimeError):  # it has ended
            end(self.device, self._pool)
        # Of the generator, it ends with one that does not fail; until then no random number could be drawn.
        self._recorded(lambda: torch.zeros(1, device=self.stream.device))

    def _recorded(self, work: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        graph = torch.cuda.CUDAGraph()
        # Not by torch.cuda.graph, which waits for the whole device and gives back its unused memory: other lanes would
        # run dry at each recording.
        with no_collection(), torch.cuda.stream(self.stream), replayed():
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = work()
            finally:
                graph.capture_end()
        return graph, result

    def taken_up(self) -> AbstractContextManager[object]:
        """Return a context in which the device gets its work by this lane, without waiting for any other."""
        return torch.cuda.stream(self.stream)

    @contextmanager
    def between(self) -> Iterator[None]:
        """Work by this lane in the middle of another stream's work: after what was before, and before what follows."""
        outside = torch.cuda.current_stream(self.device)
        if outside == self.stream:
            yield
            return
        self.stream.wait_stream(outside)
        with self.taken_up():
            yield
        outside.wait_stream(self.stream)


@contextmanager
def lane_on(device: int) -> Iterator[Lane]:
    """Have a lane of a device for a training, after all that its present stream has to do."""
    free = _FREE.setdefault(device, [])
    lane = free.pop() if free else Lane(device)
    outside = torch.cuda.current_stream(device)
    lane.stream.wait_stream(outside)
    given_up = False
    try:
        yield lane
        outside.wait_stream(lane.stream)
    except torch.OutOfMemoryError:
        # What lanes without a training hold is for those that have one; this one holds most.
        free.clear()
        given_up = True
        raise
    finally:
        if not given_up:
            free.append(lane)


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Have all random numbers on the generator's device come from it within, those of recorded steps among them.

    A graph remembers the generator that it was recorded with, and where that keeps its seed on the device: two graphs
    of one generator must not be replayed at the same time.
    """
    usual = torch.cuda.default_generators[generator.device.index]
    before = usual.graphsafe_get_state()
    usual.graphsafe_set_state(generator)
    try:
        yield
    finally:
        usual.graphsafe_set_state(before)
