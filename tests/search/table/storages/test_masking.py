"""No password is in a message or a file, wherever it stands in a storage's URL, and whether or not that is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from stantune.errors import StantuneError, StoreError, UsageError
from stantune.search.directory.directory import SearchDirectory
from stantune.search.table import studies
from stantune.search.table.storages.masking import discreet, without_password, without_secrets

# All have SECRET in them where a password stands, is meant to stand, or may stand.
URLS = [
    "postgresql://u:SECRET@127.0.0.1:1/db",
    "postgresql+psycopg2://u:SECRET@127.0.0.1:1/db?sslmode=disable",
    "postgresql://127.0.0.1:1/db?user=u&password=SECRET",
    "postgresql://127.0.0.1:1/db?user=u&PassWord=SECRET&sslmode=disable",
    "postgresql://127.0.0.1:1/db?user=u&pass%77ord=SECRET",
    "postgresql://127.0.0.1:1/db?user=u&passwd=SECRET",
    "postgresql://127.0.0.1:1/db?sslpassword=SECRET",
    "postgresql://127.0.0.1:1/db?pwd=SECRET",
    "postgresql://127.0.0.1:1/db?auth_token=SECRET",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7Bx%7D%3BUID%3Du%3BPWD%3DSECRET%3B",
    "mssql+pyodbc:///?odbc_connect=DRIVER={x};UID=u;PWD=SECRET",
    "postgresql://u:SECRET@SECRET@127.0.0.1:1/db",
    "postgresql://u:SEC/SECRET@127.0.0.1:1/db",
    "postgresql://u:SEC:SECRET@127.0.0.1:1/db",
    "postgresql://u:SEC?SECRET@127.0.0.1:1/db",
    "postgresql://u:2024?SECRET@127.0.0.1:1/db",
    "postgresql://u:2024#SECRET@127.0.0.1:1/db",
    "postgresql://u:SEC#SECRET@127.0.0.1:1/db",
    "postgresql://u/v:SECRET@127.0.0.1:1/db",
    "postgresql://u:SECRET",
    "postgresql://u:SECRET/db",
    "postgresql://u:1SECRET/db?a=b",
    "postgresql://u:SECRET@127.0.0.1:port/db",
    "postgresql://127.0.0.1:port/db?password=SECRET",
    "postgresql//u:SECRET@127.0.0.1/db",
    "postgresql:/u:SECRET@127.0.0.1/db",
    "postgresql:u:SECRET@127.0.0.1/db",
    "u:SECRET@127.0.0.1/db",
    "postgre sql://u:SECRET@127.0.0.1/db",
    "host=127.0.0.1 user=u password=SECRET",
    "host=127.0.0.1 password = 'SECRET SECRET'",
    "?password=SECRET",
    "nosuchbase://u:SECRET@host/db?token=SECRET",
    "journal://u:SECRET@host/file",
]


@pytest.mark.parametrize("url", URLS)
def test_no_password_is_shown(url: str, table: Any, tmp_path: Path) -> None:
    shown = without_password(url)
    assert "SECRET" not in shown
    assert without_password(shown) == shown, "what a file holds is known again"
    said = []
    for use in (
        lambda: table.open(url),
        lambda: studies.identity_of(url, "x"),
        lambda: studies.table_of(url, "x"),
        lambda: studies.start_of(url, "x"),
        lambda: studies.delete(url, "x"),
    ):
        with pytest.raises((StoreError, UsageError)) as caught:
            use()
        said.append(table.one_sentence(caught))
    assert not [line for line in said if "SECRET" in line]


@pytest.mark.parametrize("url", URLS)
def test_no_password_is_in_a_search_s_directory(url: str, tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path, url)
    with directory.locked():
        directory.note_storage()
    assert "SECRET" not in (tmp_path / "search.json").read_text()
    # It is the same storage, and with the password at hand it is that which is used.
    with SearchDirectory(tmp_path, url).locked():
        pass
    assert SearchDirectory.begun(tmp_path, url).url == url
    with pytest.raises(StantuneError) as caught, SearchDirectory(tmp_path, "sqlite:///other.db").locked():
        pass
    assert "SECRET" not in str(caught.value)


def test_a_password_in_a_file_of_an_earlier_version_is_not_shown(tmp_path: Path) -> None:
    url = "postgresql://h/db?password=SECRET&user=u"
    (tmp_path / "search.json").write_text(json.dumps({"storage": url}))
    with SearchDirectory(tmp_path, url).locked():
        pass
    assert SearchDirectory.begun(tmp_path, url).url == url
    with (
        pytest.raises(UsageError, match="keeps its trials in postgresql://h/db") as caught,
        SearchDirectory(tmp_path).locked(),
    ):
        pass
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///runs/search.db",
        "sqlite:////data/a:b@c/search.db",
        "journal:////data/a:b@c/table.log",
        "postgresql://user@host:5432/name",
        "postgresql+psycopg2://postgres@/postgres?host=/tmp/socket",
        "postgresql://host/name?passfile=/home/u/.pgpass&sslkey=/home/u/key",
        "mysql+pymysql://user@host/name?charset=utf8mb4&ssl_ca=/etc/ca",
        "postgresql://[::1]:5432/name",
        "runs/search.db",
        "",
    ],
)
def test_what_holds_no_password_is_shown_as_it_is(url: str) -> None:
    shown = without_password(url)
    assert shown == url or sqlalchemy.make_url(shown) == sqlalchemy.make_url(url)


def test_the_usual_password_is_masked_as_ever() -> None:
    """Notes of earlier versions are known again."""
    assert without_password("postgresql://u:pw@h:1/db?sslmode=disable") == "postgresql://u:***@h:1/db?sslmode=disable"
    assert without_password("postgresql://u@h/db?password=p&user=v") == "postgresql://u@h/db?password=***&user=v"


def test_a_port_that_is_no_number_is_one_sentence(table: Any) -> None:
    with pytest.raises(UsageError, match="is no storage URL: give one like sqlite:///") as caught:
        table.open("postgresql://host:port/db")
    table.one_sentence(caught)


@pytest.mark.parametrize("url", ["sqlite:///x.db?timeout=soon"])
def test_a_parameter_that_the_driver_does_not_take_is_one_sentence(
    url: str, table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="cannot be used") as caught:
        table.open(url)
    assert table.one_sentence(caught).isprintable()


def test_what_a_driver_repeats_is_masked() -> None:
    url = "postgresql://u:p%20w@x@host/db?sslpassword=abc"
    said = 'no host "x@host": invalid dsn "user=u password=\'p w\' sslpassword=abc": abc, p%20w'
    masked = discreet(said, url)
    assert "p w" not in masked
    assert "abc" not in masked
    assert '"x@host' not in masked
    assert "invalid dsn" in masked


def test_an_identity_is_shown_without_secrets() -> None:
    identity = {
        "command": "train --db postgres://me:SECRET@host/db --api-key=SECRET --token SECRET --secret {lr} http://host:80/a@b",
        "others": ["postgres://me:SEC@RET/SECRET@host/db", "mlflow=http://localhost:5000/a@b"],
        "digits": [f"postgres://me:2024{mark}SECRET@host/db" for mark in ("", "#", "?", ":", "@")],
        "env": {"WANDB": "SECRET"},
        "code": [["a.py", "token: SECRET"], 3, None],
        "more": {"env": {}, "rate": 0.5},
    }
    assert without_secrets(identity) == {
        "command": "train --db postgres://me:***@host/db --api-key=*** --token *** --secret {lr} http://host:80/a@b",
        "others": ["postgres://me:***@host/db", "mlflow=http://localhost:5000/a@b"],
        "digits": ["postgres://me:***@host/db"] * 5,
        "env": "***",
        "code": [["a.py", "token: ***"], 3, None],
        "more": {"env": {}, "rate": 0.5},
    }
