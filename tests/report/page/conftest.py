"""A whole search, and its page, made once for all tests of the page."""

from __future__ import annotations

import pytest
from read_page import ODD, SPACE, train

import stantune as st


@pytest.fixture(scope="session")
def result(tmp_path_factory: pytest.TempPathFactory) -> st.SearchResult:
    """A whole search, with every fate that a trial can have."""
    return st.tune(
        train,
        SPACE,
        minimize="cost",
        max_resource=27,
        name=ODD,
        unit="epoch",
        fixed={"never": "this"},
        retries=0,
        out=tmp_path_factory.mktemp("page") / "a & b",
    )


@pytest.fixture(scope="session")
def text(result: st.SearchResult) -> str:
    """Its page."""
    return result.report().read_text(encoding="utf-8")
