"""Starts a Ray cluster of two nodes on this machine, each with room for one training, and ends it.

    python -m benchmarks.robustness.local_ray

Prints its address when it is there, and lives until its standard input ends. In a process of its own, since one that
has spoken with Ray can no longer be forked.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from ray._private import services
from ray.cluster_utils import Cluster

# Files by which Ray's helper processes tell their ports, which none of them has here. Ray gives its helpers fifteen
# seconds to write them, which a busy machine does not do; so they are there beforehand.
PORT_FILES = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")


def small() -> dict[str, Any]:
    """Return the arguments of a node with one CPU, and without the helpers that a search has no use for."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    return {
        "num_cpus": 1,
        "num_gpus": 0,
        "object_store_memory": 80 * 2**20,
        "runtime_env_agent_port": port,
        "include_log_monitor": False,
        "include_dashboard": False,
    }


def main() -> None:
    """Print the address, and wait."""
    # The last one: else all that the machine does besides comes first.
    os.environ.update(
        {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120", "RAY_worker_niceness": "0"}
    )
    start = services.start_raylet

    def with_ports(*positional: Any, **named: Any) -> Any:
        # Of what it takes, these come third and twelfth.
        node, session = positional[2], positional[11]
        for name in PORT_FILES:
            (Path(session) / f"{name}_{node}").write_text("-1")
        return start(*positional, **named)

    services.start_raylet = with_ports
    # What Ray says while it starts is not the address.
    said = os.dup(1)
    os.dup2(2, 1)
    cluster = Cluster(True, head_node_args=small())
    try:
        cluster.add_node(**small())
        os.write(said, f"{cluster.address}\n".encode())
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
