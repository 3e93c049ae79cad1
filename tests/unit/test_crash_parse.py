"""Reports of crashes in the kernel's log: every kind, every form, and hostile text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.crashes import lines, parse
from sensor.crashes.model import KINDS, Crash
from tests.unit import crash_texts as texts

if sys.version_info >= (3, 11):
    import re._parser as sre_parse
else:
    import sre_parse


def crashes(text: str) -> list[Crash]:
    return parse.parse(lines.of_dump(text.encode()))


def one(text: str) -> Crash:
    [crash] = crashes(text)
    return crash


@pytest.mark.parametrize(("text", "kind", "fatal", "release", "comm", "pid"), [
    (texts.NULL_IN_OWN_5_10, "oops", True, "5.10.0-33-amd64", "make", 2211),
    (texts.GPF_IN_HELPER_6_1, "gpf", False, "6.1.0-25-amd64", "sshd", 901),
    (texts.OOPS_IN_DRIVER_IRQ_6_12, "oops", True, "6.12.9-amd64", "cc1", 4412),
    (texts.FOREIGN_PROGRAM_7_0, "oops", False, "7.0.4-cloud-amd64", "node", 7001),
    (texts.SYSRQ_6_1, "sysrq", True, "6.1.0-25-cloud-amd64", "sh", 388),
    (texts.SYSRQ_5_10, "sysrq", True, "5.10.0-33-cloud-amd64", "sh", 388),
    (texts.SOFT_LOCKUP_6_12, "soft_lockup", True, "6.12.9-amd64", "kworker/1:2", 4711),
    (texts.HARD_LOCKUP_6_18, "hard_lockup", False, "6.18.2", "swapper/3", 0),
    (texts.HUNG_TASK_5_10, "hung_task", False, "", "backup", 3301),
    (texts.RCU_STALL_6_1, "rcu_stall", False, "6.1.0-25-amd64", "cat", 655),
    (texts.WARNING_5_10, "warning", False, "5.10.0-33-amd64", "Xorg", 77),
    (texts.WARNING_7_0, "warning", True, "7.0.4-cloud-amd64", "ld.so/x", 3120),
    (texts.KASAN_6_1, "kasan", False, "6.1.0-25-amd64", "insmod", 1200),
    (texts.BUG_5_10, "bug", False, "5.10.0-33-amd64", "kworker/2:1", 512),
    (texts.KILLED_INIT_6_12, "panic", True, "6.12.9-amd64", "systemd", 1),
    (texts.MACHINE_CHECK_6_1, "panic", True, "", "", None),
])
@pytest.mark.parametrize("stamped", [False, True])
@pytest.mark.contract("panic-12a")
def test_each_kind_is_one_report_with_its_facts(text: str, kind: str, fatal: bool, release: str, comm: str,
                                                pid: int | None, stamped: bool) -> None:
    """With and without the time that printk puts in front."""
    crash = one(texts.stamped(text, prefix="<4>") if stamped else text)
    assert (crash.kind, crash.fatal, crash.release, crash.comm, crash.pid) == (kind, fatal, release, comm, pid)
    assert (crash.at_us is not None) == stamped


def test_frames_keep_what_the_unwinder_is_sure_of_and_their_section() -> None:
    """The interrupted instruction stands in the trace, marked; user space does not."""
    crash = one(texts.OOPS_IN_DRIVER_IRQ_6_12)
    assert str(crash.rip) == "acme_rx_poll [acme_net]"
    assert [(frame.symbol, frame.context, frame.reliable) for frame in crash.frames[:3]] == [
        ("__die_body.cold", "irq", False), ("page_fault_oops", "irq", False), ("__napi_poll", "irq", True)]
    [stopped] = [frame for frame in crash.frames if frame.interrupted]
    assert (stopped.symbol, stopped.context) == (f"bpf_prog_{texts.TAG}_{texts.NAME}", "task")
    assert crash.taint == "POE" and crash.modules == ["acme_net(POE)", "overlay"]


def test_module_with_a_build_id_is_the_module() -> None:
    """CONFIG_STACKTRACE_BUILD_ID writes it behind the name."""
    assert {frame.module for frame in one(texts.HARD_LOCKUP_6_18).frames} == {"gpu_drv"}


def test_stacks_of_other_times_are_not_the_trace() -> None:
    """KASAN prints who allocated the memory."""
    assert "innocent" not in {frame.module for frame in one(texts.KASAN_6_1).frames}


def test_unloaded_modules_are_not_linked_in() -> None:
    assert one(texts.NULL_IN_OWN_5_10).modules == ["tun(E)", "vbox_guest(OE)", "virtio_net", "virtio_blk"]


def test_a_list_of_modules_goes_on_in_the_next_line() -> None:
    """A line of the log holds 1,000 characters."""
    text = texts.WARNING_5_10.replace("linked in: acme(E)", "linked in: acme(E) one\n two three(O)")
    assert one(text).modules == ["acme(E)", "one", "two", "three(O)"]


def test_reports_of_one_log_stay_apart_and_a_late_panic_is_its_own() -> None:
    """A warning an hour before has nothing to do with it."""
    log = texts.stamped(texts.WARNING_5_10, 10) + texts.stamped(texts.SYSRQ_6_1, 4000)
    assert [(crash.kind, crash.fatal) for crash in crashes(log)] == [("warning", False), ("sysrq", True)]
    panic = texts.stamped("Kernel panic - not syncing: Fatal exception\n", 900)
    log = texts.stamped(texts.GPF_IN_HELPER_6_1, 10) + panic
    assert [(crash.kind, crash.fatal) for crash in crashes(log)] == [("gpf", False), ("panic", True)]


def test_an_oops_within_an_oops_is_a_second_report() -> None:
    """The first is not overwritten by what it led to."""
    first, _, rest = texts.GPF_IN_HELPER_6_1.partition("Modules linked in")
    found = crashes(first + texts.BUG_5_10 + rest)
    assert [crash.kind for crash in found] == ["gpf", "bug"]


def test_the_end_of_a_log_full_of_reports_counts() -> None:
    """The report that ended the boot is the last one."""
    log = "".join(texts.stamped(texts.WARNING_5_10, number) for number in range(100)) + texts.stamped(
        texts.SYSRQ_6_1, 500)
    found = crashes(log)
    assert len(found) == parse.REPORTS
    assert found[-1].kind == "sysrq"


@pytest.mark.contract("panic-12a")
def test_a_title_that_a_program_can_forge_is_no_crash() -> None:
    """A process may call itself "Oops: 0000 [#1]" and fault; its name has no call trace."""
    assert crashes("traps: x\nkernel BUG at a\n trap divide error ip:55 sp:7f error:0 in x[55+1]\n") == []


def test_the_same_crash_has_one_identity_in_every_form() -> None:
    """pstore, /dev/kmsg and the journal tell of the same microsecond."""
    text = texts.stamped(texts.SYSRQ_6_1, 20)
    dump = list(lines.of_dump(text.encode()))
    kmsg = "".join(f"4,{number},{line.at_us},-;{line.text}\n SUBSYSTEM=x\n" for number, line in enumerate(dump))
    journal = b"\n".join(json.dumps({"MESSAGE": line.text, "_SOURCE_MONOTONIC_TIMESTAMP": str(line.at_us),
                                     "SYSLOG_FACILITY": "0", "_TRANSPORT": "kernel"}).encode() for line in dump)
    found = [parse.parse(dump), parse.parse(lines.of_kmsg(kmsg.encode())), parse.parse(lines.of_journal(journal))]
    assert len({crash.identity for [crash] in found}) == 1
    assert one(texts.stamped(texts.SYSRQ_6_1, 21)).identity != found[0][0].identity


def test_what_user_space_writes_into_the_log_is_left_out() -> None:
    """Facility 1 is a process that wrote to /dev/kmsg: 12 is its warning."""
    assert crashes(texts.stamped(texts.SYSRQ_6_1, prefix="<12>")) == []
    kmsg = "".join(f"12,1,5,-;{line}\n" for line in texts.SYSRQ_6_1.splitlines())
    assert parse.parse(lines.of_kmsg(kmsg.encode())) == []
    entry = json.dumps({"MESSAGE": "Kernel panic - not syncing: x", "SYSLOG_FACILITY": "1"})
    assert parse.parse(lines.of_journal(entry.encode())) == []


def test_a_newline_in_a_message_makes_no_new_line() -> None:
    """The journal and /dev/kmsg know where a message ends."""
    entry = json.dumps({"MESSAGE": "comm x\nKernel panic - not syncing: forged"})
    assert parse.parse(lines.of_journal(entry.encode())) == []


def test_bytes_of_the_journal_are_text() -> None:
    """MESSAGE is a list of numbers where it is no UTF-8."""
    entry = json.dumps({"MESSAGE": list(b"Kernel panic - not syncing: \xff!")})
    [crash] = parse.parse(lines.of_journal(entry.encode()))
    assert crash.panic == "\ufffd!"


_WORDS = st.sampled_from([
    *(line for text in (texts.NULL_IN_OWN_5_10, texts.SOFT_LOCKUP_6_12, texts.RCU_STALL_6_1, texts.WARNING_7_0,
                        texts.KASAN_6_1) for line in text.splitlines()),
    "Call Trace:", " <IRQ>", " </IRQ>", "RIP: 0010:", "CPU: 1 PID: ", "Modules linked in:",
    "Kernel panic - not syncing: ", "BUG: ", "WARNING: ", "Oops: 0000 [#1]", "INFO: task :", "[",
    "<", "\x00", "\x1b[2J", "x" * 1100])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(_WORDS, st.text(max_size=60)), max_size=80))
@pytest.mark.contract("panic-12a")
def test_any_text_is_parsed_within_bounds(parts: list[str]) -> None:
    """Nothing raises; nothing grows beyond its bound."""
    for crash in crashes("\n".join(parts)):
        assert crash.kind in KINDS
        assert len(crash.frames) <= parse.FRAMES
        assert len(crash.modules) <= parse.MODULES
        assert len(crash.lines) <= parse.EXCERPT_LINES
        assert all(len(line) <= parse.EXCERPT_CHARACTERS for line in crash.lines)
        assert len(crash.identity) == 24


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_lines_in_every_form(data: bytes) -> None:
    """Hostile dumps, logs and journals."""
    for form in (lines.of_dump, lines.of_kmsg, lines.of_journal):
        for line in form(data):
            assert len(line.text) <= lines.LINE_CHARACTERS
        parse.parse(form(data))


@pytest.mark.parametrize("line", [
    "CPU: 1 PID: 1 Comm: " + " Tainted: G" * 90, "WARNING: " + " at x+0x" * 120, "Workqueue: " + "a " * 500,
    "Oops: " * 170, "Modules linked in:" + " a(" * 330, "INFO: task " + ":1" * 500 + " blocked",
    "CPU#1 stuck for 1s! [" * 48, ", CPU#1: " + "/1" * 500, "? " * 500, "RIP: 0010:" + "a." * 500,
    "NETDEV WATCHDOG: " + "x (" * 300,
    " " * 1000 + "x", "BUG: " * 200, "sysrq: " * 140])
def test_lines_made_to_mislead_an_expression_are_no_reports_with_a_body(line: str) -> None:
    """Three hundred of each, within a report."""
    text = "\n".join(["Kernel panic - not syncing: x", *([line] * 300)])
    assert all(crash.rip is None and not crash.frames for crash in crashes(text))


def bounds(tree: object) -> Iterator[int]:
    """The highest count of each repetition in a parsed expression."""
    if isinstance(tree, tuple | list) or hasattr(tree, "data"):
        items = list(getattr(tree, "data", tree))
        if items and str(items[0]) in ("MAX_REPEAT", "MIN_REPEAT"):
            yield int(items[1][1])
        for item in items:
            yield from bounds(item)


def test_what_an_expression_may_repeat_is_bounded() -> None:
    """So the work for a line is bounded too, whatever is in it; only what ends an expression may take the rest."""
    patterns = [value for value in vars(parse).values() if isinstance(value, re.Pattern)]
    patterns += [lines._PREFIX, *(pattern for _, pattern in parse._STARTS)]
    assert len(patterns) > 20
    for pattern in patterns:
        text = pattern.pattern.removesuffix("(.*)")
        assert all(count <= 300 for count in bounds(sre_parse.parse(text))), text


def test_an_unbounded_repetition_would_be_seen() -> None:
    assert max(bounds(sre_parse.parse(r"a(b|c+)?x"))) > 300
