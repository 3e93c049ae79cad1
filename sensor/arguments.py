"""What the supervisor passes on to the engine from the command line, as text."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the supervisor passes on from the command line; None or empty: as the settings say."""

    config: str | None = None
    rules: tuple[str, ...] = ()
    output: str | None = None
    events: str | None = None
    metrics: str | None = None
    record: str | None = None
    metrics_fd: int | None = None  # a listening socket from the service manager

    def dump(self) -> str:
        """Encode for :meth:`parse`."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def parse(cls, text: str) -> Arguments:
        """Decode what :meth:`dump` wrote."""
        raw = json.loads(text)
        return cls(**{**raw, "rules": tuple(raw["rules"])})
