"""What an engine that was taken over may send to the supervisor, packet after packet."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sensor import control
from sensor.oversight import Oversight
from sensor.supervisor import Supervisor
from tests.fuzz.harness import Target

_MARK = b"\n--\n"  # between packets
_REASON = control.VERDICTS[1]


class _Oversight(Oversight):
    """Without a search for crashes."""

    def search(self) -> bool:
        return False


class _Supervisor(Supervisor):
    """Without children: what would start or end one is counted."""

    loads = 0

    def _start_loader(self) -> None:
        assert self._plan is not None
        self._plan.check()
        self.loads += 1

    def _say(self, message: str) -> None:
        assert len(message) < 1000


@contextmanager
def _supervisor() -> Iterator[tuple[_Supervisor, socket.socket]]:
    with tempfile.TemporaryDirectory() as place:
        made = _Supervisor(["{}"], None, [], lambda _line: None,
                           _Oversight(Path(place), lambda _message: None, boot="boot", root=Path(place)), stay=True)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made._engine.attend(ours)
        try:
            with ours, theirs:
                yield made, theirs
        finally:
            made._selector.close()
            os.close(made._wake_read)
            os.close(made._wake_write)


def _packets(data: bytes) -> None:
    """None of them raises, makes the supervisor load out of bounds, or more than once."""
    with _supervisor() as (made, theirs):
        sent = 0
        for packet in data.split(_MARK)[:64]:
            if packet and not made._stopping:  # an empty one is the end of the channel
                theirs.send(packet[:65536])
                made._engine.receive()
                sent += 1
        assert made.loads <= sent
        assert made._engine.dropped <= max(0, sent - control.REQUESTS_PER_SECOND)


def _seeds() -> Sequence[bytes]:
    plan = control.Request((1 << 16, 1 << 20), 1 << 25, ("process", "file"), ((b"shadow", 1),), ("/etc/*",),
                           ((4, "fentry"),)).pack()
    usual = [plan, control.ready(), control.beat(7), control.verdict("ab" * 32, _REASON)]
    return [_MARK.join(usual), _MARK.join([control.beat(1)] * 40), _MARK.join([plan, plan]),
            _MARK.join([b"SPLN" + bytes(60), b"SVER" + b"\xff" * 36])]


TARGETS = (Target("supervisor", "packets of an engine that was taken over", _packets, _seeds,
                  ("SPLN", "SRDY", "SBEA", "SVER", "\n--\n"), quick=100),)
