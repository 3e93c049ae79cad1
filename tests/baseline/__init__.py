"""What a host does when nothing is wrong, recorded: how many alerts the default rules raise there.

``python -m tests.baseline --help``. The machine itself is not touched: everything happens in a
throw-away Debian root with namespaces and a control group of its own.
"""

from pathlib import Path

#: Distillate and figures of one recording, in the repository.
DATA = Path(__file__).resolve().parents[1] / "data"
