"""Damages files of every format that data sets come in, and has them read: a script for test_fuzz, and for you.

Usage: fuzz_formats.py COUNT [SEED]. It prints how many inputs of each format were refused and how many were read, the
longest time that one took and the memory that all took, and ends with an exit code other than 0 where one was not
refused in a sentence, was believed though it was altered, took more than 10 s or the memory, or ended the process: the
input that did it stays in the folder that is named in the first line.
"""

from __future__ import annotations

import faulthandler
import gzip
import hashlib
import io
import json
import pickle
import pickletools
import random
import resource
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from stantune.images.data.fetching import sources
from stantune.images.data.fetching.catalog import DataFile, Description
from stantune.images.data.fetching.sources import RefusalError
from stantune.images.data.reading.formats import UnsoundError, read

SECONDS = 10
ADDRESS_SPACE = 1 << 30
MEMORY = 200 << 20

PLANES = np.random.default_rng(0).integers(0, 256, (4, 3, 4, 5), dtype=np.uint8)
LABELS = [3, 1, 4, 1]
BATCH = DataFile(
    "data_batch_1", "train", "batch", PLANES.shape, hashlib.sha256(PLANES.tobytes() + bytes(LABELS)).hexdigest()
)
PACKAGE = Description("fuzz", "fuzz", 10, (BATCH,), npm="fuzz@1")
IDX = struct.pack(">4B3I", 0, 0, 8, 3, 4, 3, 20) + PLANES.tobytes()
IMAGES = DataFile("images", "train", "images", (4, 3, 20), hashlib.sha256(IDX).hexdigest())
MARKS = struct.pack(">4BI", 0, 0, 8, 1, 4) + bytes(LABELS)
LABEL_FILE = DataFile("labels", "train", "labels", (4,), hashlib.sha256(MARKS).hexdigest())


def text(value: bytes) -> bytes:
    return b"U" + bytes([len(value)]) + value


