"""The metrics endpoint: three pages on loopback, served beside the engine by threads of their own.

/metrics    Prometheus text or OpenMetrics, as the Accept header asks
/-/healthy  200 while the engine makes progress
/-/ready    200 once probes are attached and rules loaded
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any

from sensor.errors import UsageError
from sensor.metrics import Metrics
from sensor.options import METRICS_DEFAULT, METRICS_OFF, parse_address

#: Requests served at once. A scraper needs one; whoever opens more and says nothing, waits.
_AT_ONCE = 4
#: Seconds that a client may take to send its request or to read the answer.
_PATIENCE = 5.0

#: Why the sensor is not healthy or not ready; an empty text says that it is.
Probe = Callable[[], str]


class MetricsServer:
    """Serves until :meth:`close`. ``address`` is the host and port that it listens on."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.address: tuple[str, int] = server.socket.getsockname()[:2]
        self._thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True,
                                        kwargs={"poll_interval": 0.2})
        self._thread.start()

    def close(self) -> None:
        """Stop listening. Requests under way may finish."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def serve(listen: str, metrics: Metrics, healthy: Probe, ready: Probe, *,
          inherited: int | None = None) -> MetricsServer:
    """Listen and serve.

    Args:
        listen: ``HOST:PORT``; port 0 takes a free one.
        metrics: What /metrics shows.
        healthy: For /-/healthy. Called on a server thread, as is *ready*.
        ready: For /-/ready.
        inherited: A listening socket's descriptor from the service manager, used in place of *listen*.

    Raises:
        UsageError: The address can't be listened on.
    """
    handler = type("Handler", (_Handler,), {"metrics": metrics, "healthy": staticmethod(healthy),
                                            "ready": staticmethod(ready)})
    if inherited is not None:
        return MetricsServer(_Server.adopt(inherited, handler))
    host, port = parse_address(listen)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return MetricsServer(_Server(family, (host, port), handler))
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no host name"
        raise UsageError(f"metrics can't listen on {listen}: {reason}\n  hint: see who does with: ss -ltnp 'sport = "
                         f":{port}'; or choose another with --metrics {METRICS_DEFAULT.partition(':')[0]}:PORT, or "
                         f"--metrics {METRICS_OFF}") from error


class _Server(ThreadingMixIn, HTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True  # TIME_WAIT of a former run is no other listener
    request_queue_size = 16

    def __init__(self, family: int, address: tuple[str, int], handler: Any, bind: bool = True) -> None:
        self.address_family = family
        self._slots = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__(address, handler, bind_and_activate=bind)

    @classmethod
    def adopt(cls, fd: int, handler: Any) -> _Server:
        """A server on a socket that listens already."""
        listener = socket.socket(fileno=fd)
        listener.setblocking(True)
        # The base class makes a socket, which is thrown away. The unit's sandbox allows UNIX sockets only.
        server = cls(socket.AF_UNIX, listener.getsockname(), handler, bind=False)
        server.socket.close()
        server.socket, server.address_family = listener, listener.family
        server.server_address = listener.getsockname()
        return server

    def server_bind(self) -> None:
        # Not HTTPServer's: that asks the resolver for our own name, which may take seconds.
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        # On the accepting thread: the next request is not accepted before a slot is free.
        self._slots.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or said nothing is nobody's problem."""


class _Handler(BaseHTTPRequestHandler):
    metrics: Metrics
    healthy: Probe
    ready: Probe

    timeout = _PATIENCE
    server_version = "sensor"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one of the three pages."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._metrics()
        elif path == "/-/healthy":
            self._probe(self.healthy)
        elif path == "/-/ready":
            self._probe(self.ready)
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"/metrics, /-/healthy, /-/ready\n")

    do_HEAD = do_GET  # noqa: N815  the base class looks for this name

    def _metrics(self) -> None:
        try:
            body, content_type = self.metrics.exposition(self.headers.get("Accept", ""))
        except Exception as error:  # noqa: BLE001  the engine must outlive a bug in a metric; the scraper sees it
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}\n".encode())
            return
        self._answer(HTTPStatus.OK, body, content_type)

    def _probe(self, probe: Probe) -> None:
        reason = probe()
        status = HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK
        self._answer(status, f"{reason or 'ok'}\n".encode())

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
        """Scrapes are no news."""
