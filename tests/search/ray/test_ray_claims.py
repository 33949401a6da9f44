"""A search's checkpoints at a URL: its own are fetched, swept and deleted there, and nobody else's are."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from told import play

from stantune.errors import UsageError
from stantune.search.directory.directory import SearchDirectory
from stantune.search.ray.checkpoints import OWNER, RemoteDirectory
from stantune.search.ray.places import Place


@pytest.fixture(params=["path", "file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder that does not exist yet."""
    memory = fsspec.filesystem("memory")
    yield {
        "path": str(tmp_path / "a [1] folder" / "below"),
        "file": f"file://{tmp_path}/folder/below",
        "memory": "memory://folder/below",
    }[request.param]
    memory.store.clear()


def test_remote_directory(url: str, tmp_path: Path) -> None:
    directory = RemoteDirectory(tmp_path / "search", None, url)
    place = Place(url)
    names = ["trial-000001.pt", "trial-000002.pt", ".trial-000001.pt.0.part", ".trial-000002.pt.0.part", "final.pt"]

    def held() -> list[str]:
        return [name for name in names if place.holds(name)]

    with directory.locked():
        pass
    for name in names:
        place.write(name)
    directory.sweep(directory.checkpoint(1))
    assert held() == [names[0], names[1], names[3], names[4]]
    foreign = (".backup.tar.part", ".backup.tar.0a.part", "0123456789abcdef.part")
    for name in (*foreign, ".0123456789abcdef.part"):
        place.write(name)
    with directory.locked():
        assert held() == [names[0], names[1], names[4]]
        assert all(place.holds(name) for name in foreign), "another program's"
        assert not place.holds(".0123456789abcdef.part")
        for name in foreign:
            place.delete(name)
        brought = directory.checkpoint(1)
        brought.parent.mkdir()
        brought.touch()
        directory.discard(brought)
        assert not brought.exists()
        directory.discard(directory.checkpoint(3))
        assert held() == names[1::3]
        others = ("final-6.pt", "best.pt", "best-6.pt")
        foreign = ("trial-notes.pt", "trial-1.pt", "final-2024-06.pt", "best-of-all.pt", "final.pt.zip", "final")
        for name in (*others, *foreign):
            place.write(name)
        assert directory.ranks() == {0, 5}
        directory.bring_finals(0)
        assert not directory.final().exists()
        # And those of who stands in for them, three at most.
        directory.bring_finals(2)
        assert (directory.final().exists(), directory.final(5).exists()) == (True, False)
        assert (directory.best().exists(), directory.best(5).exists()) == (True, False)
        directory.bring_finals(3)
        assert directory.final(5).exists()
        assert directory.best(5).exists()
        directory.clear()
    assert held() == []
    assert not directory.final(5).exists()
    assert not any(place.holds(name) for name in others)
    assert all(place.holds(name) for name in foreign), "another program's"
    assert not any((directory.path / name).exists() for name in others)
    directory.final().touch()
    directory.bring_finals(1)
    assert directory.final().exists(), "what is not there is not brought"


def refused(directory: SearchDirectory) -> str:
    """Return what is said of a directory that may not be used."""
    with pytest.raises(UsageError) as caught, directory.locked():
        pass
    return str(caught.value)


@pytest.mark.parametrize("fresh", [False, True])
def test_another_search_s_place_is_refused_and_stays_as_it_is(url: str, tmp_path: Path, fresh: bool) -> None:
    one, other, place = tmp_path / "one", tmp_path / "other", Place(url)
    with RemoteDirectory(one, None, url).locked():
        place.write("trial-000003.pt", b"mine")
        place.write(".trial-000003.pt.0a.part")
    if fresh:
        play(SearchDirectory(other), most=3)
    before = sorted(place.names())
    for _ in range(2):
        said = refused(RemoteDirectory(other, None, url))
        assert said == (
            f"`checkpoints`={url} holds the checkpoints of another search, which was begun in {one} on "
            f"{platform.node()}; name another folder, or empty it if that search is over"
        )
    assert (sorted(place.names()), place.read("trial-000003.pt")) == (before, b"mine")
    with RemoteDirectory(one, None, url).locked():
        assert place.holds("trial-000003.pt")


def test_another_program_s_checkpoints_are_not_taken_for_a_search_s(url: str, tmp_path: Path) -> None:
    place, directory = Place(url), RemoteDirectory(tmp_path / "search", None, url)
    place.write("final.pt", b"mine")
    for _ in range(2):
        assert "holds final.pt, which this search did not write and would overwrite" in refused(directory)
    assert (place.names(), place.read("final.pt")) == (["final.pt"], b"mine")
    place.delete("final.pt")
    with directory.locked():
        pass


def test_a_search_keeps_its_place_when_it_begins_anew_or_moves(url: str, tmp_path: Path) -> None:
    directory, place = RemoteDirectory(tmp_path / "search", None, url), Place(url)
    with directory.locked():
        directory.note_storage()
        place.write("trial-000003.pt")
    with directory.locked():
        directory.clear()
    assert place.names() == [OWNER]
    with directory.locked():
        assert not directory.was_begun()
    directory.path.rename(tmp_path / "moved")
    with RemoteDirectory(tmp_path / "moved", None, url).locked():
        pass
    # Its place is left as it is where it is deleted: by one that knows nothing of it.
    with SearchDirectory(tmp_path / "moved").locked():
        SearchDirectory(tmp_path / "moved").delete()
    assert "another search" in refused(RemoteDirectory(tmp_path / "moved", None, url))


def test_a_place_is_free_again_where_nothing_came_of_the_search(url: str, tmp_path: Path) -> None:
    directory, place = RemoteDirectory(tmp_path / "search", None, url), Place(url)
    with directory.locked():
        pass
    shutil.rmtree(directory.path)
    other = RemoteDirectory(tmp_path / "other", None, url)
    assert f"{OWNER} there says" in refused(other)
    again = RemoteDirectory(tmp_path / "search", None, url)
    with again.locked():
        place.write("trial-000003.pt")
    shutil.rmtree(again.path)
    assert "holds the checkpoints of another search" in refused(RemoteDirectory(tmp_path / "search", None, url))


@pytest.mark.parametrize("there", [None, b""])
def test_a_search_of_before_claims_its_place_as_it_goes_on(url: str, tmp_path: Path, there: bytes | None) -> None:
    directory, place = RemoteDirectory(tmp_path / "search", None, url), Place(url)
    directory.path.mkdir()
    (directory.path / "search.json").write_text(json.dumps({"storage": "search.db"}))
    place.write("trial-000003.pt")
    if there is not None:
        place.write(OWNER, there)  # by one that was killed as it began to write
    with directory.locked():
        assert directory.was_begun()
        assert place.holds("trial-000003.pt")
    assert "another search" in refused(RemoteDirectory(tmp_path / "other", None, url))
