"""The metrics endpoint: three pages, bounded patience, and a port in use is said clearly."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from sensor.errors import UsageError
from sensor.http import MetricsServer, serve
from sensor.metrics import Metrics, Snapshot
from sensor.options import parse_address, parse_duration


class State:
    """What the probes answer."""

    healthy = ""
    ready = "no probe is attached yet"
    fail = False


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def server(state: State) -> Iterator[MetricsServer]:
    def pull() -> Snapshot:
        if state.fail:
            raise RuntimeError("the map is gone")
        return Snapshot(engine_restarts=3)

    made = serve("127.0.0.1:0", Metrics(pull), lambda: state.healthy, lambda: state.ready)
    yield made
    made.close()


def get(server: MetricsServer, path: str, accept: str = "", method: str = "GET") -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.address[1]}{path}", headers={"Accept": accept},
                                     method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_metrics_come_in_the_format_asked_for(server: MetricsServer) -> None:
    """Plain text by default, OpenMetrics for those who name it."""
    status, kind, body = get(server, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    assert "sensor_engine_restarts_total 3.0" in body
    status, kind, body = get(server, "/metrics?x=1", "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_probes_answer_503_with_the_reason(server: MetricsServer, state: State) -> None:
    """Healthy and ready are two questions."""
    assert get(server, "/-/healthy")[::2] == (200, "ok\n")
    assert get(server, "/-/ready")[::2] == (503, "no probe is attached yet\n")
    state.ready, state.healthy = "", "silent for 30 s"
    assert get(server, "/-/ready")[0] == 200
    assert get(server, "/-/healthy")[::2] == (503, "silent for 30 s\n")


def test_other_paths_and_methods_are_refused(server: MetricsServer) -> None:
    """Three pages, read only."""
    assert get(server, "/")[0] == 404
    assert get(server, "/metrics/../etc/passwd")[0] == 404
    assert get(server, "/metrics", method="POST")[0] == 501
    assert get(server, "/metrics", method="HEAD")[::2] == (200, "")


def test_failing_snapshot_is_an_answer_not_a_crash(server: MetricsServer, state: State) -> None:
    """The scraper sees 500; the next scrape works."""
    state.fail = True
    assert get(server, "/metrics")[::2] == (500, "RuntimeError: the map is gone\n")
    state.fail = False
    assert get(server, "/metrics")[0] == 200


@pytest.mark.hostile("broken-sink")
def test_silent_clients_do_not_keep_a_scraper_out(server: MetricsServer) -> None:
    """A few connections that say nothing leave a slot free; garbage is shrugged off."""
    idle = [socket.create_connection(server.address) for _ in range(3)]
    rude = socket.create_connection(server.address)
    rude.sendall(b"\x00\xff" * 100 + b"\r\n\r\n")
    rude.close()
    started = time.monotonic()
    assert get(server, "/metrics")[0] == 200
    assert time.monotonic() - started < 2
    for client in idle:
        client.close()


def test_port_in_use_is_bad_usage_with_a_hint(server: MetricsServer) -> None:
    """The message names the address and the way out; exit status 2."""
    address = f"127.0.0.1:{server.address[1]}"
    with pytest.raises(UsageError, match=rf"can't listen on {address}: Address already in use\n  hint:") as caught:
        serve(address, Metrics(Snapshot), str, str)
    assert "--metrics off" in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("listen", ["203.0.113.7:9923", "no.such.host.invalid:9923", "a" * 300 + ":1"])
def test_address_that_is_not_ours_is_bad_usage(listen: str) -> None:
    """Another host's address, a name that resolves to nothing."""
    with pytest.raises(UsageError, match="can't listen"):
        serve(listen, Metrics(Snapshot), str, str)


def test_closed_server_gives_the_port_back(state: State) -> None:
    """A restart finds its port free."""
    first = serve("127.0.0.1:0", Metrics(Snapshot), str, str)
    address = f"127.0.0.1:{first.address[1]}"
    get(first, "/-/healthy")
    first.close()
    second = serve(address, Metrics(Snapshot), str, str)
    assert get(second, "/-/healthy")[0] == 200
    second.close()


def test_socket_of_the_service_manager_is_served() -> None:
    """Without a network of its own the sensor takes the socket that was opened for it."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = serve("ignored:1", Metrics(Snapshot), str, str, inherited=listener.detach())
    assert server.address[1] == port
    assert get(server, "/-/ready")[0] == 200
    server.close()


@pytest.mark.parametrize(("text", "address"), [
    ("127.0.0.1:9923", ("127.0.0.1", 9923)), (":80", ("127.0.0.1", 80)), ("[::1]:9", ("::1", 9)), ("h:0", ("h", 0))])
def test_addresses(text: str, address: tuple[str, int]) -> None:
    """HOST:PORT, [IPV6]:PORT, :PORT."""
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "9923", "h:", "h:x", "h:99999", "::1:9", "h:-1", "h:١"])
def test_wrong_addresses_are_bad_usage(text: str) -> None:
    """With what is expected."""
    with pytest.raises(UsageError, match="HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("1.5s", 1.5), ("200ms", 0.2), ("5m", 300), ("2h", 7200),
                                               ("1d", 86400)])
def test_durations(text: str, seconds: float) -> None:
    """Seconds, or a number with a unit."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "-1", "5x", "m", "1e9", "99999d", "nan", "inf"])
def test_wrong_durations_are_bad_usage(text: str) -> None:
    """Zero is none, and neither is for ever."""
    with pytest.raises(UsageError, match="duration"):
        parse_duration(text)
