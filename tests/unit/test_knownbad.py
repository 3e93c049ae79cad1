"""The table of known-bad kernels: which one runs, which rows hold for it, what is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.kernel import hooks, knownbad
from sensor.kernel.knownbad import Kernel

KINDS = {hook.kind for ways in hooks.HOOKS.values() for way in ways for hook in way.hooks}


@pytest.mark.parametrize(("texts", "version"), [
    (("6.12.117+deb13-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1 (2026-01-01)"), (6, 12, 117)),
    (("5.10.0-46-cloud-amd64", "#1 SMP Debian 5.10.262-1 (2026-07-31)"), (5, 10, 262)),
    (("5.15.0-91-generic", "#101-Ubuntu SMP Tue Nov 14", "Ubuntu 5.15.0-91.101-generic 5.15.131\n"), (5, 15, 131)),
    (("5.14.0-427.13.1.el9_4.x86_64", "#1 SMP PREEMPT_DYNAMIC Wed Apr 10"), (5, 14, 0)),
    (("7.3-rc1",), (7, 3)), (("nonsense",), ()), (("",), ())])
def test_the_version_of_a_kernel_is_upstream_s(texts: tuple[str, ...], version: tuple[int, ...]) -> None:
    """Debian and Ubuntu tell the patch level elsewhere than in the release."""
    assert Kernel.of(*texts).version == version


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_whatever_a_kernel_says_of_itself_is_read(release: str, build: str, signature: str) -> None:
    """Every row can be asked about it."""
    kernel = Kernel.of(release, build, signature)
    assert isinstance(knownbad.notes(kernel), list)
    assert len(kernel.version) in (0, 2, 3)


def test_rows_name_kinds_that_are_there_and_sources() -> None:
    """A kind that does not exist would be left out by nobody."""
    for row in knownbad.ROWS:
        assert set(row.kinds) <= KINDS
        assert row.sources
        assert all(source.startswith("https://") for source in row.sources)


@pytest.mark.contract("panic-6b")
@pytest.mark.parametrize(("release", "build", "bad"), [
    ("6.12.9", "#1 SMP PREEMPT_DYNAMIC", set()),
    ("6.13.0", "#1 SMP PREEMPT_DYNAMIC", {"uprobe"}),
    ("7.0.0-22-generic", "#22-Ubuntu SMP PREEMPT_DYNAMIC", {"uprobe"}),
    ("6.18.2", "#1 SMP", set()),
    ("5.14.0-427.16.1.el9_4.x86_64", "#1 SMP PREEMPT_DYNAMIC", {"fentry", "lsm", "kprobe", "kretprobe", "uprobe"}),
    ("5.14.0-427.42.1.el9_4.x86_64", "#1 SMP PREEMPT_DYNAMIC", set()),
    ("5.14.0-503.11.1.el9_5.x86_64", "#1 SMP PREEMPT_DYNAMIC", set()),
    ("6.6.50", "#1 SMP", set())])
def test_hooks_are_left_out_on_the_kernels_of_the_table(release: str, build: str, bad: set[str]) -> None:
    """Tracepoints and system calls behind them are never among them."""
    kernel = Kernel.of(release, build)
    assert {kind for kind in KINDS if knownbad.fault(kind, kernel, lambda _name: True)} == bad


def test_a_fix_that_was_backported_is_told_by_its_function() -> None:
    """A release number says less than the kernel's own types."""
    kernel = Kernel.of("5.10.20", "#1 SMP")
    assert "github.com" in knownbad.fault("fentry", kernel, lambda _name: False)
    assert knownbad.fault("fentry", kernel, lambda name: name == "__bpf_tramp_image_put_rcu") == ""
    assert knownbad.fault("lsm", Kernel.of("5.12.0"), lambda _name: False) == ""


@pytest.mark.parametrize(("release", "told"), [
    ("6.1.82", True), ("6.1.83", False), ("6.1.192", False), ("6.2.16", True), ("6.7.10", True), ("6.7.11", False),
    ("6.8.0", False), ("7.2.1", False), ("5.15.152", True), ("5.15.153", False)])
def test_a_fix_in_one_series_says_nothing_of_the_next(release: str, told: bool) -> None:
    """The vsyscall row changes nothing, and is told on exactly the kernels that have the fault."""
    rows = knownbad.notes(Kernel.of(release, "#1 SMP"), lambda _name: True)
    assert any("vsyscall" in row.what for row in rows) is told
    assert not any(row.kinds for row in rows if "vsyscall" in row.what)


@pytest.mark.contract("panic-6b")
@pytest.mark.parametrize(("release", "untested"), [("7.2.13", False), ("7.3.0", True), ("8.0-rc1", True),
                                                   ("6.18.1", False), ("who knows", True)])
def test_a_kernel_newer_than_the_newest_tested_is_told_apart(release: str, untested: bool) -> None:
    """One whose version can't be read is taken for new."""
    assert Kernel.of(release).untested is untested
