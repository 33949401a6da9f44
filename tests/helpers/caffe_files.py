"""Caffe's files for tests: a small network and a solver, of which parts are put in or changed."""

from __future__ import annotations

from pathlib import Path

from stantune.images.prototxt.net import Net, read_net

DATA = """layer {
  name: "data" type: "Data" top: "data" top: "label"
  data_param { batch_size: 20 }
}
"""
LOSS = """layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" }
"""
SCORES = """layer {{ name: "scores" type: "InnerProduct" bottom: "{bottom}" top: "scores"
  inner_product_param {{ num_output: 10 weight_filler {{ type: "xavier" }} }} }}
"""
SOLVER = 'base_lr: 0.01\nlr_policy: "fixed"\nmax_iter: 100\n'


def layer(kind: str, *more: str, bottom: str = "data", name: str = "x") -> str:
    """A layer that makes a blob of its own name."""
    bottoms = " ".join(f'bottom: "{each}"' for each in bottom.split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{name}"\n  {" ".join(more)} }}\n'


def network(*layers: str, bottom: str = "x") -> str:
    """A whole file: these layers, of which one makes the blob `bottom`, between data and scores."""
    return "".join([DATA, *layers, SCORES.format(bottom=bottom), LOSS])


def read(*layers: str, bottom: str = "x", size: tuple[int, int, int] = (3, 32, 32)) -> Net:
    """The network of such a file."""
    return read_net(network(*layers, bottom=bottom), size, 10)


def write(folder: Path, net: str, solver: str = SOLVER) -> tuple[Path, Path]:
    """Two files in a folder."""
    (folder / "net.prototxt").write_text(net)
    (folder / "solver.prototxt").write_text(solver)
    return folder / "net.prototxt", folder / "solver.prototxt"
