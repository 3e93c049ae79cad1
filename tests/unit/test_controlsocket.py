"""The control socket: what it takes, whom it answers, what it costs the supervisor."""

from __future__ import annotations

import os
import selectors
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import controlclient, controlsocket
from sensor.controlsocket import DRILL, DRILLED, DRILLS, REQUEST_BYTES, RESULTS, STATUS, ControlSocket, Request, parse
from sensor.errors import HostError

ALL = [Request(STATUS), *(Request(DRILL, drill) for drill in DRILLS),
       *(Request(DRILLED, drill, result) for drill in DRILLS for result in RESULTS)]


class Served:
    """A control socket with a clock of its own, whose events are run by the test."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.now = directory, 100.0
        self.asked: list[Request] = []
        self.said: list[str] = []
        self.answer: Callable[[Request], dict[str, Any]] = lambda request: {"kind": request.kind}
        self.selector = selectors.DefaultSelector()
        self.control = ControlSocket(self.selector, self._answer, self.said.append, lambda: self.now)

    def _answer(self, request: Request) -> dict[str, Any]:
        self.asked.append(request)
        return self.answer(request)

    def turn(self) -> None:
        """Everything that has happened."""
        while events := self.selector.select(0):
            for key, _ in events:
                key.data()

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(5)
        connection.connect(str(self.directory / controlsocket.NAME))
        return connection

    def ask(self, data: bytes) -> bytes:
        """What comes back for one packet; b"" where the connection is closed."""
        with self.connect() as connection:
            self.turn()
            try:
                connection.send(data)
                self.turn()
                return connection.recv(controlsocket.ANSWER_BYTES)
            except (BrokenPipeError, ConnectionResetError):
                return b""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "run")
    assert made.control.open(made.directory)
    yield made
    made.control.close()
    made.selector.close()


def test_every_request_is_read_as_it_was_written() -> None:
    """And all are of one size."""
    assert [parse(each.pack()) for each in ALL] == ALL
    assert {len(each.pack()) for each in ALL} == {REQUEST_BYTES}


@given(st.binary(max_size=24))
@pytest.mark.hostile("hostile-control")
def test_any_bytes_are_a_request_or_nothing(data: bytes) -> None:
    """What is taken is exactly what pack() writes: no second form of a request, no exception."""
    request = parse(data)
    assert request is None or (request in ALL and request.pack() == data)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_numbers_out_of_the_enumerations_are_nothing(kind: int, drill: int, result: int, rest: int) -> None:
    """With the right magic and size too."""
    request = parse(b"SCT1" + bytes((kind, drill, result, rest)))
    assert (request is None) == (bytes((kind, drill, result, rest)) not in {each.pack()[4:] for each in ALL})


def test_a_request_is_answered_and_the_connection_closed(served: Served) -> None:
    """One question, one answer."""
    with served.connect() as connection:
        served.turn()
        connection.send(Request(STATUS).pack())
        served.turn()
        assert connection.recv(100) == b'{"kind": 1}'
        assert connection.recv(100) == b""
    assert len(served.selector.get_map()) == 1


@pytest.mark.parametrize("data", [b"x", b"\0" * 8, b"SCT1\xff\xff\xff\xff", b"{" * 100_000,
                                  Request(STATUS).pack() + b"x"])
@pytest.mark.hostile("hostile-control")
def test_anything_else_is_hung_up_on(served: Served, data: bytes) -> None:
    """Without an answer, and without anybody being asked for one."""
    assert served.ask(data) == b""
    assert served.asked == []
    assert served.ask(Request(STATUS).pack()) == b'{"kind": 1}'


def test_the_socket_is_the_owners_alone(served: Served) -> None:
    """Whatever the umask of the shell was."""
    mode = (served.directory / controlsocket.NAME).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.hostile("hostile-control")
def test_another_user_gets_no_answer(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode is not all that protects it: the kernel says who is at the other end."""
    monkeypatch.setattr(controlsocket, "peer_uid", lambda _connection: 4_000_000)
    assert served.ask(Request(STATUS).pack()) == b""
    assert served.asked == []


def test_clients_that_ask_nothing_are_few(served: Served) -> None:
    """The one that waits longest goes when another comes; the last one is served."""
    waiting = []
    for _ in range(6):
        waiting.append(served.connect())
        served.turn()
    assert len(served.selector.get_map()) == 1 + 4
    assert served.ask(Request(STATUS).pack()) == b'{"kind": 1}'
    assert waiting[0].recv(1) == b""
    for each in waiting:
        each.close()


@pytest.mark.hostile("hostile-control")
def test_requests_are_limited_in_number_a_second(served: Served) -> None:
    """After a burst no more than ten a second are answered; they come again with time."""
    answers = [served.ask(Request(STATUS).pack()) for _ in range(40)]
    assert sum(map(bool, answers)) == 20
    served.now += 0.5
    assert sum(bool(served.ask(Request(STATUS).pack())) for _ in range(10)) == 5


def test_a_client_that_is_gone_before_its_answer_harms_nothing(served: Served) -> None:
    """The next one is served."""
    connection = served.connect()
    served.turn()
    connection.send(Request(STATUS).pack())
    connection.close()
    served.turn()
    assert served.ask(Request(STATUS).pack()) == b'{"kind": 1}'


