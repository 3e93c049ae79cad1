"""What is loaded is what the contract allows, by the kernel's own account, and grows only where somebody looked."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from sensor.config import Settings
from sensor.kernel import contract
from sensor.manifest import Manifest, collect
from tests.live import manifest

GROWTH = 1.2


@pytest.fixture(scope="module")
def compiled() -> manifest.Page:
    """Every family with every kind of hook, compiled for this kernel by a process of its own, as BCC wants it."""
    done = subprocess.run([sys.executable, "-m", "tests.live.manifest"], cwd=manifest.ROOT, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: manifest.Page = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def loaded() -> Manifest:
    """What the default settings load here."""
    return collect(Settings())


@pytest.mark.contract("panic-1b", "panic-2a")
def test_every_program_that_can_be_loaded_keeps_the_contract(compiled: manifest.Page) -> None:
    """Alternatives too that this kernel can't attach."""
    for made in compiled.values():
        assert {entry["type"] for entry in made["maps"].values()} <= {*contract.MAPS.values()}
        for facts in made["programs"].values():
            assert {*facts["helpers"]} <= {*contract.HELPERS.values()}


@pytest.mark.contract("panic-4a")
def test_a_service_that_is_not_shown_the_kernel_s_symbols_compiles_the_same(compiled: manifest.Page) -> None:
    """ProtectKernelTunables= hides /proc/kallsyms, where BCC looks before it believes in probe_read_kernel."""
    hidden = "mount --bind /dev/null /proc/kallsyms && exec \"$0\" -m tests.live.manifest"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", hidden, sys.executable], cwd=manifest.ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == compiled


@pytest.mark.contract("panic-3a")
def test_nothing_has_grown_unseen(compiled: manifest.Page) -> None:
    """A new program, helper or map, or a fifth more instructions, must be written down: make manifest."""
    kept = json.loads(manifest.PATH.read_text())
    assert compiled.keys() == kept.keys()
    for family, made in compiled.items():
        assert {*made["maps"]} <= {*kept[family]["maps"]}
        for name, facts in made["programs"].items():
            assert name in kept[family]["programs"], f"{name} of {family} is new"
            before = kept[family]["programs"][name]
            assert {*facts["helpers"]} <= {*before["helpers"]}, name
            assert facts["instructions"] <= before["instructions"] * GROWTH, name


@pytest.mark.contract("panic-2a", "panic-2b", "panic-3a")
def test_the_kernel_s_account_agrees(loaded: Manifest, compiled: manifest.Page) -> None:
    """Helpers read back from the kernel's own code are those that were compiled in, and no others."""
    assert loaded.faults == ()
    assert len(loaded.programs) > 40
    declared = {program: {*facts["helpers"]} for made in compiled.values()
                for program, facts in made["programs"].items()}
    for program in loaded.programs:
        # Less than compiled: the kernel puts small helpers into the code itself.
        assert {*program.helpers} <= declared[program.name], program.name
        assert declared[program.name] - {*program.helpers} <= {
            "map_lookup_elem", "get_smp_processor_id", "get_current_task", "ktime_get_boot_ns"}, program.name
        assert 0 < program.verified <= contract.VERIFIED_MAX
        assert program.tag
    assert {"ringbuf", "prog_array"} <= {entry.type for entry in loaded.maps}


@pytest.mark.contract("panic-3c")
def test_maps_stay_within_the_limit_that_the_plan_has_promised(loaded: Manifest) -> None:
    """The kernel charges a little more than the elements alone; the limit holds all the same."""
    assert 1 << 20 < loaded.memory <= Settings().limits.kernel_memory_mib << 20


@pytest.mark.contract("panic-2b")
def test_a_look_leaves_nothing_behind() -> None:
    """What holds a program is a descriptor: none is left here, and the loader has ended."""
    assert collect(Settings()).programs
    kinds = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.islink(entry.path)]
    assert not [kind for kind in kinds if "bpf" in kind or "perf_event" in kind]
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