def python2() -> bytes:
    """A batch as Python 2 pickled the official ones."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85" + text(b"b") + b"\x87Rq\x03"
        b"(K\x01K\x04K\x3c\x86cnumpy\ndtype\nq\x04" + text(b"u1") + b"K\x00K\x01\x87Rq\x05(K\x03" + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<I", PLANES.size) + PLANES.tobytes()
        + b"tb"
    )  # fmt: skip
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in LABELS) + b"e"
    return b"\x80\x02}q\x00(" + text(b"labels") + labels + text(b"data") + array + b"u."


ENTRY = {"data": PLANES.reshape(4, -1), "labels": LABELS}
PICKLES = [python2(), *(pickle.dumps(ENTRY, protocol) for protocol in (3, 4, 5))]


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(PLANES.reshape(4, 3, -1).transpose(0, 2, 1))).save(buffer, "png")
    return buffer.getvalue()


PNG = png()
JSON = json.dumps(LABELS).encode()

# What makes files do harm, put in anywhere: lengths without end, names, opcodes, chunks, signs of other formats.
WORDS = [
    *(struct.pack(form, value) for form in ("<I", ">I", "<Q", ">Q") for value in (0, 1, 2**31 - 1, 2**32 - 1)),
    *(struct.pack("<Q", 2**63 - 1), b"\xff" * 8, b"\0" * 512, b"\x1f\x8b\x08\0\0\0\0\0\0\x03", b"77777777777\0"),
    *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cos\nsystem\n", b"c__builtin__\neval\n", b"\x8c\x01O", b"K\x01\x85"),
    *(b"\x87R\x85R", b"\x87Rb", b"(K\x03U\x01|NNNK?tb", b"q\x00h\x00\x86" * 30, b"\x86" * 50, b"h\x00h\x00s", b"e"),
    *(b"]q\x07h\x07a", b"\x8a\xff", b"\x8b\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8, b"\x96" + b"\xff" * 8, b"b", b"R"),
    *(b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"fdAT", b"eXIf", b"IEND"),
    *(b"[" * 1000, b"]" * 1000, b"9" * 5000, b"1e999", b"NaN", b'"\\ud800"', b"{", b"-1", b"null", b"\xef\xbb\xbf"),
]  # fmt: skip
OPCODES = bytes(ord(operation.code) for operation in pickletools.opcodes)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with one to eight things done to it."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at, way = rng.randrange(len(changed) + 1), rng.randrange(9)
        end = min(len(changed), at + rng.choice((1, 2, 4, 16, 200)))
        if way == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif way == 1 and at < len(changed):
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif way == 2:
            del changed[at:end]
        elif way == 3:
            changed[at:at] = changed[at:end] * rng.choice((1, 2, 50))
        elif way == 4:
            changed[at:at] = rng.choice(WORDS)
        elif way == 5:
            word = rng.choice(WORDS)
            changed[at : at + len(word)] = word
        elif way == 6:
            del changed[at:]
        elif way == 7:
            changed[at:at] = rng.randbytes(rng.choice((1, 3, 40)))
        else:
            other = rng.randrange(len(changed) + 1)
            changed[at:end] = changed[other : other + end - at]
    return bytes(changed)


def program(rng: random.Random) -> bytes:
    """A pickle of operations drawn at random, most of them with something to work on."""
    made = bytearray(b"\x80\x04")
    for _ in range(rng.choice((3, 10, 40, 200))):
        made += rng.choice(WORDS) if rng.random() < 0.3 else bytes((rng.choice(OPCODES),))
        if rng.random() < 0.5:
            made += rng.randbytes(rng.randrange(5))
    return bytes(made + b".")


def fixed_sums(content: bytes) -> bytes:
    """A PNG file with the sums of its chunks made right, so that what is in them is looked at."""
    made, at = bytearray(content[:8]), 8
    while at + 8 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + size]
        made += content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return bytes(made)


def fixed_headers(content: bytes) -> bytes:
    """A tar archive with the sums of its headers made right."""
    made = bytearray(content)
    for at in range(0, len(made) - 511, 512):
        if made[at + 257 : at + 262] == b"ustar":
            made[at + 148 : at + 156] = b" " * 8
            made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
    return bytes(made)


def is_batch(path: Path) -> bool:
    images, labels = read(path, BATCH)
    return np.array_equal(images, PLANES.transpose(0, 2, 3, 1)) and np.array_equal(labels, LABELS)  # type: ignore[arg-type]


def is_images(path: Path) -> bool:
    return np.array_equal(read(path, IMAGES).images, PLANES.reshape(4, 3, 20, 1))  # type: ignore[arg-type]


def is_labels(path: Path) -> bool:
    return np.array_equal(read(path, LABEL_FILE).labels, LABELS)  # type: ignore[arg-type]


def from_archive(path: Path) -> bool:
    return all(is_batch(found) for _, found in sources._members(PACKAGE, path, [BATCH], path.parent))


def from_pictures(path: Path) -> bool:
    return all(is_batch(found) for _, found in sources._batches_from_png(PACKAGE, path, [BATCH], path.parent))


def package(picture: bytes, labels: bytes) -> bytes:
    members = {"package/data_batch_1.png": picture, "package/train_lables.json": labels}
    return gzip.compress(tar(members), 1)


def packed(content: bytes, rng: random.Random) -> bytes:
    """A gzip file that was damaged after packing or before, or one of several members."""
    way = rng.randrange(3)
    if way == 0:
        return mutated(gzip.compress(content), rng)
    if way == 1:
        return gzip.compress(mutated(content, rng))
    cut = rng.randrange(len(content))
    return gzip.compress(content[:cut]) + mutated(gzip.compress(content[cut:]), rng)


def archived(rng: random.Random) -> bytes:
    content = tar({"x/readme": b"x" * 600, "x/data_batch_1": rng.choice(PICKLES)})
    way = rng.randrange(3)
    if way == 0:
        return mutated(gzip.compress(content, 1), rng)
    return gzip.compress(mutated(content, rng) if way == 1 else fixed_headers(mutated(content, rng)), 1)


def pictured(rng: random.Random) -> bytes:
    way = rng.randrange(4)
    if way == 0:
        return package(mutated(PNG, rng), JSON)
    return package(fixed_sums(mutated(PNG, rng)), JSON) if way < 3 else package(PNG, mutated(JSON, rng))


# Of each format: its share of the inputs, the name of its file, how an input is made, and what reads it.
FORMATS: dict[str, tuple[int, str, Callable[[random.Random], bytes], Callable[[Path], bool]]] = {
    "IDX images": (1, "images", lambda rng: mutated(IDX, rng), is_images),
    "IDX labels": (1, "labels", lambda rng: mutated(MARKS, rng), is_labels),
    "IDX packed": (2, "images.gz", lambda rng: packed(IDX, rng), is_images),
    "batch": (4, "data_batch_1", lambda rng: mutated(rng.choice(PICKLES), rng), is_batch),
    "any pickle": (2, "data_batch_1", program, is_batch),
    "archive": (2, "archive.tar.gz", archived, from_archive),
    "pictures": (3, "package.tgz", pictured, from_pictures),
}


def main(count: int, seed: int) -> int:
    """Try so many inputs; return the exit code."""
    warnings.simplefilter("error")  # what would be printed into the user's terminal
    rng, results, slowest, faults = random.Random(seed), Counter[tuple[str, str]](), 0.0, 0
    names = [name for name, (share, *_) in FORMATS.items() for _ in range(share)]
    shared = Path("/dev/shm")  # memory, where there is such a place: nothing else is waited for
    place = Path(tempfile.mkdtemp(prefix="fuzz-formats-", dir=shared if shared.is_dir() else None))
    print(f"{count} inputs, seed {seed}, in {place}", flush=True)
    for name, (_, file, make, reads) in FORMATS.items():  # once for all that is imported late
        (place / file).write_bytes(make(rng))
        result_of(reads, place / file)
        assert name in names
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + ADDRESS_SPACE, resource.RLIM_INFINITY))
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for number in range(count):
        name = rng.choice(names)
        _, file, make, reads = FORMATS[name]
        path = place / file
        path.write_bytes(make(rng))
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        start = time.perf_counter()
        result = result_of(reads, path)
        slowest = max(slowest, time.perf_counter() - start)
        faulthandler.cancel_dump_traceback_later()
        results[name, result.partition(":")[0]] += 1
        if result not in ("refused", "read"):
            faults += 1
            path.rename(place / f"fault-{number}-{file}")
            print(f"{name}, input {number}: {result}", flush=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) << 10
    for name in FORMATS:
        tried = {result: number for (of, result), number in results.items() if of == name}
        print(f"{name:12} {sum(tried.values()):7} inputs: {tried}")
    seconds = time.monotonic() - began
    print(f"{faults} faults; slowest {slowest:.3f} s; memory grew by {grown >> 20} MiB; {seconds:.0f} s in all")
    if faults or grown > MEMORY:
        return 1
    for left in place.iterdir():
        left.unlink()
    place.rmdir()
    return 0


def result_of(reads: Callable[[Path], bool], path: Path) -> str:
    """What became of an input: "refused", "read", or what should not be."""
    try:
        return "read" if reads(path) else "believed: it is altered"
    except (UnsoundError, RefusalError) as error:
        said = str(error)
        return "refused" if said.isprintable() and len(said) < 500 else f"words: {said!r}"
    except Exception:
        return f"traceback: {traceback.format_exc()}"


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
