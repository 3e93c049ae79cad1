"""Sockets handed over by the service manager."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import urllib.request
from unittest.mock import Mock

from sensor.activation import inherited
from sensor.http import serve
from sensor.metrics import Metrics
from tests.conftest import ROOT

CHILD = """
import json, os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
from sensor.activation import inherited
from sensor.http import serve
from sensor.metrics import Metrics
first = inherited()
print(json.dumps([first, inherited(), [os.get_inheritable(fd) for fd in first], "LISTEN_FDS" in os.environ]))
"""


def child(count, *descriptors):
    """Run CHILD with *descriptors* at 3, 4, ... and LISTEN_FDS=count."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in descriptors]  # out of the way of 3, 4, ...
    moves = "".join(f"exec {3 + index}<&{fd};" for index, fd in enumerate(high))
    try:
        done = subprocess.run(["bash", "-c", f"{moves} exec '{sys.executable}' -c '{CHILD}'"], pass_fds=high,
                              capture_output=True, text=True, check=True, cwd=ROOT,
                              env={"LISTEN_FDS": str(count), "LISTEN_FDNAMES": "x", "PATH": "/usr/bin:/bin"})
    finally:
        for fd in high:
            os.close(fd)
    return json.loads(done.stdout)


def test_listening_socket_is_taken_once_and_not_inherited_further():
    """The descriptor is found, closed on exec, and gone from the environment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert child(1, server.fileno()) == [[3], [], [False], False]


def test_what_is_no_listening_stream_socket_is_left_alone():
    """A datagram socket, a connected one, a file and a closed number are skipped."""
    left, right = socket.socketpair()
    with left, right, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram, \
            socket.create_server(("127.0.0.1", 0)) as server, open("/dev/null") as file:
        found = child(9, datagram.fileno(), left.fileno(), file.fileno(), server.fileno())
    assert found[0] == [6]


def test_variables_meant_for_another_process_are_ignored():
    """LISTEN_PID of a parent, or nonsense, gives nothing; the variables go either way."""
    for environ in ({}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": "x", "LISTEN_FDS": "1"},
                    {"LISTEN_PID": "7", "LISTEN_FDS": "-1"}, {"LISTEN_PID": "7"}):
        copy = dict(environ)
        assert inherited(copy, pid=7) == []
        assert copy == {}


def test_inherited_port_is_served_where_no_network_socket_may_be_made(monkeypatch):
    """The unit allows UNIX sockets only; the descriptor from systemd must be enough."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    class Restricted(socket.socket):
        def __init__(self, family=-1, kind=-1, proto=-1, fileno=None):
            if fileno is None and family != socket.AF_UNIX and restricted:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, kind, proto, fileno)

    restricted = True
    monkeypatch.setattr(socket, "socket", Restricted)
    server = serve("127.0.0.1:1", Mock(spec=Metrics), lambda: "", lambda: "", inherited=listener.detach())
    restricted = False
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/healthy", timeout=5) as answer:
            assert answer.status == 200
    finally:
        server.close()
