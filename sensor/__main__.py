"""``python -m sensor``."""

from sensor.cli import main

main()
