"""What is known of one crash: plain values, as read from the kernel's text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

#: Values of ``Crash.kind``.
KINDS = ("panic", "oops", "bug", "gpf", "kasan", "warning", "soft_lockup", "hard_lockup", "hung_task", "rcu_stall",
         "sysrq")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the kernel's log. ``at_us``: microseconds since boot, None where the log has no times."""

    text: str
    at_us: int | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """One entry of a call trace, or the instruction pointer.

    ``context`` is the section of the trace in lower case (irq, nmi, softirq, task; "" before the first).
    An unreliable frame (``?``) is what the unwinder found on the stack without being sure. An interrupted one
    is where an interrupt, not a call, left the function.
    """

    symbol: str
    module: str = ""
    context: str = ""
    reliable: bool = True
    interrupted: bool = False
    trace: int = 0

    def __str__(self) -> str:
        return f"{self.symbol} [{self.module}]" if self.module else self.symbol


@dataclass(slots=True)
class Crash:
    """One report of the kernel. ``title`` is its first line; ``fatal`` where a panic followed from it."""

    kind: str
    title: str
    at_us: int | None = None
    cpu: int | None = None
    pid: int | None = None
    comm: str = ""
    release: str = ""
    taint: str = ""  # letters as the kernel prints them; "" for none
    rip: Frame | None = None
    frames: list[Frame] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)  # name, with its flags in parentheses if it has any
    workqueue: str = ""  # module of the work item's function
    driver: str = ""  # a driver that the report names itself
    fatal: bool = False
    panic: str = ""  # what the panic said
    lines: list[str] = field(default_factory=list)

    @property
    def identity(self) -> str:
        """The same for one crash, whether read from the journal, from pstore or from a dump, at any later boot."""
        where = "" if self.at_us is not None else f"{self.rip}|{'|'.join(map(str, self.frames[:8]))}"
        text = f"{self.kind}|{self.title}|{self.at_us}|{where}"
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:24]

    @property
    def has_body(self) -> bool:
        """Whether more than a title was found: what a program's name alone can't forge."""
        return bool(self.rip or self.frames or self.release)
