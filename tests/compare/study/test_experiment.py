"""The source's experiment in docs/study: what is kept of it can be read, and the page has its tables."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from stantune.compare.study.folder import study_in, written
from stantune.search.directory.names import STUDY_RESULT

DOCS = Path(__file__).parents[3] / "docs"
KEPT = sorted(file.parent for file in (DOCS / "study").glob(f"*/{STUDY_RESULT}"))


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_the_tables_of_searches_are_those_of_the_result(folder: Path) -> None:
    before = written(folder)
    assert before is not None
    done = [search for search in before.searches if search.state == "done"]
    assert done
    assert [search for search in study_in(folder).searches if search.state == "done"] == done


def test_the_page_has_the_tables() -> None:
    script = DOCS / "scripts" / "experiment.py"
    spec = importlib.util.spec_from_file_location("experiment", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "study" / "experiment.md").read_text()
    found = module.tables()
    assert len(found) == len(KEPT)
    for table in found:
        assert module.markdown(table) in page
