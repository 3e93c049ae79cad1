"""The sensor with a kernel's counts that a test may change, and half a second between two looks at them.

    python -m tests.live.vigilant ROOT run ...

ROOT holds sys/kernel/oops_count and the like; a file ROOT/drill that comes asks for the drill of the canary.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sensor import health
from sensor.cli import main
from sensor.vigil import Vigil


def run(root: Path, arguments: list[str]) -> int:
    """Run the command line."""
    health.ROOT, health.CHECK_SECONDS, health.CANARY_SECONDS = root, 0.5, 1.0
    check = Vigil._check

    def checked(self: Vigil) -> None:
        if (root / "drill").exists():
            (root / "drill").unlink()
            assert "taken for missing" in self.rehearse()
        check(self)

    Vigil._check = checked  # type: ignore[method-assign]
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
