"""Crashes as the sensor tells them: values of an event, words for people."""

from __future__ import annotations

from datetime import datetime, timezone

from sensor.crashes.database import Found


def when(seconds: float) -> str:
    """RFC 3339 of seconds since the epoch."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def blamed(crash: Found) -> str:
    """``self``, ``unknown``, or ``other: name (kind)``."""
    if crash.attributed != "other":
        return crash.attributed
    kind = "" if crash.component_kind == crash.component else f" ({crash.component_kind})"
    return f"other: {crash.component}{kind}"


def detail(crash: Found) -> str:
    """One sentence: what, whom, why."""
    because = "; ".join((crash.rule, *crash.evidence))
    return f"{crash.title}: attributed to {blamed(crash)}, {crash.confidence}: {because}"


def told(crash: Found) -> tuple[str, ...]:
    """Values of the event sensor_crash, in the order of the event table."""
    return (crash.kind, crash.attributed, crash.component, crash.component_kind, crash.confidence, when(crash.time),
            crash.release, crash.source, crash.id, detail(crash)[:1024])
