"""A search of any program's settings: it is told them on its command line, and answers in a line of JSON.

    python examples/shell_command.py

The program is spirals.py, next to this file. It could be in any language: all that is asked of it is that it goes on
from what it left in its state folder, {dir}, and prints its metrics in the end.
"""

from __future__ import annotations

from pathlib import Path

import stantune as st

objective = st.CommandObjective(
    "{python} spirals.py --lr {lr} --momentum {momentum} --hidden {hidden}"
    " --from {start} --until {stop} --seed {seed} --state {dir}",
    st.Space(
        {
            "lr": st.Float(0.001, 1, log=True),
            "momentum": st.Float(0, 0.95),
            "hidden": st.Integer(2, 32, log=True),
        }
    ),
    metric=st.Metric("error", "minimize", "%"),
    length=81,
    cwd=Path(__file__).parent,
)

if __name__ == "__main__":
    print(st.tune(objective, workers=2, out="runs/spirals"))
