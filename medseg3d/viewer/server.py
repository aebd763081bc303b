"""A page of few files, served to this machine alone.

Three things keep a scan where it is: the socket is bound to 127.0.0.1, so that no other machine reaches it; the address
holds a random word, so that no other user of this machine, who can reach it, knows it; and a request whose Host is no
name of this machine is refused, so that no web page can have its own name lead here (DNS rebinding).
"""

from __future__ import annotations

import errno
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from medseg3d.errors import UsageError

LOOPBACK = "127.0.0.1"

_HOSTS = (LOOPBACK, "localhost")
_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
    "txt": "text/plain; charset=utf-8",
}
_HEADERS = {
    "Cache-Control": "no-store",  # a scan is nothing for the disk of a browser
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class PageServer:
    """The files of a page at an address of this machine, served by a thread of its own until `close`.

    Args:
        files: name -> content; nothing else is served, and nothing is read from the disk.
        port: 0 for one that is free.

    Attributes:
        url: its address, which only this machine reaches.

    Raises:
        UserError: PORT_TAKEN; BAD_VALUE for what is not a port.
    """

    def __init__(self, files: Mapping[str, bytes], port: int = 0) -> None:
        if not 0 <= port <= 65535:
            raise UsageError(
                "BAD_VALUE",
                "--port",
                str(port),
                "a port from 1 to 65535, or 0 for a free one",
                "leave it out for a free port",
            )
        word = secrets.token_urlsafe(16)
        pages = {f"/{word}/{name}": content for name, content in files.items()}
        pages[f"/{word}/"] = files["index.html"]
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), type("Handler", (_Handler,), {"pages": pages}))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            found = "another program has it" if error.errno == errno.EADDRINUSE else "not for this user"
            raise UsageError(
                "PORT_TAKEN", f"--port {port}", found, "a free port", "choose another, or leave it out"
            ) from error
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}/{word}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until it is closed, or Ctrl-C."""
        while self._thread.is_alive():
            self._thread.join(0.5)  # in one piece it could not be interrupted on Windows

    def close(self) -> None:
        """Stop serving; what a browser shows stays until the page is left."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    pages: Mapping[str, bytes]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.headers.get("Host", "").partition(":")[0] not in _HOSTS:
            self._send(HTTPStatus.FORBIDDEN, b"only for this machine", "txt")
        elif path not in self.pages:
            self._send(HTTPStatus.NOT_FOUND, b"no such file", "txt")
        else:
            suffix = "html" if path.endswith("/") else path.rpartition(".")[2]
            self._send(HTTPStatus.OK, self.pages[path], suffix)

    do_HEAD = do_GET  # noqa: N815

    def _send(self, status: HTTPStatus, content: bytes, suffix: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", _KINDS.get(suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(content)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):  # of a page that was left while it loaded
            if self.command == "GET":
                self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
