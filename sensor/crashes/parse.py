"""Finds the kernel's reports of crashes in the lines of its log.

The formats are those of x86_64, 5.10 to 7.x. One pass; each line is tried against a fixed list of expressions
that are bounded in what they can repeat; what is kept is bounded too. Sources: arch/x86/kernel/dumpstack.c,
lib/dump_stack.c, kernel/panic.c, kernel/watchdog.c, kernel/hung_task.c, kernel/rcu/tree_stall.h.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

from sensor.crashes.model import Crash, Frame, Line

REPORTS = 32  # of one text: the last ones, for the last one is what ended the boot
FRAMES = 96
MODULES = 512
EXCERPT_LINES = 40
EXCERPT_CHARACTERS = 200
_REPORT_LINES = 600  # a report that has not ended by then is no longer read

_SYMBOL = r"[A-Za-z_.$][\w.$@]{0,200}"
_PLACE = rf"({_SYMBOL})\+0x[0-9a-f]{{1,8}}/0x[0-9a-f]{{1,8}}"
_MODULE = r"(?: \[([\w-]{1,64})(?: [0-9a-f]{8,64})?\])?"
# [<address>] was printed before 4.10 and is by some vendors; line numbers follow where the kernel carries them.
_FRAME = re.compile(rf"(?:\[<[0-9a-f]{{1,16}}>\] )?(\? )?{_PLACE}{_MODULE}(?: \S{{1,300}})?")
_SECTION = re.compile(r"<(/?)(#?\w{1,20})>")
_RIP = re.compile(rf"RIP: 00(10|33):(?:(0x[0-9a-f]{{1,16}})|{_PLACE}{_MODULE})")
_CPU = re.compile(r"CPU: (\d{1,5}) (?:UID: \d{1,10} )?PID: (\d{1,10}) Comm: (.{0,64}?) (?:Kdump: loaded )?"
                  r"(?:Not tainted (\S{1,100})|Tainted: ([A-Z ]{1,40}?) {1,40}(\d\S{0,100}))(?: |$)")
_WARNED = re.compile(r", CPU#(\d{1,5}): (.{0,64})/(\d{1,10})$")
_STUCK = re.compile(r"CPU#(\d{1,5}) stuck for \d{1,9}s! \[(.{0,64}):(\d{1,10})\]")
_BLOCKED = re.compile(r"INFO: task (.{0,64}):(\d{1,10}) (?:is )?blocked ")
_WORK = re.compile(r"Workqueue: \S{1,100} \S{1,200}?(?: \[([\w-]{1,64})\])?")
_NETDEV = re.compile(r"NETDEV WATCHDOG: (?:CPU: \d{1,5}: )?\S{1,32} \(([\w-]{1,64})\): transmit queue")
_MODULE_WORD = re.compile(r"[\w-]{1,64}(?:\([A-Z+-]{1,10}\))?")
_PANIC = re.compile(r"Kernel panic - not syncing: ?(.*)")
#: "Oops: 0000 [#1] ..." and its like: the die() line, which may begin a report or belong to the one before it.
_DIE = re.compile(r"(?:Oops: )?(?:Oops|general protection fault|invalid opcode|divide error|stack segment|int3|"
                  r"double fault|alignment check|segment not present|invalid TSS|Control-protection fault)\b"
                  r".{0,300}: [0-9a-f]{4} \[#\d{1,6}\]")

_WATCHDOG = r"(?:NMI )?watchdog: (?:CPU\d{1,5}: )?"
_STARTS: tuple[tuple[str, re.Pattern[str]], ...] = tuple((kind, re.compile(text)) for kind, text in (
    ("sysrq", r"sysrq: (?:SysRq : )?Trigger a crash"),
    ("kasan", r"BUG: K(?:ASAN|FENCE|MSAN|CSAN): "),
    ("soft_lockup", rf"{_WATCHDOG}BUG: soft lockup - "),
    ("hard_lockup", rf"{_WATCHDOG}Watchdog detected hard LOCKUP "),
    ("rcu_stall", r"rcu: INFO: \w{1,32} (?:self-)?detected (?:expedited )?stalls? on "),
    ("hung_task", r"INFO: task .{0,64}:\d{1,10} blocked "),
    ("gpf", r"(?:Oops: )?(?:general protection fault\b|unhandled general protection)"),
    ("bug", r"kernel BUG at "),
    ("oops", r"BUG: (?:kernel NULL pointer dereference|unable to handle )"),
    ("oops", r"(?:traps: )?PANIC: double fault"),
    ("bug", r"BUG: (?!soft lockup)[A-Za-z]"),
    ("warning", r"WARNING: (?:CPU: \d{1,5} PID: \d|.{0,300} at \S{1,200}\+0x|at \S{1,200}\+0x)"),
))
_DYING = ("oops", "bug", "gpf", "kasan")
#: What a panic says -> the kinds of report that it follows from.
_FOLLOWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Fatal exception", _DYING), ("Aiee, killing interrupt handler", _DYING), ("Attempted to kill the idle", _DYING),
    ("Attempted to kill init", _DYING), ("softlockup", ("soft_lockup",)), ("Hard LOCKUP", ("hard_lockup",)),
    ("hung_task", ("hung_task",)), ("RCU Stall", ("rcu_stall",)), ("panic_on_warn", ("warning", "kasan", "bug")),
    ("warned too often", ("warning", "kasan", "bug")), ("sysrq triggered crash", ("sysrq",)),
)
_FOLLOWS_WITHIN_US = 60_000_000
#: What follows is a stack, but not that of the crash.
_OTHER_TRACES = ("Allocated by task", "Freed by task", "Last potentially related work", "The buggy address")
_END = re.compile(r"---\[ end (?:trace|Kernel panic)")


def parse(lines: Iterable[Line]) -> list[Crash]:
    """The crashes that the lines report, in their order; the last REPORTS of them. Never raises."""
    reader = _Reader()
    for line in lines:
        reader.feed(line)
    return [crash for crash in reader.found
            if crash.has_body or crash.kind in ("panic", "sysrq", "hard_lockup") or crash.fatal]


def _kind_of(text: str) -> str:
    for kind, pattern in _STARTS:
        if pattern.match(text):
            return kind
    return "oops" if _DIE.match(text) else ""


class _Reader:
    def __init__(self) -> None:
        self.found: deque[Crash] = deque(maxlen=REPORTS)
        self._crash: Crash | None = None  # the report that lines belong to
        self._lines = 0
        self._context, self._trace, self._tracing, self._listing = "", 0, False, False

    def feed(self, line: Line) -> None:
        text = line.text.strip()
        panic = _PANIC.match(text)
        if panic:
            self._panic(panic[1], line, text)
        elif (kind := _kind_of(text)) and not self._continues(kind, text):
            self._begin(kind, line, text)
        if self._crash is None:
            return
        self._lines += 1
        if len(self._crash.lines) < EXCERPT_LINES and text:
            self._crash.lines.append(text[:EXCERPT_CHARACTERS])
        self._body(self._crash, text)
        if _END.match(text) or self._lines > _REPORT_LINES:
            self._crash = None

    def _begin(self, kind: str, line: Line, text: str) -> None:
        self._crash = Crash(kind, text[:EXCERPT_CHARACTERS], line.at_us)
        self.found.append(self._crash)
        self._lines, self._context, self._trace, self._tracing, self._listing = 0, "", 0, False, False

    def _continues(self, kind: str, text: str) -> bool:
        """Whether this is another line of a report that has only begun: "BUG: ..." and then "Oops: ..."."""
        crash = self._crash
        if crash is None or kind not in ("oops", "gpf", "bug") or crash.kind not in ("oops", "gpf", "bug"):
            return False
        return not crash.has_body and _DIE.match(text) is not None

    def _panic(self, reason: str, line: Line, text: str) -> None:
        kinds = next((kinds for words, kinds in _FOLLOWS if words in reason), ())
        for crash in reversed(self.found):
            if crash.kind in kinds and not crash.fatal and _soon(crash, line):
                crash.fatal, crash.panic = True, reason[:EXCERPT_CHARACTERS]
                self._crash, self._lines, self._tracing = crash, 0, False
                return
        kind = "sysrq" if "sysrq triggered crash" in reason else "panic"
        self._begin(kind, line, text)
        assert self._crash is not None
        self._crash.fatal, self._crash.panic = True, reason[:EXCERPT_CHARACTERS]

    def _body(self, crash: Crash, text: str) -> None:
        if self._listing and self._more_modules(crash, text):
            return
        self._listing = False
        if text in ("Call Trace:", "Call trace:"):
            self._trace = crash.frames[-1].trace + 1 if crash.frames else 0
            self._tracing, self._context = True, ""
        elif section := _SECTION.fullmatch(text):
            self._context = "" if section[1] else section[2].lower()
        elif self._tracing and (frame := _FRAME.fullmatch(text)):
            self._add(crash, Frame(frame[2], frame[3] or "", self._context, not frame[1], trace=self._trace))
        elif rip := _RIP.match(text):
            self._rip(crash, rip)
        elif text.startswith("Modules linked in:"):
            self._listing, self._tracing = not crash.modules, False
            self._more_modules(crash, text.partition(":")[2])
        elif text.startswith(_OTHER_TRACES):
            self._tracing = False
        else:
            self._facts(crash, text)

    def _rip(self, crash: Crash, rip: re.Match[str]) -> None:
        kernel = rip[1] == "10"
        frame = Frame(rip[2] or rip[3], rip[4] or "", self._context, kernel, interrupted=self._tracing,
                      trace=self._trace)
        if self._tracing and kernel:
            self._add(crash, frame)
        elif crash.rip is None and not crash.frames:
            crash.rip = frame if kernel else Frame("user", reliable=False)

    @staticmethod
    def _add(crash: Crash, frame: Frame) -> None:
        if len(crash.frames) < FRAMES:
            crash.frames.append(frame)

    @staticmethod
    def _more_modules(crash: Crash, text: str) -> bool:
        """Take names of modules; a list longer than a line of the log goes on in the next."""
        words = text.partition("[last unloaded")[0].split()
        if not all(_MODULE_WORD.fullmatch(word) for word in words):
            return False
        crash.modules += words[:MODULES - len(crash.modules)]
        return True

    @staticmethod
    def _facts(crash: Crash, text: str) -> None:
        if match := _CPU.search(text):
            if not crash.release:
                crash.cpu, crash.pid, crash.comm = int(match[1]), int(match[2]), match[3]
                crash.taint, crash.release = "".join((match[5] or "").split()), match[4] or match[6]
        elif match := _STUCK.search(text) or _WARNED.search(text):
            crash.cpu, crash.comm, crash.pid = int(match[1]), match[2], int(match[3])
        elif match := _BLOCKED.match(text):
            crash.comm, crash.pid = match[1], int(match[2])
        elif match := _WORK.fullmatch(text):
            crash.workqueue = crash.workqueue or match[1] or ""
        elif match := _NETDEV.search(text):
            crash.driver = crash.driver or match[1]


def _soon(crash: Crash, line: Line) -> bool:
    """The panic that a report leads to comes at once; one of another hour is another story."""
    if crash.at_us is None or line.at_us is None:
        return True
    return 0 <= line.at_us - crash.at_us <= _FOLLOWS_WITHIN_US
