"""What every probe family compiles to, with every kind of hook: docs/manifest.json. Root: BCC makes the maps too.

`python -m tests.live.manifest` prints it; `make manifest` writes the file anew, and the test beside it says what has
grown since. Status 1 where something is outside of what may be loaded.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from sensor.kernel import contract
from sensor.kernel.compiled import Cache, Compiled
from sensor.kernel.hooks import DECIDING, FAMILIES
from sensor.kernel.sources import Sources
from tests.conftest import ROOT

PATH = ROOT / "docs" / "manifest.json"
_CPUS = 2
_RAW_TRACEPOINT = 17  # the helpers are what is asked about; hooks.py says which types there are
Page = dict[str, dict[str, dict[str, Any]]]


def compiled() -> dict[str, Compiled]:
    """Family -> what it compiles to on this kernel. Each in a process of its own: BCC holds maps until its end."""
    found = {}
    with tempfile.TemporaryDirectory() as work:
        sources = Sources.of_kernel(Path(work), Cache(Path(work) / "cache"))
        for family in FAMILIES:
            child = os.fork()
            if not child:
                status = 1
                try:
                    sources.compile(family, _CPUS, DECIDING)
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0, f"{family.name} does not compile"
            made = sources.known(family, _CPUS, DECIDING)
            assert made is not None
            found[family.name] = made
    return found


def page(families: dict[str, Compiled]) -> Page:
    """Family -> programs (helpers, instructions) and maps (type, bytes of one element, elements)."""
    return {name: {
        "programs": {program: {"helpers": list(contract.helper_names(contract.calls(code).helpers)),
                               "instructions": len(code) // 8} for program, code in sorted(made.programs.items())},
        "maps": {table.name: {"type": contract.MAPS.get(table.kind, str(table.kind)),
                              "element": table.key + table.value, "entries": table.entries}
                 for table in made.tables}} for name, made in families.items()}


def main() -> int:
    """Print it."""
    families = compiled()
    print(json.dumps(page(families), indent=1, sort_keys=True))
    faults = [fault for made in families.values() for fault in contract.map_faults(made.tables)]
    faults += [f"{program}: {fault}" for made in families.values() for program, code in made.programs.items()
               for fault in contract.faults(_RAW_TRACEPOINT, code)]
    print(*faults, sep="\n", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
