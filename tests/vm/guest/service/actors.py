"""Programs that do what a rule alerts on, when they are told to, and whose truth is known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from service.host import gone, parent_of, pids, wait

#: Default rule: password hashes opened by an unusual program.
SHADOW = "bb0973b3-7d69-45b5-b3dd-3fa4279e4e80"
HOME = Path("/srv/actor")

# The shell opens the file itself: the act starts no process.
_CHILD = 'while read -r word; do read -r line < /etc/shadow; done\n'
# A child in the background reads nothing, unless it is given what.
_PARENT = 'exec 3<&0\n/bin/sh /srv/actor/child.sh "$1" beta <&3 &\nwait\n'


def read_shadow() -> int:
    """Run ``cat /etc/shadow``; its pid."""
    with subprocess.Popen(["/bin/cat", "/etc/shadow"], stdout=subprocess.DEVNULL) as program:
        return program.pid


class Family:
    """A parent and its child, each a shell; the child reads /etc/shadow whenever it is told."""

    def __init__(self, name: str) -> None:
        HOME.mkdir(exist_ok=True)
        (HOME / "child.sh").write_text(_CHILD)
        (HOME / "parent.sh").write_text(_PARENT)
        self._words = ["/bin/sh", "/srv/actor/parent.sh", name, "alpha"]
        self._parent = subprocess.Popen(self._words, stdin=subprocess.PIPE)
        self.parent = self._parent.pid
        self.child = wait(lambda: next((pid for pid in pids() if parent_of(pid) == self.parent), 0), 10, 0.1)
        self.parent_line = " ".join(self._words)
        self.child_line = f"/bin/sh /srv/actor/child.sh {name} beta"

    def act(self) -> None:
        """The child reads the file once."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(b"go\n")
        self._parent.stdin.flush()

    def orphan(self) -> None:
        """End the parent; the child goes on."""
        self._parent.kill()
        self._parent.wait()

    def end(self) -> None:
        """End both."""
        os.kill(self.child, signal.SIGKILL)
        if not gone(self.parent):
            self._parent.kill()
        self._parent.wait()


class Reused:
    """A process that ends, and another one that gets its pid."""

    def __init__(self) -> None:
        self._first = subprocess.Popen(["/bin/sleep", "1000"])
        self.pid = self._first.pid
        self.line = ""

    def replace(self) -> bool:
        """End the first, and start another program under its pid; False where the kernel gave it another."""
        self._first.kill()
        self._first.wait()
        go = HOME / f"go-{self.pid}"
        os.mkfifo(go)
        words = [sys.executable, "-c", "import sys; open(sys.argv[1]).read(); open('/etc/shadow').read()", str(go)]
        self.line = " ".join(words)
        for _ in range(50):
            # Others start processes too: what comes between takes the number.
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(self.pid - 1))
            second = subprocess.Popen(words)
            if second.pid == self.pid:
                self._second, self._go = second, go
                return True
            second.kill()
            second.wait()
        return False

    def act(self) -> None:
        """The second reads /etc/shadow, and ends."""
        self._go.write_text("go")
        self._second.wait()


def crowd(number: int) -> None:
    """Start and end *number* processes."""
    for _ in range(number):
        subprocess.run(["/bin/true"], check=True)
