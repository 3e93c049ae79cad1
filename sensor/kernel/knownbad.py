"""Kernels on which a kind of hook is known to have taken hosts down: data, with a source for each row.

A row says what happened to somebody; the hook is then left out, with the reason, and the next alternative carries the
event. Rows without a kind are told by the doctor and change nothing: they say why the probes are as they are.
Standard library only.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: The newest kernel that the tests have run on. On a newer one the self-test decides about most of the hooks.
NEWEST_TESTED = (7, 2)
_PATH = Path("/proc/version_signature")
Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One known-bad combination.

    Args:
        kinds: Kinds of hook as in hooks.Hook; empty: only told.
        since: First bad version, upstream's.
        fixed: First good versions of the series that got the fix; the highest holds for all that is newer.
        pattern: Searched in the release and version text too, where only some builds are bad.
        lacking: A function of the kernel that came with the fix: where the types name it, the kernel is good.
        what: What happened.
        sources: Where it is told.
    """

    kinds: tuple[str, ...]
    since: Version
    fixed: tuple[Version, ...]
    what: str
    sources: tuple[str, ...]
    pattern: str = ""
    lacking: str = ""

    def matches(self, kernel: Kernel, has: Callable[[str], bool] | None = None) -> bool:
        """Whether a kernel is a bad one. *has*: whether it has a function; None where that can't be told."""
        if kernel.version < self.since or any(_good(kernel.version, fixed) for fixed in self.fixed):
            return False
        if self.fixed and kernel.version >= max(self.fixed):
            return False
        if self.pattern and not re.search(self.pattern, kernel.text):
            return False
        return not (self.lacking and has is not None and has(self.lacking))


def _good(version: Version, fixed: Version) -> bool:
    """A fix in 6.1.83 makes 6.1.90 good and says nothing of 6.2."""
    return version[:2] == fixed[:2] and version >= fixed


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel: upstream's version, and all that it says of itself."""

    version: Version
    text: str

    @classmethod
    def of(cls, release: str, build: str = "", signature: str = "") -> Kernel:
        """Read what the kernel says.

        Args:
            release: `uname -r`. Debian's and Ubuntu's have the ABI where the patch level should be.
            build: `uname -v`, where Debian has it.
            signature: /proc/version_signature, where Ubuntu has it.
        """
        for text in (_last_word(signature), _debian(build), release):
            numbers = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,5}))?", text)
            if numbers:
                version = tuple(int(number) for number in numbers.groups() if number is not None)
                return cls(version, f"{release} {build}")
        return cls((), f"{release} {build}")

    @classmethod
    def running(cls) -> Kernel:
        """The one that runs here."""
        try:
            signature = _PATH.read_text("ascii", "replace")[:256]
        except OSError:
            signature = ""
        return cls.of(platform.release(), platform.version(), signature)

    @property
    def untested(self) -> bool:
        """Whether it is newer than all that the tests have run on; also one whose version can't be read."""
        return not self.version or self.version[:2] > NEWEST_TESTED


def _last_word(signature: str) -> str:
    """``Ubuntu 5.15.0-91.101-generic 5.15.131`` -> its last word."""
    words = signature.split()
    return words[-1] if len(words) > 1 else ""


def _debian(build: str) -> str:
    found = re.search(r"Debian (\d[\d.]*)", build)
    return found[1] if found else ""


ROWS: tuple[Row, ...] = (
    Row(("uprobe",), (6, 13), (),
        "uprobe programs may preempt each other on one processor while they share a stack there: panics under load",
        ("https://github.com/open-telemetry/opentelemetry-ebpf-instrumentation/issues/3056",),
        pattern=r"\bPREEMPT"),
    Row(("fentry", "lsm"), (5, 5), ((5, 12),),
        "trampolines are freed while a task that sleeps in the function has yet to return through them: crashes at "
        "attaching and detaching",
        ("https://github.com/deepflowio/deepflow/pull/9741",
         "https://github.com/xanmod/linux/commit/85d177f56e5256e14b74a65940f981f6e3e8bb32"),
        lacking="__bpf_tramp_image_put_rcu"),
    Row(("fentry", "lsm", "kprobe", "kretprobe", "uprobe"), (5, 14), ((5, 15),),
        "panics at boot when another sensor loaded its programs; which hook it was is not public, so only tracepoints",
        ("https://github.com/CrowdStrike/falcon-scripts/issues/291",),
        pattern=r"^5\.14\.0-427\.(?:\d|1[0-6])\.\S*el9_4"),
    Row((), (5, 8), ((5, 10, 214), (5, 15, 153), (6, 1, 83), (6, 6, 23), (6, 7, 11), (6, 8)),
        "the kernel oopses when a program reads the vsyscall page as kernel memory; our programs read addresses that "
        "come from user space by the helper for those only",
        ("https://raw.githubusercontent.com/CVEProject/cvelistV5/main/cves/2024/26xxx/CVE-2024-26906.json",
         "https://github.com/falcosecurity/falco/issues/3181", "https://github.com/netdata/netdata/issues/12027")),
)


def fault(kind: str, kernel: Kernel, has: Callable[[str], bool] | None = None) -> str:
    """Why a kind of hook is left out on a kernel; "" where it isn't. *has* as in :meth:`Row.matches`."""
    for row in ROWS:
        if kind in row.kinds and row.matches(kernel, has):
            return f"known to be bad on this kernel: {row.what} ({row.sources[0]})"
    return ""


def notes(kernel: Kernel, has: Callable[[str], bool] | None = None) -> list[Row]:
    """Everything that is known of a kernel."""
    return [row for row in ROWS if row.matches(kernel, has)]
