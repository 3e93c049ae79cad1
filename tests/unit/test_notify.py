"""Lines for the service manager, which may be slow or gone."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sensor import notify
from sensor.notify import Notifier


@pytest.mark.hostile("broken-sink")
def test_a_manager_that_does_not_read_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is full after some lines: the rest is dropped, and the sensor can still be stopped."""
    monkeypatch.setattr(notify, "_SECONDS", 0.001)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        notifier = Notifier(str(tmp_path / "n"))
        for _ in range(600):  # more than net.unix.max_dgram_qlen
            notifier.send("WATCHDOG=1")
        assert manager.recv(100) == b"WATCHDOG=1"
    notifier.send("STOPPING=1")
    assert notifier._socket is not None
    notifier._socket.close()
