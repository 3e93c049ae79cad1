"""What keeps probes from being loaded, on hosts made of directories."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from sensor import daemon
from sensor.errors import HostError
from sensor.kernel import preflight
from sensor.metrics import ROWS
from sensor.options import RunOptions
from sensor.snapshot import Facts, take

FILES = {
    "proc/self/status": "Name:\tsensor\nCapEff:\t000001ffffffffff\n",
    "proc/self/uid_map": "         0          0 4294967295\n",
    "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
    "sys/kernel/btf/vmlinux": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host that lacks nothing."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "sys/kernel/btf/vmlinux").write_bytes(b"\x9f\xeb\x01\x00")
    return tmp_path


def found(root: Path, release: str = "6.1.0") -> list[str]:
    return [lack.lack for lack in preflight.lacks(root, release)]


def test_a_host_that_lacks_nothing_has_no_lack(root: Path) -> None:
    """Nor has one whose release says nothing."""
    assert found(root) == found(root, "custom") == []


@pytest.mark.parametrize(("name", "text", "lack", "reason", "fix"), [
    ("sys/kernel/btf/vmlinux", None, "btf", "No such file", "CONFIG_DEBUG_INFO_BTF"),
    ("sys/kernel/btf/vmlinux", "xx", "btf", "not in BTF format", "CONFIG_DEBUG_INFO_BTF"),
    ("sys/kernel/btf/vmlinux", "", "btf", "not in BTF format", "CONFIG_DEBUG_INFO_BTF"),
    ("sys/kernel/security/lockdown", "none integrity [confidentiality]", "lockdown", "confidentiality",
     "lockdown=integrity"),
    ("proc/self/uid_map", "0 1000 1", "user_namespace", "not of the host", "userns=host"),
    ("proc/self/status", "CapEff:\t00000000a80425fb", "capabilities", "CAP_BPF and CAP_PERFMON", "--privileged"),
    ("proc/self/status", "CapEff:\t0000004000000000", "capabilities", "without CAP_BPF no", "CapabilityBoundingSet"),
])
@pytest.mark.contract("panic-6a")
@pytest.mark.hostile("reduced-host")
def test_each_lack_has_its_name_reason_and_fix(
        root: Path, name: str, text: str | None, lack: str, reason: str, fix: str) -> None:
    """Only the one that is there is told."""
    (root / name).unlink()
    if text is not None:
        (root / name).write_text(text)
    [only] = preflight.lacks(root, "6.1.0")
    assert (only.lack, only.exit_status) == (lack, 3)
    assert reason in only.reason
    assert fix in only.fix


@pytest.mark.parametrize("name", ["sys/kernel/security/lockdown", "proc/self/uid_map", "proc/self/status"])
def test_a_file_that_is_not_there_is_no_lack(root: Path, name: str) -> None:
    """securityfs may not be mounted; then loading has the last word."""
    (root / name).unlink()
    assert found(root) == []


def test_sys_admin_stands_for_the_two_younger_capabilities(root: Path) -> None:
    """As the kernel has it since they were split off."""
    (root / "proc/self/status").write_text("CapEff:\t0000000000200000\n")
    assert found(root) == []


def test_a_kernel_without_the_ring_buffer_comes_first(root: Path) -> None:
    """Everything that it lacks is listed, the kernel before what could be switched on."""
    (root / "sys/kernel/btf/vmlinux").unlink()
    assert found(root, "5.4.0-200-generic") == ["kernel", "btf"]


@pytest.mark.parametrize(("service", "record", "ends"), [(False, None, True), (True, Path("out.jsonl"), True),
                                                         (True, None, False)])
@pytest.mark.contract("panic-6a")
def test_only_a_service_stays_up_without_probes(
        monkeypatch: pytest.MonkeyPatch, service: bool, record: Path | None, ends: bool) -> None:
    """Who asked for events gets status 3 before anything is started."""
    started: list[bool] = []

    class Stub:
        def __init__(self, *_arguments: object, stay: bool, **_more: object) -> None:
            started.append(stay)

        def run(self) -> int:
            return 0

    def lacking() -> None:
        raise preflight.Lack("btf", "no types", "another kernel")

    monkeypatch.setattr(daemon, "Supervisor", Stub)
    monkeypatch.setattr(daemon.preflight, "check", lacking)
    monkeypatch.setattr(daemon.os, "geteuid", lambda: 0)
    manager = SimpleNamespace(active=service, send=lambda _line: None)
    monkeypatch.setattr(daemon.Notifier, "from_environment", lambda: manager)
    if ends:
        with pytest.raises(HostError, match="no types"):
            daemon.run(RunOptions(record=record))
        assert started == []
    else:
        assert daemon.run(RunOptions(record=record)) == 0
        assert started == [True]


def test_the_reason_is_a_metric_with_every_value_from_the_start() -> None:
    """Passive for want of types: the mode and what it is that lacks."""
    facts = Facts(info={"passive": {"lack": "btf", "reason": "no types", "fix": ""}})
    snapshot = take(None, facts)
    assert snapshot.mode["passive"] == 1.0
    assert snapshot.passive_reason == {"btf": 1.0}
    assert {value for [value] in ROWS["passive_reason"].closed} == set(preflight.LACKS)
