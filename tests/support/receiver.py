"""A customer's server that receives webhooks: real HTTP on this machine, with answers that the test chooses."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import orjson


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        """The body."""
        return orjson.loads(self.body)


@dataclass
class Receiver:
    """What has come, and what is answered: ``answers`` one after the other, then 200 for ever."""

    port: int
    scheme: str = "http"
    received: list[Received] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    """Whole responses."""
    pause: Event = field(default_factory=Event)
    """While cleared no answer is given."""

    @property
    def url(self) -> str:
        """A URL of it."""
        return f"{self.scheme}://127.0.0.1:{self.port}/hooks?from=hone"

    def answer(self, *statuses: int, headers: str = "") -> None:
        """Answer the next requests like this, with an empty body."""
        self.answers += [f"HTTP/1.1 {status} -\r\nContent-Length: 0\r\n{headers}\r\n".encode() for status in statuses]

    @property
    def events(self) -> list[Any]:
        """The bodies."""
        return [received.event for received in self.received]


@contextmanager
def open_receiver(*, certificate: Path | None = None, host: str = "127.0.0.1", port: int = 0) -> Iterator[Receiver]:
    """Listen until the context ends, on a free port unless told; with HTTPS when given a certificate with its key."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.received.append(Received(self.path, dict(self.headers), body))
            answer = receiver.answers.pop(0) if receiver.answers else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            receiver.pause.wait(30)
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as the base class has it
            """Quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A sender that goes away in the middle is one of the tests."""

    server = Server((host, port), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # The handshake belongs into the connection's own thread.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver = Receiver(server.server_port, "https" if certificate else "http")
    receiver.pause.set()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.pause.set()
        server.shutdown()
        thread.join()
        server.server_close()
