"""The breaker's decisions: what goes first, what never goes, when something comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import breaker
from sensor.breaker import DISPATCHED, ORDER, Breaker, Ran, Sample, Step
from sensor.control import Bounds

FAMILIES = ("process", "syscall", *ORDER)
BOUNDS = Bounds(kernel_ppm=10_000, program_ns=1000)
ROUND, LENGTH, CPUS = 5.0, 1.0, 2


def ran(name: str, family: str, percent: float, mean: float = 200.0) -> Ran:
    """A program that takes so much of each processor."""
    run_ns = percent / 100 * LENGTH * 1e9 * CPUS
    return Ran(name, family, int(run_ns), int(run_ns / mean))


class Host:
    """Feeds a breaker round by round with what a load costs while some families are off."""

    def __init__(self, bounds: Bounds = BOUNDS, families: Iterable[str] = FAMILIES) -> None:
        self.breaker = Breaker(bounds, families)
        self.now = 1000.0

    def run(self, seconds: float, cost: Callable[[list[str]], Iterable[Ran]]) -> list[Step]:
        made = []
        for _ in range(int(seconds / ROUND)):
            self.now += ROUND
            made += self.breaker.feed(Sample(self.now, LENGTH, CPUS, tuple(cost(self.breaker.shed))))
        return made


def calls(percent: float, mean: float = 200.0) -> Callable[[list[str]], list[Ran]]:
    """System calls that cost so much until nothing behind the dispatcher is left."""
    def cost(shed: list[str]) -> list[Ran]:
        return [ran("on_sys_exit", "syscall", 0 if {*DISPATCHED} <= {*shed} else percent, mean)]
    return cost


def nothing(_shed: list[str]) -> list[Ran]:
    return []


@pytest.mark.contract("panic-10a")
def test_families_go_in_the_declared_order_and_process_events_never() -> None:
    """A cost that only the dispatcher's end ends takes all that is behind it."""
    steps = Host().run(60, calls(20))
    assert [step.family for step in steps] == list(DISPATCHED)
    assert {(step.action, step.reason, step.limit) for step in steps} == {("shed", "kernel_cpu", 10_000)}
    assert all(step.measured > 10_000 for step in steps)
    assert "process" not in ORDER


def test_process_events_that_cost_too_much_are_told_once_and_nothing_goes_in_vain() -> None:
    """What is switched off would not help."""
    host = Host()
    steps = host.run(3600, lambda _shed: [ran("on_exec", "process", 2)])
    assert [step.action for step in steps] == ["exhausted"]
    assert host.breaker.shed == []


def test_the_mean_is_of_30_seconds() -> None:
    """Ten seconds of 2 % are less than 1 % of thirty; twenty are more."""
    assert Host().run(10, calls(2)) == []
    assert [step.family for step in Host().run(20, calls(2))] == ["file"]


@pytest.mark.contract("panic-10a")
def test_a_family_comes_back_after_the_hold_and_the_hold_doubles_when_that_was_too_early() -> None:
    """The load goes on, and each trial is rarer than the one before, up to an hour."""
    host, holds = Host(families=("process", "syscall", "file")), []
    for _ in range(10):
        at = host.now
        assert [step.action for step in host.run(60, calls(20))][:1] == ["shed"]
        holds.append(host.breaker.hold)
        while host.breaker.shed:
            host.run(ROUND, nothing)
        assert host.now - at >= holds[-1]
    assert holds[:4] == [60, 120, 240, 480]
    assert holds[-1] == breaker.HOLD_MAX_SECONDS


def test_an_hour_without_a_trip_makes_the_hold_short_again() -> None:
    """What happened yesterday says nothing of today."""
    host = Host()
    for _ in range(3):
        host.run(30, calls(2))
        host.run(1200, nothing)
    assert host.breaker.hold > breaker.HOLD_SECONDS
    assert host.breaker.shed == []
    host.run(3700, nothing)
    assert host.breaker.hold == breaker.HOLD_SECONDS


def test_a_cost_between_half_the_limit_and_the_limit_brings_nothing_back() -> None:
    """That is the hysteresis: it would soon be over again."""
    host = Host()
    host.run(20, calls(2))
    assert host.breaker.shed == ["file"]
    assert host.run(7200, calls(0.6)) == []
    assert [step.action for step in host.run(200, calls(0.4))] == ["restored"]


