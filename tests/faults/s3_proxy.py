"""A proxy before an S3 server that does to some requests what a busy network or server does."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

Fault = Literal["busy", "late", "reset", "lost", "cut", "stalled"]
"""503; it is done, and the reply is 503 all the same; the connection breaks before anything is done; it is done, and
the reply is lost, or comes by half; nothing comes at all.
"""
HOP = ("connection", "transfer-encoding", "content-length")


class Request(NamedTuple):
    """What came, and what was done to it."""

    method: str
    path: str
    fault: Fault | None


class FaultProxy(ThreadingHTTPServer):
    """At `url`; `requests` tells what it did.

    Args:
        server: the address behind it.
        fault_of: what to do to a request of this method and path; it may be called by many threads.
    """

    daemon_threads = True

    def __init__(self, server: str, fault_of: Callable[[str, str], Fault | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server, self.fault_of = urlsplit(server), fault_of
        self.requests: list[Request] = []
        self.is_over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up, as it shall."""


@contextmanager
def fault_proxy(server: str, fault_of: Callable[[str, str], Fault | None]) -> Iterator[FaultProxy]:
    """While it lasts, a proxy serves."""
    proxy = FaultProxy(server, fault_of)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.is_over.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        fault = self.server.fault_of(self.command, self.path)
        self.server.requests.append(Request(self.command, self.path, fault))
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if fault == "busy":
            self._busy()
        elif fault == "stalled":
            self.server.is_over.wait()
            self.close_connection = True
        elif fault == "reset":
            self._reset()
        else:
            with self._behind(body) as response:
                content = response.read()
                if fault == "late":
                    self._busy()
                    return
                if fault is None or (fault == "cut" and response.status < HTTPStatus.MULTIPLE_CHOICES):
                    self._reply(response.status, dict(response.getheaders()), content, by_half=fault == "cut")
                if fault is not None:
                    self._reset()

    def _busy(self) -> None:
        self._reply(503, {"retry-after": "0"}, b"<Error><Code>SlowDown</Code></Error>")

    @contextmanager
    def _behind(self, body: bytes) -> Iterator[HTTPResponse]:
        behind = HTTPConnection(str(self.server.server.hostname), self.server.server.port, timeout=60)
        try:
            behind.request(self.command, self.path, body, dict(self.headers))
            yield behind.getresponse()
        finally:
            behind.close()

    def _reply(self, status: int, headers: dict[str, str], content: bytes, by_half: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in HOP:
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        length = headers.get("Content-Length", "0") if is_head else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(b"" if is_head else content[: len(content) // 2] if by_half else content)

    def _reset(self) -> None:
        """Break the connection, so that the other side reads an error, not an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
