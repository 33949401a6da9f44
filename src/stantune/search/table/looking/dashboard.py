"""Shows a search in Optuna's dashboard, read-only: what was clicked there could end the search otherwise."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from stantune.errors import StantuneError, UsageError
from stantune.search.directory.directory import SearchDirectory
from stantune.search.table.looking.readable import Readable
from stantune.search.table.storages.opening import reading

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_READING = ("GET", "HEAD", "OPTIONS")


class Dashboard:
    """A server that listens.

    Attributes:
        url: of the page of the search.
    """

    def __init__(self, server: WSGIServer, host: str, study_id: int) -> None:
        """Serve the study with this id by `server`, which listens on `host`."""
        self.url = f"http://{host}:{server.server_port}/dashboard/studies/{study_id}"
        self._server = server

    def serve(self) -> None:
        """Answer until Ctrl-C."""
        try:
            self._server.serve_forever()
        except KeyboardInterrupt:
            return


@contextmanager
def serving(path: Path, storage: str | None, host: str, port: int) -> Iterator[Dashboard]:
    """Listen for those who want to see the search in a directory.

    Args:
        path: the directory.
        storage: the URL of its storage, which is needed where that has a password.
        host: the address to listen on.
        port: the port to listen on; 0 stands for any that is free.

    Raises:
        UsageError: there is no search in the directory.
        StoreError: its storage cannot be used.
        StantuneError: optuna-dashboard is not installed, or nobody can listen there.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError as error:
        raise StantuneError("the dashboard is not installed; pip install 'stantune[dashboard]'") from error
    directory = SearchDirectory.begun(path, storage)
    nothing = UsageError(f"there is no search in {path}; give the directory of one, as `out` named it")
    if not directory.may_hold_search():
        raise nothing
    with reading(directory.url, directory.study) as found:
        if found is None:
            raise nothing
        opened, study_id = found
        try:
            server = make_server(
                host, port, _for_own_pages(_reading_only(wsgi(Readable(opened))), host), _Server, _Quiet
            )
        except OSError as error:
            raise StantuneError(
                f"`host`={host} `port`={port} cannot be listened on ({error.strerror or error}); give another `port`, "
                "or 0 for any that is free"
            ) from error
        with server:
            yield Dashboard(server, host, study_id)


class _Server(ThreadingMixIn, WSGIServer):
    """One thread a request: a browser asks for several things at a time."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """Says nothing of each request."""

    def log_message(self, format: str, *arguments: Any) -> None:
        """See BaseHTTPRequestHandler."""


def _reading_only(application: Application) -> Application:
    """Refuse all requests that would change something."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in _READING:
            return application(environ, start_response)
        reason = "a search is changed by stantune search alone"
        return _refuse(start_response, "405 Method Not Allowed", reason, ("Allow", ", ".join(_READING)))

    return answer


def _for_own_pages(application: Application, host: str) -> Application:
    """Refuse what a browser asks for in the name of another site, by the names that it gives of server and site."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        name, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        if not _is_own(name, host):
            reason = f"{name!r} is no name of this server; give localhost, an address, or the name that it listens on"
        elif origin is not None and origin.partition("://")[2].lower() != name.lower():
            reason = f"{origin!r} is another site than {name!r}"
        else:
            return application(environ, start_response)
        return _refuse(start_response, "403 Forbidden", reason)

    return answer


def _is_own(name: str, host: str) -> bool:
    """Tell whether a server can be meant that listens on `host`, and no other site has the name, with a port or not.

    Such a site could have its name lead to this machine, so that browsers take what is here for its own; an address
    leads nowhere else.
    """
    try:
        plain = (urlsplit(f"//{name}").hostname or "").removesuffix(".")
        return plain in ("localhost", host.lower()) or bool(ipaddress.ip_address(plain))
    except ValueError:
        return False


def _refuse(start_response: Callable[..., Any], status: str, reason: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/json"), *headers])
    return [json.dumps({"reason": reason}).encode()]