def test_process_events_alone_keep_nothing_switched_off() -> None:
    """They cost three quarters of the limit: the rest is below half of it all the same."""
    host = Host()

    def cost(percent: float) -> Callable[[list[str]], list[Ran]]:
        return lambda _shed: [ran("on_exec", "process", 0.75), ran("on_sys_exit", "syscall", percent)]
    host.run(10, cost(6))
    assert host.breaker.shed == ["file"]
    assert [step.action for step in host.run(200, cost(0.1))] == ["restored"]


def test_a_slow_program_takes_its_own_family_and_only_where_it_matters() -> None:
    """More than a microsecond a run, and a tenth of the limit of all."""
    slow = ran("kprobe_security_socket_bind", "network", 0.2, mean=1500)
    rare = ran("on_readline", "shell", 0.05, mean=90_000)
    fine = ran("on_uring_open", "file", 0.5, mean=900)
    assert [(step.family, step.reason, step.measured) for step in Host().run(60, lambda shed: [
        each for each in (slow, rare, fine) if each.family not in shed])] == [("network", "program_ns", 1500)]
    assert Host().run(60, lambda _shed: [rare, fine, ran("on_exec", "process", 0.3, mean=9000)]) == []


def test_a_slow_dispatcher_takes_what_is_behind_it() -> None:
    """The kernel accounts all handlers to it."""
    steps = Host(families=("process", "syscall", "network", "privilege")).run(60, calls(0.5, mean=2000))
    assert [step.family for step in steps] == ["network", "privilege"]


@pytest.mark.parametrize("bounds", [Bounds(), Bounds(0, 1000, 5)])
def test_no_limit_means_no_limit(bounds: Bounds) -> None:
    """0 is off."""
    assert Host(bounds).run(600, calls(90)) == []


def test_a_drill_takes_one_family_and_gives_it_back() -> None:
    """Told as a drill; no hold grows from it."""
    host = Host()
    (step,) = host.breaker.rehearse(host.now, 20)
    assert (step.action, step.family, step.reason) == ("shed", "file", "drill")
    assert host.breaker.rehearse(host.now, 20) == []
    assert host.run(15, nothing) == []
    assert [(step.action, step.reason) for step in host.run(10, nothing)] == [("restored", "drill")]
    assert (host.breaker.shed, host.breaker.hold) == ([], breaker.HOLD_SECONDS)


def test_a_drill_hides_no_real_trip() -> None:
    """The next family goes, and stays when the drill is over."""
    host = Host()
    host.breaker.rehearse(host.now, 60)
    host.run(20, calls(2))
    assert host.breaker.shed == ["file", "path"]
    host.run(60, calls(0.7))
    assert host.breaker.shed == ["path"]


_LOADS = st.lists(st.tuples(st.floats(0, 50), st.floats(0, 3), st.floats(50, 5000), st.integers(1, 40),
                            st.booleans()), max_size=40)


@pytest.mark.contract("panic-10a")
@given(_LOADS, st.sets(st.sampled_from(FAMILIES[1:])))
def test_whatever_the_load_the_order_holds_process_stays_and_nothing_flaps(
        loads: list[tuple[float, float, float, int, bool]], families: set[str]) -> None:
    """Between a family's going and coming there is at least the hold, and sheds for the sum follow the order."""
    host, gone = Host(families={"process", *families}), dict[str, tuple[float, str]]()
    order = [name for name in ORDER if name in families]
    for percent, process, mean, rounds, drill in loads:
        steps = host.breaker.rehearse(host.now, 30) if drill else []
        for _ in range(rounds):
            hold = host.breaker.hold
            steps += host.run(ROUND, lambda shed, p=percent, q=process, m=mean: [  # type: ignore[misc]
                ran("on_exec", "process", q), *calls(p, m)(shed)])
            for step in steps:
                if step.action == "shed":
                    assert step.family not in gone
                    if step.reason == "kernel_cpu":
                        assert step.family == next(name for name in order if name not in gone)
                    gone[step.family] = (host.now, step.reason)
                elif step.action == "restored":
                    since, reason = gone.pop(step.family)
                    assert reason == step.reason == "drill" or host.now - since >= hold
            assert gone.keys() <= {*order}
            assert set(host.breaker.shed) == gone.keys()
            assert breaker.HOLD_SECONDS <= host.breaker.hold <= breaker.HOLD_MAX_SECONDS
            steps = []
