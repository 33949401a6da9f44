"""Caffe's files where a command takes a problem, and `stantune import`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from caffe_files import layer, network, write

from stantune.images.objective import made_of
from stantune.images.problem.built_in import find
from stantune.images.prototxt.reading import from_caffe

Stantune = Callable[..., Any]
SMALL = network(
    layer("Convolution", "convolution_param { num_output: 4 kernel_size: 5 stride: 3 }", name="conv/1"),
    layer("LRN", "lrn_param { local_size: 3 alpha: 0.5 }", bottom="conv/1", name="norm"),
    layer("Eltwise", bottom="norm conv/1"),
)
OPTIONS = ("--max-iterations", 9, "--min-iterations", 3, "--brackets", 1, "--threads", 1)


@pytest.fixture
def files(tmp_path: Path) -> tuple[object, ...]:
    """A small network and its solver, as a command takes them."""
    net, solver = write(tmp_path, SMALL)
    return (net, "--solver", solver, "--dataset", "mnist")


@pytest.mark.slow
def test_a_search_gives_one_result_for_any_number_of_workers_and_knows_other_files(
    stantune: Stantune, files: tuple[object, ...], tmp_path: Path
) -> None:
    one, two = (
        stantune("search", *files, *OPTIONS, "--workers", count, "--out", tmp_path / f"runs{count}", "--json", "-").json
        for count in (1, 2)
    )
    assert one["leaders"] == two["leaders"]
    assert one["final"] == two["final"]
    net, solver = tmp_path / "net.prototxt", tmp_path / "solver.prototxt"
    net.write_text(f"# another layout\n{SMALL}")
    again = ("search", *files, *OPTIONS, "--out", tmp_path / "runs1")
    assert stantune(*again).code == 0
    net.write_text(SMALL.replace("alpha: 0.5", "alpha: 0.25"))
    refused = stantune(*again)
    assert refused.code != 0
    assert "made-of.network" in refused.err
    net.write_text(SMALL)
    solver.write_text(solver.read_text().replace("0.01", "0.02"))
    assert "made-of.solver.lr: 0.01 there, 0.02 here" in stantune(*again).err


def test_all_that_a_problem_depends_on_tells_files_apart(tmp_path: Path) -> None:
    def identity(net: str, solver: str = "") -> object:
        files = write(tmp_path, net, f'base_lr: 0.01 lr_policy: "exp" gamma: 0.9 max_iter: 100 {solver}')
        return made_of(from_caffe(*files, "mnist"))

    own = identity(SMALL)
    assert own == identity(f"{SMALL}# a comment")
    changes = (
        ("kernel_size: 5", "kernel_size: 4"),
        ("num_output: 4", 'num_output: 4 weight_filler { type: "xavier" }'),
        ("local_size: 3", "local_size: 5"),
        ('bottom: "norm" bottom: "conv/1"', 'bottom: "norm" bottom: "norm"'),
        ("data_param", "transform_param { scale: 2 } data_param"),
        ("convolution_param", "param { lr_mult: 2 } convolution_param"),
    )
    others = [identity(SMALL.replace(*change)) for change in changes] + [identity(SMALL, "momentum: 0.5")]
    assert all(SMALL.replace(*change) != SMALL for change in changes)
    assert all(one != other for place, one in enumerate([own, *others]) for other in others[place:])


def test_import_writes_a_problem_that_is_found_and_never_over_a_file(
    stantune: Stantune, files: tuple[object, ...], tmp_path: Path
) -> None:
    out = tmp_path / "small.py"
    run = stantune("import", *files, "--batch-size", 7, "--out", out)
    assert (run.code, run.out, run.err) == (0, "", "")
    assert stantune("import", *files, "--batch-size", 7).out == out.read_text()
    written, read = find(f"{out}:problem"), from_caffe(files[0], files[2], "mnist", batch_size=7)  # type: ignore[arg-type]
    assert (written.name, written.space, written.solver, written.batch_size) == (
        read.name, read.space, read.solver, 7,
    )  # fmt: skip
    assert list(written.space) == ["lr", "conv_1_l2", "scores_l2", "momentum", "lrn_scale", "lrn_power"]
    before = out.read_text()
    refused = stantune("import", *files, "--out", out)
    assert (refused.code, out.read_text()) == (2, before)
    assert f"--out {out} is there already; name another file, or move that one away" in refused.err
    assert "does not end in .py" in stantune("import", *files, "--out", tmp_path / "x.txt").err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("search", "lenet", "--dataset", "mnist"), "--dataset mnist is for Caffe's files, and lenet is none"),
        (("brackets", "lenet", "--batch-size", "9"), "--batch-size 9 is for Caffe's files, and lenet is none"),
        (("problems", "--solver", "s"), "--solver s is for Caffe's files, and nothing is none"),
        (("train", "net.prototxt"), "net.prototxt is Caffe's file of a network, and --solver is missing"),
        (("compare", "net.prototxt", "--solver", "s"), "and --dataset is missing; give the data set, such as mnist"),
        (("profile", "n.prototxt", "--solver", "s", "--dataset", "mnist"), "there is no file n.prototxt; give one of"),
        (("entries", "n.prototxt", "--solver", "s", "--dataset", "mnits"), "'mnits' (did you mean 'mnist'?)"),
    ],
)
def test_what_does_not_go_together_is_refused(stantune: Stantune, command: tuple[str, ...], words: str) -> None:
    run = stantune(*command)
    assert run.code == 2
    assert words in run.err


def test_what_a_file_says_wrong_is_said_with_its_line(stantune: Stantune, tmp_path: Path) -> None:
    net, solver = write(tmp_path, SMALL.replace("stride", "strid"))
    run = stantune("train", net, "--solver", solver, "--dataset", "mnist")
    assert (run.code, run.out) == (2, "")
    assert run.err == (
        f"stantune: {net}, line 6: layer 'conv/1': ConvolutionParameter has no field strid (did you mean stride?); "
        "mend or remove it\n"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n\x05lenet\0", "is no text; give a text file, not one with weights"),
        (
            b"# \x97\nname: 'x'\n\xff\xfe",
            r"line 3: '\udcff\udcfe' is neither a name, a number, a text in quotes nor a sign; save the file as UTF-8",
        ),
        # Another blob than "\xf6", which both would be one in which no byte is left.
        (b"# \xe4\nname: '\xc3\xa4'\nname: '\xe4'", r"line 3: '\udce4' is not UTF-8; save the file as UTF-8"),
        (
            b"// a remark",
            "line 1: '// a remark' is neither a name, a number, a text in quotes nor a sign; comments begin",
        ),
        (b"#" * (1 << 20) + b"#", "has more than 1048576 bytes; give a text file, not one with weights"),
    ],
)
def test_a_file_that_is_none_is_refused(content: bytes, words: str, tmp_path: Path, stantune: Stantune) -> None:
    net, solver = write(tmp_path, SMALL)
    net.write_bytes(content)
    assert words in stantune("problems", net, "--solver", solver, "--dataset", "mnist").err


def test_the_batch_size_is_the_files_unless_another_is_given(
    stantune: Stantune, files: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stantune("problems", *files, "--json", "-").json["problems"][0]["batch_size"] == 20
    assert stantune("problems", *files, "--batch-size", 30, "--json", "-").json["problems"][0]["batch_size"] == 30
    assert "give a --batch-size of 1 to 50000" in stantune("problems", *files, "--batch-size", 50_001).err
    net = tmp_path / "net.prototxt"
    net.write_text(SMALL.replace("20", "60000"))
    assert f"{net} says batch_size: 60000, more than the 50000" in stantune("problems", *files).err
    net.write_text(SMALL.replace("batch_size: 20", ""))
    assert f"{net} says no batch_size" in stantune("problems", *files).err
    # That of a profile is of any problem.
    write(tmp_path, net.read_text(), 'base_lr: 1e-6 lr_policy: "fixed" max_iter: 100')
    monkeypatch.setattr("stantune.training.planning.SECONDS", 0.2)
    run = stantune("profile", *files, "--batch-size", 30, "--iterations", 9, "--threads", 1, "--json", "-")
    assert run.code == 0, run.err
    assert run.json["batch_size"] == 30
