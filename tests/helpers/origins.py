"""What stand-ins of data sets' origins have, and what a source is asked for: its files, or why there are none."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stantune.images.data.fetching import sources
from stantune.images.data.fetching.sources import RefusalError
from stantune.images.data.reading.formats import read


def tar(members: dict[str, bytes]) -> bytes:
    """Return the archive of these, compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def png(images: np.ndarray) -> bytes:
    """NHWC images as the npm package has them: a row of the picture is an image, a column one of its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(images.reshape(len(images), -1, 3)).save(buffer, "png")
    return buffer.getvalue()


def png_package(data: Any) -> dict[str, bytes]:
    """Return the members of the npm package that has a data set as pictures."""
    train, test = data.images["train"], data.images["test"]
    return {
        "package/data_batch_1.png": png(train[:3]),
        "package/data_batch_2.png": png(train[3:]),
        "package/test_batch.png": png(test),
        "package/train_lables.json": json.dumps(data.labels["train"].tolist()).encode(),
        "package/test_lables.json": json.dumps(data.labels["test"].tolist()).encode(),
    }


def check(source: sources.Source, data: Any, work: Path) -> None:
    """What a source delivers is every file asked for, each sound."""
    wanted = data.description.files[1:]
    delivered = list(source(data.description, wanted, work))
    assert [file for file, _ in delivered] == list(wanted)
    for file, path in delivered:
        read(path, file)


def refused(source: sources.Source, data: Any, work: Path) -> str:
    """Return the clause that says why a source delivers nothing."""
    with pytest.raises(RefusalError) as caught:
        list(source(data.description, data.description.files, work))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def official(data: Any, server: Any, name: str, body: bytes) -> str:
    """Make `body` what the data set's own address has for its first file; return that file's address."""
    archive = name.endswith(".tar.gz")
    data.description = dataclasses.replace(data.description, official=server.address + (name if archive else ""))
    server.bodies = {f"/{name}": body}
    return f"{server.address}{name}"
