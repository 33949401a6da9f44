"""A command that trains, and keeps what it needs to go on; segments of its trials."""

from __future__ import annotations

from pathlib import Path

from stantune.parameters import Float
from stantune.protocols import Segment
from stantune.space import Space

SPACE = Space({"lr": Float(0.001, 1, log=True)})
TRAIN = """
    import json, sys
    from pathlib import Path

    state, start, stop, lr = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    kept = state / "deep" / "weights.json"
    weight, at = json.loads(kept.read_text()) if kept.exists() else (1.0, 0)
    assert at == start, (at, start)
    for epoch in range(start, stop):
        weight -= lr * weight
        print(json.dumps({"resource": epoch + 1}))
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps([weight, stop]))
    print("done, it says")
    print(json.dumps({"loss": weight, "accuracy": 1 - weight, "note": "good", "odd": float("inf")}))
"""


def segment(tmp_path: Path, start: int, stop: int, **more) -> Segment:
    """Of trial 7, in a folder."""
    values = {
        "trial": 7,
        "params": {"lr": 0.1},
        "seed": 2**62 + 3,
        "checkpoint": tmp_path / "kept" / "trial-7.pt",
        **more,
    }
    return Segment(start=start, stop=stop, **values)
