"""Without the right to load programs: who asked for events is told, a service stays up and passive."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.live.harness import ask, command, environment, free_port
from tests.live.host import children, owned_programs, wait_until

WITHOUT = {
    "capabilities": (["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin"], "CAP_BPF and CAP_PERFMON"),
    "user_namespace": (["unshare", "--user", "--map-root-user"], "root of a user namespace"),
}


@pytest.mark.parametrize("lack", WITHOUT)
@pytest.mark.parametrize("words", [("run", "--duration", "1s", "--metrics", "off"), ("record",)])
@pytest.mark.contract("panic-6a")
def test_who_wants_events_and_may_not_load_is_told_so(tmp_path: Path, lack: str, words: tuple[str, ...]) -> None:
    """Status 3 with the reason and a fix, and no recording that would be in the way of the next."""
    prefix, reason = WITHOUT[lack]
    target = tmp_path / "out.jsonl"
    ended = subprocess.run(
        [*prefix, *command(*words, *([target] if words[0] == "record" else []))],
        capture_output=True, text=True, timeout=60, check=False, env=environment(), cwd="/")
    assert ended.returncode == 3, ended.stderr
    assert reason in ended.stderr
    assert "fix: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not target.exists()


@pytest.mark.contract("panic-6a")
@pytest.mark.hostile("reduced-host")
def test_a_service_that_may_not_load_is_ready_passive_and_ends_with_0(tmp_path: Path) -> None:
    """The service manager hears READY and why nothing is seen; SIGTERM ends it as ever."""
    port = free_port()
    prefix, reason = WITHOUT["capabilities"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        service = subprocess.Popen(
            [*prefix, *command("run", "-o", tmp_path / "alerts.jsonl", "--metrics", f"127.0.0.1:{port}")],
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd="/",
            env={**environment(), "NOTIFY_SOCKET": str(tmp_path / "notify")})
        try:
            heard: list[str] = []
            while "READY=1" not in heard:
                heard.append(manager.recv(4096).decode())
            assert any(line.startswith("STATUS=passive") and reason in line for line in heard)
            status, said = wait_until(lambda: ask(port, "/-/ready"), 10, "an answer")
            assert status == 503
            assert reason in said
            samples = ask(port, "/metrics")[1]
            assert 'sensor_mode{mode="passive"} 1.0' in samples
            assert 'sensor_passive_reason{reason="capabilities"} 1.0' in samples
            assert list(owned_programs([service.pid, *children(service.pid)])) == []
            os.kill(service.pid, signal.SIGTERM)
            errors = service.communicate(timeout=30)[1].decode()
        finally:
            service.kill()
            service.wait(10)
    assert service.returncode == 0, errors
    assert errors.count("passive, nothing is seen") == 1
    assert "Traceback" not in errors


@pytest.mark.contract("panic-6a")
@pytest.mark.hostile("reduced-host")
def test_a_service_in_a_user_namespace_ends_once_and_says_why(tmp_path: Path) -> None:
    """Its engine has no other user to become: status 3, which the unit does not start again."""
    prefix, _ = WITHOUT["user_namespace"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        ended = subprocess.run(
            [*prefix, *command("run", "--metrics", "off")], capture_output=True, text=True, timeout=60, check=False,
            env={**environment(), "NOTIFY_SOCKET": str(tmp_path / "notify")}, cwd="/")
    assert ended.returncode == 3, ended.stderr
    assert "can't become user" in ended.stderr
    assert "Traceback" not in ended.stderr
