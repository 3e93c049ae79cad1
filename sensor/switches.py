"""Rules that the operator has switched off: a small file that every load reads, and that needs no running sensor."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from sensor.errors import HostError, UsageError

FILE = "rules-disabled.json"
OPERATOR = "operator"  # the reason of these, among those of the meter
MAX_BYTES = 1 << 20
MAX_ID = 128  # characters
_STATE = Path("/var/lib/sensor")
_FORMAT = 1


def state_home() -> Path:
    """Where state outlives a restart: what systemd set up for the unit, or its usual place."""
    return Path(os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or _STATE)


def read(home: Path) -> dict[str, str]:
    """Id of each rule that is switched off, and since when (RFC 3339). None where there is no file.

    Raises:
        UsageError: The file is damaged, or somebody could have written it who is neither root nor this user.
    """
    path = home / FILE
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from error
    with open(fd, "rb") as file:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid not in (0, os.geteuid()) or facts.st_mode & 0o022:
            raise UsageError(f"{path}: others may write it: chown root {path}; chmod 644 {path}")
        data = file.read(MAX_BYTES + 1)
    try:
        raw = json.loads(data) if len(data) <= MAX_BYTES else None
        if not isinstance(raw, dict) or raw.get("format") != _FORMAT:
            raise ValueError("another format")
        found = {str(rule): str(since) for rule, since in raw["rules"].items()}
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: damaged; remove it, and disable the rules again") from error
    return found


def write(home: Path, rules: Mapping[str, str]) -> None:
    """Replace the file, whole or not at all. Raises HostError where that isn't allowed."""
    data = json.dumps({"format": _FORMAT, "rules": dict(sorted(rules.items()))}, indent=1).encode() + b"\n"
    if len(data) > MAX_BYTES:
        raise UsageError("too many rules are disabled: take them out of rules.paths instead")
    try:
        home.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=home, prefix=".", delete=False) as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)  # the engine is another user
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, home / FILE)
    except OSError as error:
        raise HostError(f"{home / FILE}: can't be written: {error.strerror}", "run it as root, with sudo") from error


def now() -> str:
    """The time as it is written here."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
