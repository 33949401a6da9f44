"""The text format: values and lines as protobuf reads them, and what is refused where."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from stantune.images.prototxt.syntax.messages import NET, SOLVER
from stantune.images.prototxt.syntax.schema import Enum, Node, Shape, read
from stantune.images.prototxt.syntax.text import DEEPEST, Message, RefusalError, Scalar, parse

FILES = Path(__file__).parents[2] / "examples" / "caffe"


def told(message: Message) -> list[Any]:
    return [
        (field.name, field.line, told(field.value))
        if isinstance(field.value, Message)
        else (field.name, field.line, field.value.kind, field.value.text)
        for field in message.fields
    ]


def test_fields_have_their_values_and_lines() -> None:
    text = """# a comment
a: 1, b: -0x1F; c: .5f
d { e: MAX }
f: <
  g: "x\\ty" 'z\\x41\\101\\"'
>
h: [1, 2] i: []
j: { }  k: -inf
"""
    assert told(parse(text)) == [
        ("a", 2, "number", "1"),
        ("b", 2, "number", "-0x1F"),
        ("c", 2, "number", ".5f"),
        ("d", 3, [("e", 3, "word", "MAX")]),
        ("f", 4, [("g", 5, "text", 'x\tyzAA"')]),
        ("h", 7, "number", "1"),
        ("h", 7, "number", "2"),
        ("j", 8, []),
        ("k", 8, "word", "-inf"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\n\nb", 3, "the end of the file stands where ':' or '{' is to"),
        ("a {\n b: 1", 2, "the end of the file stands where a field or '}' is to"),
        ("a: 1 }", 1, "'}' stands where a field is to"),
        ("a {\n>", 2, "'>' stands where a field or '}' is to"),
        ("a: [1\n2]", 2, "'2' stands where ',' or ']' is to"),
        ("a: :", 1, "':' stands where a value is to"),
        ("a 1", 1, "'1' stands where ':' or '{' is to"),
        ("a: 'x\n'", 1, '"\'x" is neither a name, a number, a text in quotes nor a sign'),
        ("a: 1b", 1, "'1b' is neither a name"),
        ("[a]: 1", 1, "'[' stands where a field is to"),
        ("a: -MAX", 1, "'MAX' stands where a value is to"),
        ("\0", 1, "is neither a name"),
        ("a: " + "1" * 65, 1, "is too long a number"),
        ("a {" * (DEEPEST + 1), 1, f"messages are more than {DEEPEST} deep"),
    ],
)
def test_what_is_no_text_format_is_refused_on_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(RefusalError) as caught:
        parse(text)
    assert (caught.value.line, words in caught.value.words) == (line, True), caught.value.words


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("base_lrr: 1", 1, "a solver has no field base_lrr (did you mean base_lr?); mend or remove it"),
        ("base_lr: 1\nbase_lr: 2", 2, "base_lr is given a second time in a solver; remove one"),
        ('base_lr: "1"', 1, "base_lr is '1'; give a finite number of 32 bits, without quotes"),
        ("base_lr: inf", 1, "base_lr is 'inf'; give a finite number of 32 bits"),
        ("base_lr: 1e999", 1, "base_lr is '1e999'; give a finite number of 32 bits"),
        ("base_lr: -3.5e38", 1, "base_lr is '-3.5e38'; give a finite number of 32 bits"),
        ("max_iter: 1.5", 1, "max_iter is '1.5'; give a whole number"),
        ("max_iter: 2147483648", 1, "max_iter is '2147483648'; give a whole number"),
        ("max_iter: 09", 1, "max_iter is '09'; give a whole number"),
        ("lr_policy: fixed", 1, "lr_policy is 'fixed'; give a text in quotes"),
        ("debug_info: yes", 1, "debug_info is 'yes'; give true or false"),
        ("solver_mode: TPU", 1, "solver_mode is 'TPU'; give one of CPU, GPU"),
        ("solver_mode: 7", 1, "solver_mode is '7'; give one of CPU, GPU"),
        ("net { }", 1, "net has fields in braces; give a text in quotes"),
    ],
)
def test_a_value_of_another_kind_is_refused(text: str, line: int, words: str) -> None:
    with pytest.raises(RefusalError) as caught:
        read(parse(text), SOLVER)
    assert (caught.value.line, caught.value.words) == (line, words)


def test_a_message_in_place_of_a_value_and_a_value_in_place_of_a_message_are_refused() -> None:
    with pytest.raises(RefusalError, match="give fields in braces"):
        read(parse("layer: 1"), NET)


def test_numbers_of_all_writings_and_enums_by_number_are_read() -> None:
    assert read(parse("random_seed: 34234562302122"), SOLVER)["random_seed"] == 34234562302122
    node = read(parse("max_iter: 010 display: 0x10 base_lr: 1e-2f power: 3 solver_type: 5 debug_info: 1"), SOLVER)
    assert [node[each] for each in ("max_iter", "display", "base_lr", "power", "solver_type", "debug_info")] == [
        8, 16, 0.01, 3.0, "ADAM", True,
    ]  # fmt: skip


def protobuf_of(shape: Shape, pool: Any = None) -> Any:
    """The class that protobuf makes of our own shapes, an oracle of the format."""
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    kinds = {"int": 5, "long": 3, "uint": 13, "float": 1, "bool": 8, "string": 12}
    names: dict[int, str] = {}

    def add(one: Shape | Enum) -> str:
        if id(one) not in names:
            name = names[id(one)] = f"M{len(names)}"
            if isinstance(one, Enum):
                made = file.enum_type.add(name=name)
                for value, number in sorted(one.names.items(), key=lambda each: each[1]):
                    made.value.add(name=value, number=number)
                return f".caffe.{name}"
            message = file.message_type.add(name=name)
            for number, (field, of) in enumerate(one.fields.items(), 1):
                if of.kind == "anything":
                    continue
                label = 3 if of.repeated else 1
                if isinstance(of.kind, Shape | Enum):
                    kind = 11 if isinstance(of.kind, Shape) else 14
                    message.field.add(name=field, number=number, label=label, type=kind, type_name=add(of.kind))
                else:
                    message.field.add(name=field, number=number, label=label, type=kinds[of.kind])
        return f".caffe.{names[id(one)]}"

    root = add(shape).removeprefix(".")
    # Names of values are those of the file to protobuf: one message each keeps them apart.
    for place, made in enumerate(list(file.enum_type)):
        home = file.message_type.add(name=f"E{place}")
        home.enum_type.add().CopyFrom(made)
        for message in file.message_type:
            for field in message.field:
                if field.type_name == f".caffe.{made.name}":
                    field.type_name = f".caffe.E{place}.{made.name}"
    del file.enum_type[:]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(root))


def same(node: Node, message: Any) -> bool:
    said = {field.name: value for field, value in message.ListFields()}
    for name, of in node.shape.fields.items():
        if of.kind == "anything":
            continue
        ours = node.values.get(name, [] if of.repeated else None)
        theirs = said.get(name, [] if of.repeated else None)
        if isinstance(of.kind, Enum) and theirs is not None:
            by_number = {number: each for each, number in of.kind.names.items()}
            theirs = [by_number[each] for each in theirs] if of.repeated else by_number[theirs]
        if isinstance(of.kind, Shape):
            pairs = zip(ours, theirs, strict=True) if of.repeated else [(ours, theirs)] if ours else []
            if not all(same(*pair) for pair in pairs):
                return False
        elif of.kind == "string":
            decoded = (
                [each.decode("latin-1") for each in theirs] if of.repeated else theirs and theirs.decode("latin-1")
            )
            if list(decoded or []) != list(ours or []):
                return False
        elif (list(theirs) if of.repeated else theirs) != ours:
            return False
    return True


@pytest.mark.parametrize("shape", [NET, SOLVER], ids=["net", "solver"])
def test_protobuf_reads_the_same_from_files_and_from_damaged_ones(shape: Shape) -> None:
    made = protobuf_of(shape)
    from google.protobuf import text_format

    rng = random.Random(0)
    kind = "train_test" if shape is NET else "solver"
    texts = [file.read_text() for file in sorted(FILES.glob(f"*{kind}.prototxt"))]
    assert len(texts) == 4
    agreed = refused = 0
    for number in range(250):
        text = texts[number % 4]
        if number >= 4:
            for _ in range(rng.randrange(1, 4)):
                place = rng.randrange(len(text))
                text = (
                    text[:place]
                    + rng.choice(["", "}", "{", "1", ":", '"', "a", ",", "\n", "-", "<", "0"])
                    + text[place + 1 :]
                )
        try:
            theirs = text_format.Parse(text, made())
        except (text_format.ParseError, UnicodeDecodeError):
            theirs = None
        try:
            ours = read(parse(text), shape)
        except RefusalError:
            ours = None
        assert (ours is None) == (theirs is None), text
        if ours is None:
            refused += 1
        else:
            agreed += 1
            assert same(ours, theirs), text
    assert agreed > 20
    assert refused > 20
    assert isinstance(parse("a: 1").fields[0].value, Scalar)
