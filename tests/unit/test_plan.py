"""What may be loaded is checked before anything is."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sensor.control import Request, parse_request
from sensor.errors import UsageError
from sensor.kernel import plan as plans
from sensor.kernel.hooks import FAMILIES, FAMILY, HOOKS, candidates, kinds, likely, probe_of, syscall_numbers
from sensor.kernel.plan import Plan, possible_cpus
from sensor.schema import EVENTS

PLAN = Plan((1 << 20, 8 << 20), tuple(family.name for family in FAMILIES), 32 << 20, 8,
            (("shadow", 1),), ("/etc/x",), ((10, "off"),))
PROBES = Path(__file__).parents[2] / "probes"


def test_a_plan_reads_back_as_it_was_written() -> None:
    """Supervisor and loader speak of the same plan."""
    assert Plan.load(PLAN.dump()) == PLAN


@pytest.mark.parametrize("rings", [(0, 4096), (4095, 4096), (3 << 20, 4096), (4096, 64 << 20)])
@pytest.mark.contract("panic-3c")
def test_ring_sizes_out_of_bounds_are_refused(rings: tuple[int, int]) -> None:
    """A ring is a power of two pages within fixed bounds."""
    with pytest.raises(UsageError, match="ring size"):
        replace(PLAN, rings=rings).check()


@pytest.mark.contract("panic-3c")
def test_memory_beyond_the_limit_is_refused_before_loading() -> None:
    """The sum is computed, not discovered; the hard cap holds whatever the settings say."""
    PLAN.check()
    with pytest.raises(UsageError, match="kernel memory"):
        replace(PLAN, memory_limit=8 << 20).check()
    with pytest.raises(UsageError, match="kernel memory"):
        replace(PLAN, rings=(32 << 20, 32 << 20), memory_limit=1 << 40).check()


def test_unknown_families_are_refused() -> None:
    """No name but those of probe files."""
    with pytest.raises(UsageError, match="nonsense"):
        replace(PLAN, families=("process", "nonsense")).check()


def test_settings_restrict_the_alternatives_of_an_event() -> None:
    """One kind leaves that alternative; off leaves nothing; silence leaves all, in order."""
    assert candidates("file_unlink", None) == HOOKS["file_unlink"]
    assert [way.kind for way in candidates("file_unlink", "syscall")] == ["syscall"]
    assert candidates("file_unlink", "off") == ()
    assert kinds("file_unlink") == ("fentry", "kprobe", "lsm", "syscall")


def test_an_alternative_has_a_hook_of_its_own_kind_that_must_work() -> None:
    """Whether an alternative is used hangs on that hook; extras of any kind may be absent."""
    for event, ways in HOOKS.items():
        assert len(set(kinds(event))) == len(ways)
        for way in ways:
            assert any(hook.kind == way.kind and not hook.extra for hook in way.hooks), (event, way.kind)


@pytest.mark.parametrize(("text", "count"), [("0\n", 1), ("0-3", 4), ("0,2-7", 8)])
def test_possible_processors_are_counted_to_the_highest(text: str, count: int) -> None:
    """Rows are indexed by processor number, so gaps count."""
    assert possible_cpus(text) == count


def test_every_kernel_event_has_a_hook_and_every_hook_a_program() -> None:
    """The table, the probes and the events can't drift apart."""
    assert set(HOOKS) == {event.name for event in EVENTS if event.id < 100}
    for name, ways in HOOKS.items():
        parts = FAMILY[probe_of(name)].parts
        text = "".join(PROBES.joinpath(part).read_text() for part in parts)
        for hook in (hook for way in ways for hook in way.hooks):
            # ON_DECISION(file_open, ...) makes kprobe_security_file_open, lsm__file_open and so on
            program = re.sub(r"^(kfunc__vmlinux__|lsm__|kprobe_(?!uring))(security_)?", "", hook.program)
            assert re.search(rf"\b{program}\b", text), f"{hook.program} of {name}"


def test_no_system_call_is_handled_twice() -> None:
    """One slot of a table has one handler; io_uring numbers and the like stay free."""
    for index in (0, 1):
        calls = {hook for ways in HOOKS.values() for way in ways for hook in way.hooks if hook.kind == "syscall"}
        numbers = [syscall_numbers(hook)[index] for hook in calls]
        used = [number for number in numbers if number]
        assert len(used) == len(set(used))
        assert max(used) < plans.SYSCALL_SLOTS


def test_every_family_fits_the_helpers_bounds() -> None:
    """Masks are one less than a power of two, and a record fits a per-processor value of 32 KiB."""
    for family in FAMILIES:
        assert family.mask & (family.mask + 1) == 0
        assert family.mask + 1 + family.slack + plans.SCRATCH_HEAD <= 32 << 10


def test_every_probe_file_states_hooks_misses_and_cost() -> None:
    """Whoever reads a probe learns what it can't see."""
    assert {part for family in FAMILIES for part in family.parts if part.endswith(".c")} == {
        path.name for path in PROBES.glob("*.c")}
    for path in PROBES.glob("*.c"):
        head = path.read_text().partition("*/")[0]
        for word in ("SPDX-License-Identifier", "Emits", "Why here", "Hooks", "Misses", "Cost"):
            assert word in head, f"{path.name}: {word}"


def test_every_alternative_can_be_asked_for() -> None:
    """What the settings may force fits through the engine's request."""
    for event in EVENTS:
        for kind in kinds(event.name) if event.name in HOOKS else ():
            request = Request((1 << 20, 1 << 20), 1 << 20, ("process",), hooks=((event.id, kind),))
            assert parse_request(request.pack()).hooks == ((event.id, kind),)


def test_rarely_needed_programs_are_left_out_at_first() -> None:
    """LLVM's time is the price of a start: a family gets its preferred hooks, the next best, and what is forced."""
    assert likely("path", {}) == {"fentry", "kprobe"}
    assert likely("network", {}) == likely("file", {}) == likely("privilege", {}) == frozenset()
    assert likely("file", {"file_open": "lsm"}) == {"lsm", "fentry"}
    assert likely("path", {"file_unlink": "lsm"}) == {"fentry", "kprobe", "lsm"}
    assert likely("network", {"network_bind": "off"}) == frozenset()
