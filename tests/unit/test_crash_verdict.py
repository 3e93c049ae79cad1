"""Whom a crash is attributed to: by what ran, never by a name alone, with the lines that say so."""

from __future__ import annotations

import pytest

from sensor.crashes import lines, parse
from sensor.crashes.verdict import Own, Verdict, judge
from tests.unit import crash_texts as texts

OWN = Own(texts.OWN)


def verdict(text: str, own: Own = OWN) -> Verdict:
    [crash] = parse.parse(lines.of_dump(text.encode()))
    return judge(crash, own)


@pytest.mark.parametrize(("text", "attributed", "kind", "component", "confidence"), [
    (texts.NULL_IN_OWN_5_10, "self", "sensor", texts.NAME, "certain"),
    (texts.GPF_IN_HELPER_6_1, "self", "sensor", texts.NAME, "likely"),
    (texts.OOPS_IN_DRIVER_IRQ_6_12, "other", "module", "acme_net", "certain"),
    (texts.FOREIGN_PROGRAM_7_0, "other", "bpf", "trace_connect", "likely"),
    (texts.SYSRQ_6_1, "other", "sysrq", "sysrq", "certain"),
    (texts.SYSRQ_5_10, "other", "sysrq", "sysrq", "certain"),
    (texts.SOFT_LOCKUP_6_12, "other", "module", "dm_slow", "likely"),
    (texts.HARD_LOCKUP_6_18, "other", "module", "gpu_drv", "likely"),
    (texts.HUNG_TASK_5_10, "other", "module", "sunrpc", "weak"),
    (texts.RCU_STALL_6_1, "self", "sensor", texts.NAME, "likely"),
    (texts.WARNING_5_10, "other", "module", "acme", "certain"),
    (texts.WARNING_7_0, "self", "sensor", texts.NAME, "likely"),
    (texts.KASAN_6_1, "other", "module", "acme", "likely"),
    (texts.BUG_5_10, "unknown", "", "", "none"),
    (texts.KILLED_INIT_6_12, "other", "process", "systemd", "likely"),
    (texts.MACHINE_CHECK_6_1, "other", "hardware", "hardware", "likely"),
    (texts.VERIFIER_6_12, "self", "sensor", "sensor-load", "likely"),
    (texts.NETDEV_6_1, "other", "driver", "acme_net", "likely"),
])
@pytest.mark.contract("panic-12b")
def test_each_report_is_attributed_to_what_ran(text: str, attributed: str, kind: str, component: str,
                                               confidence: str) -> None:
    found = verdict(text)
    assert (found.attributed, found.kind, found.component) == (attributed, kind, component)
    assert found.confidence == confidence
    assert found.rule


def test_the_evidence_is_what_stands_in_the_report() -> None:
    """The frame, and that its tag was recorded."""
    found = verdict(texts.NULL_IN_OWN_5_10)
    assert found.evidence[0] == f"bpf_prog_{texts.TAG}_{texts.NAME}"
    assert texts.TAG in found.evidence[1]


def test_a_program_of_ours_that_was_only_interrupted_is_a_bystander() -> None:
    """The driver's interrupt crashed; that ours was below it on the stack is said, and decides nothing."""
    found = verdict(texts.OOPS_IN_DRIVER_IRQ_6_12)
    assert found.attributed == "other"
    assert f"bpf_prog_{texts.TAG}_{texts.NAME}, ours: interrupted, it did not run" in found.evidence


@pytest.mark.contract("panic-12b")
def test_a_stale_frame_of_ours_is_no_proof() -> None:
    """A question mark: the unwinder found the address, not a call."""
    text = texts.BUG_5_10.replace(" kfree+", f" ? bpf_prog_{texts.TAG}_{texts.NAME}+0x2b/0x9f0\n kfree+")
    found = verdict(text)
    assert found.attributed == "unknown"
    assert found.evidence[-1].endswith("stale on the stack")


def test_without_its_tag_on_record_a_program_is_not_ours() -> None:
    """Nothing was ever recorded: every program is somebody else's."""
    found = verdict(texts.NULL_IN_OWN_5_10, Own())
    assert (found.attributed, found.kind, found.component) == ("other", "bpf", texts.NAME)


def test_our_name_on_another_tag_is_unknown() -> None:
    """Another product may use the name; another version of ours may have gone unrecorded. Nobody can tell."""
    found = verdict(texts.NULL_IN_OWN_5_10.replace(texts.TAG, texts.FOREIGN))
    assert (found.attributed, found.component) == ("unknown", texts.NAME)


@pytest.mark.parametrize("symbol", [f"bpf_prog_{texts.TAG}", f"bpf_prog_{texts.TAG}_F"])
def test_a_program_without_a_name_is_known_by_its_tag(symbol: str) -> None:
    assert verdict(texts.NULL_IN_OWN_5_10.replace(f"bpf_prog_{texts.TAG}_{texts.NAME}", symbol)).attributed == "self"


def test_a_module_below_our_program_is_the_module() -> None:
    """The innermost frame that belongs to somebody decides."""
    helper = " bpf_probe_read_kernel+"
    text = texts.GPF_IN_HELPER_6_1.replace(helper, f" odd_hook+0x1/0x20 [odd]\n{helper}")
    assert verdict(text).component == "odd"


def test_a_trampoline_without_its_program_is_unknown() -> None:
    """It may have been ours: nothing on the stack says whose."""
    text = texts.BUG_5_10.replace(" kfree+0x392/0x410\n", " bpf_trampoline_6442541871+0x54/0x140\n kfree+0x392/0x410\n")
    found = verdict(text)
    assert found.attributed == "unknown"
    assert "BPF" in found.rule


def test_sysrq_is_sysrq_whatever_was_on_the_stack() -> None:
    """And who asked for it is named."""
    handler = " sysrq_handle_crash"
    text = texts.SYSRQ_6_1.replace(handler, f" bpf_prog_{texts.TAG}_{texts.NAME}+0x1/0x2\n{handler}")
    found = verdict(text)
    assert found.component == "sysrq"
    assert "sh[388]" in found.evidence[0]


def test_a_task_of_ours_counts_only_where_it_loads_programs() -> None:
    """Our processes use the same kernel as all others: ours to have called is the verifier, not the file system."""
    own = Own({}, {512: "kworker/2:1"})
    assert verdict(texts.BUG_5_10, own).attributed == "unknown"
    text = texts.VERIFIER_6_12.replace("sensor-load", "python3")
    assert verdict(text, own).attributed == "unknown"
    assert verdict(text, Own({}, {940: "python3"})).attributed == "self"
    assert verdict(text, Own({}, {940: "other"})).attributed == "unknown"


def test_a_task_that_sleeps_in_the_kernel_itself_is_named_weakly() -> None:
    text = texts.HUNG_TASK_5_10.replace(" [sunrpc]", "").replace(" [nfsv4]", "")
    found = verdict(text)
    assert (found.attributed, found.kind, found.component, found.confidence) == ("other", "process", "backup", "weak")
