"""One of two processes that train an accelerated model with DistributedDataParallel: run by test_data_parallel."""

from __future__ import annotations

import os
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

from stantune import Stan, accelerate_
from stantune.errors import UsageError


def main(rank: int, meeting: str, result: str) -> None:
    """Train a few iterations on this process's half of each batch and let the first process save the weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    # Each process would time as many passes as it likes, and wait for the other in the next one for ever.
    for waits in (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.SyncBatchNorm(8)),
        nn.parallel.DistributedDataParallel(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))),
    ):
        with pytest.raises(UsageError, match="waits for other processes"):
            accelerate_(waits, Stan(rate="auto"), torch.randn(2, 3, 8, 8))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(144, 5))
    handle = accelerate_(model, Stan(rate=0.5, period=2))
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images, labels = torch.randn(6, 8, 3, 8, 8), torch.randint(5, (6, 8))
    for iteration in range(6):
        half = slice(4 * rank, 4 * rank + 4)
        loss = nn.functional.cross_entropy(parallel(images[iteration, half]), labels[iteration, half])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        handle.step()
    if rank == 0:
        torch.save(model.state_dict(), result)
    # Ended at once: torch frees gloo's process group holding the interpreter's lock and joins a thread that may wait
    # for that lock, so that about one ordinary end in twenty hangs.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
