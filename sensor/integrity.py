"""Whether what the sensor has in the kernel is still what it put there. Standard library only.

Another root can get descriptors of our maps by their ids and blind us without detaching anything: take a handler
out of a program array, call itself the engine, change a filter. Such calls are events (bpf_access); this looks at the
outcome, whoever brought it about, and puts back what it can.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from sensor.kernel import bpf
from sensor.kernel.hooks import ROUTER, slots
from sensor.kernel.plan import SETTING_BUDGET, SETTING_SHED, WATCH_ENTRIES
from sensor.loaded import Load

#: What was changed, as the metric's label names it.
PARTS = ("settings", "handlers", "filters", "own_objects", "links")
_SUPERVISOR, _ENGINE, _LOADER = 0, 1, 2  # OWN_* in probes/common.h
_NOBODY = (1 << 64) - 1  # no thread group; 0 would be the parent of process 1
_OBJECT_PROGRAM, _OBJECT_MAP = 1, 2  # OBJECT_* in probes/tamper.c
_FILTERS = {"watch_names": 32, "watch_inodes": 16}  # map -> bytes of a key


@dataclass(frozen=True, slots=True)
class Change:
    """What somebody else has changed. ``part`` is one of PARTS."""

    part: str
    sentence: str


class Integrity:
    """Of one supervisor: remembers what it wrote, and compares."""

    def __init__(self) -> None:
        self._settings: dict[int, int] = {}
        self._own: set[bytes] = set()
        self._filters: dict[str, dict[bytes, bytes]] = {}
        self._links: dict[int, int] = {}  # descriptor -> id of its program

    def begin(self, load: Load, engine: int) -> None:
        """Tell the probes which processes and objects are the sensor's own, once they are attached.

        Raises OSError where they can't be told.
        """
        # The loader is gone, or will be: whoever gets its number next must not pass for the sensor.
        self._settings = {_SUPERVISOR: os.getpid(), _ENGINE: engine, _LOADER: _NOBODY}
        for slot, value in self._settings.items():
            bpf.map_update(load.maps["settings"], struct.pack("<I", slot), struct.pack("<Q", value))
        limit = bpf.map_lookup(load.maps["settings"], struct.pack("<I", SETTING_BUDGET), 8)
        self._settings[SETTING_BUDGET] = struct.unpack("<Q", limit)[0]
        self._own = set(_own_objects(load))
        for key in self._own:
            bpf.map_update(load.maps["own_objects"], key, struct.pack("<I", 1))
        self._filters = {name: _content(load.maps[name], size) for name, size in _FILTERS.items()}
        self._links = dict(_links(load))

    def engine_ended(self, load: Load) -> None:
        """Nobody is the engine until the next one begins: its number may be given to another process."""
        self._settings[_ENGINE] = _NOBODY
        if "settings" in load.maps:
            with contextlib.suppress(OSError):
                bpf.map_update(load.maps["settings"], struct.pack("<I", _ENGINE), struct.pack("<Q", _NOBODY))

    def check(self, load: Load) -> list[Change]:
        """What has been changed since by somebody else. It is put back, where that is possible."""
        if not load.maps or not self._own:
            return []
        found: list[Change] = []
        for part, look in (("settings", self._check_settings), ("handlers", _check_handlers),
                           ("filters", self._check_filters), ("own_objects", self._check_own),
                           ("links", self._check_links)):
            try:
                for sentence in look(load):
                    found.append(Change(part, sentence))
            except OSError as error:  # a frozen map takes no change, ours neither
                found.append(Change(part, f"what is in the kernel can't be set right: {error}; restart the sensor"))
        return found

    def _check_settings(self, load: Load) -> Iterator[str]:
        for slot, value in {**self._settings, SETTING_SHED: load.shed_bits}.items():
            key, wanted = struct.pack("<I", slot), struct.pack("<Q", value)
            there = bpf.map_lookup(load.maps["settings"], key, 8)
            if there != wanted:
                bpf.map_update(load.maps["settings"], key, wanted)
                what = {SETTING_SHED: "families were switched off or on", SETTING_BUDGET: "the throttle was moved"}.get(
                    slot, f"the probes took process {struct.unpack('<Q', there)[0]} for the sensor's own")
                yield f"{what}; set right again"

    def _check_filters(self, load: Load) -> Iterator[str]:
        for name, wanted in self._filters.items():
            fd, there = load.maps[name], _content(load.maps[name], _FILTERS[name])
            for key in there.keys() - wanted.keys():
                bpf.map_delete(fd, key)
            for key, value in wanted.items():
                if there.get(key) != value:
                    bpf.map_update(fd, key, value)
            if there != wanted:
                yield f"the list of watched files in the kernel ({name}) was changed; set right again"

    def _check_own(self, load: Load) -> Iterator[str]:
        fd = load.maps["own_objects"]
        if gone := self._own - {*_content(fd, 8)}:
            for key in gone:
                bpf.map_update(fd, key, struct.pack("<I", 1))
            yield f"{len(gone)} of the sensor's BPF objects were not known as its own any more; set right again"

    def _check_links(self, load: Load) -> Iterator[str]:
        held = {fd for fds in load.fds.values() for fd in fds}
        for fd, program in self._links.items():
            if fd in held and (there := bpf.link_program(fd)) != program:
                self._links[fd] = there
                yield f"a link of program {program} runs program {there} now; restart the sensor to set it right"


def _own_objects(load: Load) -> Iterator[bytes]:
    """Keys of own_objects for the programs, and for the maps that they use."""
    for number, fd in load.program_fds.items():
        yield struct.pack("<Q", _OBJECT_PROGRAM << 32 | number)
        for used in bpf.program_maps(fd):
            yield struct.pack("<Q", _OBJECT_MAP << 32 | used)


def _links(load: Load) -> Iterator[tuple[int, int]]:
    for fd in (fd for fds in load.fds.values() for fd in fds):
        # "bpf_link" or "bpf-link", as the kernel is old; perf events and programs are among them.
        if os.readlink(f"/proc/self/fd/{fd}").replace("-", "_").endswith(":bpf_link"):
            yield fd, bpf.link_program(fd)


def _content(fd: int, key_bytes: int) -> dict[bytes, bytes]:
    found = {}
    for key in bpf.map_keys(fd, key_bytes, WATCH_ENTRIES):
        with contextlib.suppress(FileNotFoundError):  # gone since it was listed
            found[key] = bpf.map_lookup(fd, key, 4)
    return found


def _handlers(load: Load) -> dict[tuple[str, int], tuple[int, str]]:
    """(program array, slot) -> (program id, what it is for), of those that are attached still."""
    router = next((number for number, fd in load.program_fds.items() if bpf.program_info(fd).name == ROUTER), 0)
    found = {}
    for row in load.programs:
        if row["id"] not in load.program_fds or row["family"] in load.shed:
            continue
        for table, slot in slots(row.get("kind", ""), row["target"]):
            found[table, slot] = row["id"], f"{row['program']} for {row['event']}"
            if row["kind"] == "syscall" and router:
                found["any", slot] = router, f"the dispatcher for call {slot}"
    return found


def _check_handlers(load: Load) -> Iterator[str]:
    """Each system call's way to its program."""
    for (table, slot), (program, what) in _handlers(load).items():
        key = struct.pack("<I", slot)
        try:
            there = struct.unpack("<I", bpf.map_lookup(load.maps[table], key, 4))[0]
        except FileNotFoundError:
            there = 0
        if there != program:
            bpf.map_update(load.maps[table], key, struct.pack("<I", load.program_fds[program]))
            yield f"{what} was {'replaced' if there else 'removed'} in {table}[{slot}]; set right again"
