"""The sensor with less patience: an engine may be silent for so many seconds.

    python -m tests.live.hurried SECONDS run ...
"""

from __future__ import annotations

import sys

from sensor import engine_child
from sensor.cli import main

if __name__ == "__main__":
    engine_child.ENGINE_SILENT_SECONDS = float(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
