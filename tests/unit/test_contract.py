"""What may be loaded is decided by reading instructions; here they are written by hand."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.kernel import contract
from sensor.kernel.compiled import Table
from sensor.manifest import called

EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)


def call(number: int, source: int = 0) -> bytes:
    return struct.pack("<BBhi", 0x85, source << 4, 0, number)


def load_64(low: int, high_opcode: int) -> bytes:
    """A 64-bit constant, whose second half may look like anything."""
    return struct.pack("<BBhi", 0x18, 0, 0, low) + struct.pack("<BBhi", high_opcode, 0, 0, 36)


@pytest.mark.contract("panic-2a")
def test_every_call_is_found_and_constants_are_none() -> None:
    """The second half of a wide constant is data, even where it reads like a call of probe_write_user."""
    code = call(113) + load_64(7, 0x85) + call(1) + call(9, source=1) + EXIT
    assert contract.calls(code) == contract.Calls(frozenset({1, 113}), frozenset())
    assert contract.faults(17, code) == []


@pytest.mark.parametrize(("kind", "code", "said"), [
    (17, call(36), "helper 36"),  # probe_write_user
    (2, call(58), "helper 58"),  # override_return
    (17, call(6), "helper 6"),  # trace_printk
    (17, call(4), "helper 4"),  # plain probe_read
    (17, call(181), "helper 181"),  # loop
    (17, call(1000, source=2), "kernel function 1000"),
    (6, EXIT, "program type 6"),  # XDP
    (27, EXIT, "program type 27"),  # struct_ops
])
@pytest.mark.contract("panic-1b", "panic-2a", "panic-4a", "panic-13")
def test_what_the_contract_excludes_is_named(kind: int, code: bytes, said: str) -> None:
    """Each of them has taken a host down somewhere, or lets a program change what it watches."""
    assert contract.faults(kind, code) == [said]


@pytest.mark.contract("panic-1b")
def test_map_types_outside_of_the_list_are_named() -> None:
    """LRU and stack maps have had deadlocks of their own."""
    assert contract.map_faults([Table("fine", 1, 4, 4, 1, 0), Table("lru", 9, 4, 4, 1, 0)]) == ["map lru of type 9"]


def test_half_an_instruction_is_no_program() -> None:
    """Nothing is guessed about it."""
    with pytest.raises(ValueError, match="half"):
        contract.calls(EXIT[:5])


@given(st.lists(st.one_of(st.integers(0, 300).map(lambda n: ("call", n)), st.binary(min_size=8, max_size=8).map(
    lambda raw: ("wide", raw))), max_size=40))
@pytest.mark.contract("panic-2a")
def test_calls_are_exactly_those_between_constants(parts: list[tuple[str, int | bytes]]) -> None:
    """Whatever bytes the constants have."""
    code = b"".join(call(value) if isinstance(value, int) else struct.pack("<BBhi", 0x18, 0, 0, 0) + value
                    for _, value in parts)
    assert contract.calls(code).helpers == {value for _, value in parts if isinstance(value, int)}


def test_names_of_helpers_come_from_the_kernel_s_symbols() -> None:
    """The kernel leaves distances; of a map whose type is known, it calls the map's own function."""
    symbols = {100: "bpf_probe_read_kernel", 200: "__htab_map_lookup_elem", -300: "array_map_update_elem",
               400: "bpf_probe_write_user", 12: "something_else"}
    code = call(100) + call(200) + call(-300) + call(400) + call(12) + call(555) + EXIT
    assert called(code, symbols) == ("#555", "map_lookup_elem", "map_update_elem", "probe_read_kernel",
                                     "probe_write_user", "tail_call")