def test_a_fault_in_an_answer_is_said_and_costs_that_client_alone(served: Served) -> None:
    """The supervisor must outlive a bug in what it tells."""
    def broken(_request: Request) -> dict[str, Any]:
        raise KeyError("engine")

    good, served.answer = served.answer, broken
    assert served.ask(Request(STATUS).pack()) == b""
    assert "KeyError: 'engine'" in served.said[0]
    served.answer = good
    assert served.ask(Request(STATUS).pack()) == b'{"kind": 1}'


def test_an_answer_that_is_too_large_holds_up_nobody(served: Served) -> None:
    """It does not fit a packet, so there is none."""
    served.answer = lambda _request: {"x": "x" * (64 << 20)}
    assert served.ask(Request(STATUS).pack()) == b""


def test_a_second_sensor_leaves_the_first_ones_socket_alone(served: Served) -> None:
    """It says so and runs without one; the socket stays where it is."""
    other = Served(served.directory)
    assert not other.control.open(served.directory)
    assert "another sensor" in other.said[0]
    other.selector.close()
    assert served.ask(Request(STATUS).pack())


def test_a_socket_that_a_killed_sensor_left_is_replaced(tmp_path: Path) -> None:
    """Nobody holds its lock any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / controlsocket.NAME))
    tmp_path.chmod(0o755)
    made = Served(tmp_path)
    assert made.control.open(tmp_path)
    assert made.ask(Request(STATUS).pack()) == b'{"kind": 1}'
    made.control.close()
    made.selector.close()
    assert not (tmp_path / controlsocket.NAME).exists()


@pytest.mark.parametrize("how", ["file", "link", "open", "directory link"])
@pytest.mark.hostile("state-tampered")
def test_a_place_that_is_not_ours_is_refused(tmp_path: Path, how: str) -> None:
    """A file in the way is not removed, a link not followed, a directory that others write not used; and it is said."""
    place, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if how == "directory link":
        place.symlink_to(elsewhere)
    else:
        place.mkdir()
    if how == "file":
        (place / "control").write_text("precious")
    elif how == "link":
        (elsewhere / "victim").write_text("precious")
        (place / "control").symlink_to(elsewhere / "victim")
    elif how == "open":
        place.chmod(0o777)
    made = Served(place)
    assert not made.control.open(place)
    assert "no control socket" in made.said[0]
    made.selector.close()
    assert not (elsewhere / "control").exists()
    if how in ("file", "link"):
        assert (place / "control").read_text() == "precious"


def test_a_place_with_a_long_path_works(tmp_path: Path) -> None:
    """An address of a socket has 107 bytes; a directory may have more."""
    place = tmp_path / ("d" * 120)
    place.mkdir()
    made = Served(place)
    assert made.control.open(place)
    asking = threading.Thread(target=lambda: made.asked.append(controlclient.ask(Request(STATUS), "x", place)))
    asking.start()
    while asking.is_alive():
        made.turn()
    assert made.asked[-1] == {"kind": 1}
    made.control.close()
    made.selector.close()


# --- the client -----------------------------------------------------------------------------------


def test_no_sensor_is_status_3_with_what_to_do(tmp_path: Path) -> None:
    """No directory, no socket, and one that nobody listens on."""
    for place in (tmp_path / "absent", tmp_path):
        with pytest.raises(HostError, match="no sensor is running") as error:
            controlclient.ask(Request(STATUS), "sensor status", place)
        assert "systemctl start sensor" in error.value.fix
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / controlsocket.NAME))
        with pytest.raises(HostError, match="no sensor is running"):
            controlclient.ask(Request(STATUS), "sensor status", tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_who_may_not_connect_is_told_to_use_sudo(served: Served) -> None:
    """Another user: the kernel refuses by the mode."""
    read, write = os.pipe()
    served.directory.parent.chmod(0o755)
    pid = os.fork()
    if not pid:
        try:
            for part in (*served.directory.parents, served.directory):
                if not os.access(part, os.X_OK):
                    os._exit(3)
            os.setresuid(65534, 65534, 65534)
            controlclient.ask(Request(STATUS), "sensor status", served.directory)
        except HostError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        said = file.read().decode()
    os.waitpid(pid, 0)
    assert "no sensor is running" in said or "only root may ask" in said
    if "only root" in said:
        assert "sudo sensor status" in said


def test_a_server_that_hangs_up_or_talks_nonsense_is_status_3(served: Served) -> None:
    """No traceback for an operator in trouble."""
    for answer, text in ((b"", "hung up"), (b"[1]", "makes no sense"), (b"\xff{", "makes no sense")):
        place = served.directory.parent / text.replace(" ", "-") / str(len(answer))
        place.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(place / controlsocket.NAME))
            listener.listen()

            def serve(listener: socket.socket = listener, answer: bytes = answer) -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(100)
                    if answer:
                        connection.send(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            with pytest.raises(HostError, match=text):
                controlclient.ask(Request(STATUS), "sensor status", place)
            thread.join()
