"""What `sensor status` and `sensor top` show: two readings of a running sensor, and the rates between them.

The supervisor tells over its control socket what it knows; the engine's part comes from its metrics, found by the port
that its process listens on, and is missing where they are off. The engine reads hostile input: its answer is bounded
in size and time, and only numbers and names of its own tables are taken from it.
"""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from sensor import controlclient
from sensor.controlsocket import STATUS, Request

_BYTES, _SECONDS = 4 << 20, 5.0
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared with, not bound to

#: Name -> labels in the order of their names -> number.
Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


@dataclass(frozen=True, slots=True)
class Reading:
    """The sensor at one moment. ``seconds``: CLOCK_MONOTONIC; ``usage``: pid -> (bytes of memory, CPU seconds)."""

    seconds: float
    facts: dict[str, Any]
    address: str = ""  # of the metrics
    samples: Samples = field(default_factory=dict)
    usage: Mapping[int, tuple[int, float]] = field(default_factory=dict)


def read(command: str) -> Reading:
    """Ask the sensor now; *command* is for messages. Raises HostError where none runs."""
    facts = controlclient.ask(Request(STATUS), command)
    engine = facts["engine"]["pid"] if facts["engine"] else 0
    address, samples = "", Samples()
    for host, port in listening(engine):
        samples = scrape(host, port)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if samples:
            break
    usage = {pid: used for pid in (facts["pid"], engine) if (used := _usage(pid)) is not None}
    return Reading(time.monotonic(), facts, address, samples, usage)


def listening(pid: int) -> list[tuple[str, int]]:
    """Addresses that a process listens on by TCP, in a form to connect to; none where it is gone."""
    if pid < 1:
        return []
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        found = (process.net_connections if hasattr(process, "net_connections") else process.connections)("tcp")
        return [(_LOOPBACK.get(each.laddr.ip, each.laddr.ip), each.laddr.port)
                for each in found if each.status == psutil.CONN_LISTEN]
    return []


def _usage(pid: int) -> tuple[int, float] | None:
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid) if pid > 0 else None
        if process is not None:
            times = process.cpu_times()
            return process.memory_info().rss, times.user + times.system
    return None


def scrape(host: str, port: int) -> Samples:
    """Metrics of an endpoint; nothing where it doesn't answer soundly, in time and within bounds."""
    from prometheus_client.parser import text_string_to_metric_families

    deadline = time.monotonic() + _SECONDS
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    found = Samples()
    try:
        connection.request("GET", "/metrics")
        reply = connection.getresponse()
        data = b""
        while reply.status == http.HTTPStatus.OK and (piece := reply.read1(1 << 16)):
            data += piece
            if len(data) > _BYTES or time.monotonic() > deadline:
                return {}
        for family in text_string_to_metric_families(data.decode("utf-8", "replace")):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, RecursionError):
        return {}
    finally:
        connection.close()
    return found


# --- what is made of it ---------------------------------------------------------------------------


def _sum(samples: Samples, name: str, *by: str) -> dict[str, int]:
    """Values of a metric, added up by some of its labels; "" without."""
    sums: dict[str, int] = {}
    for labels, value in samples.get(name, {}).items():
        key = " ".join(text for label, text in labels if label in by)
        if abs(value) < 1e18:  # neither NaN nor infinite
            sums[key] = sums.get(key, 0) + int(value)
    return sums


def summary(before: Reading, now: Reading) -> dict[str, Any]:
    """The document of ``sensor status --json``: counts since the start, rates between the readings, per second."""
    facts = now.facts
    kept = ("version", "pid", "mode", "reason", "lack", "fix", "uptime_seconds", "restarts", "guard", "content",
            "failures", "missing")
    seconds = max(now.seconds - before.seconds, 1e-3)
    programs = _programs(before, now)
    return {**{key: facts[key] for key in kept}, "seconds": round(seconds, 3), "metrics": now.address or None,
            "events": _events(before, now, seconds), "probes": _probes(facts["programs"]), "programs": programs,
            "kernel": {"map_bytes": facts["map_bytes"], "counted": any(row["runs"] for row in facts["programs"]),
                       "cpu_percent": round(sum(row["cpu_percent"] or 0 for row in programs), 3)},
            "supervisor": _process(before, now, facts["pid"], seconds),
            "engine": {**facts["engine"], **_process(before, now, facts["engine"]["pid"], seconds)}
            if facts["engine"] else None,
            "rules": _sum(now.samples, "sensor_rules_loaded", "state") or None,
            "drills": _sum(now.samples, "sensor_drills_total", "drill", "result"),
            "crashes": _crashes(facts["state_directory"])}


def _events(before: Reading, now: Reading, seconds: float) -> dict[str, Any]:
    names = {"emitted": "sensor_events_emitted_total", "received": "sensor_events_received_total",
             "lost": "sensor_events_lost_total", "filtered": "sensor_events_filtered_total",
             "matches": "sensor_rule_matches_total"}
    counts: dict[str, Any] = {key: _sum(now.samples, name).get("") for key, name in names.items()}
    earlier = {key: _sum(before.samples, name).get("") for key, name in names.items()}
    if counts["received"] is None and now.facts["engine"]:  # no metrics: what the engine's heartbeat says
        counts["received"] = now.facts["engine"]["events"]
        earlier["received"] = before.facts["engine"]["events"] if before.facts["engine"] else None
    rates = {key: round(max(counts[key] - earlier[key], 0) / seconds, 1) for key in counts
             if counts[key] is not None and earlier[key] is not None}
    types = _sum(now.samples, "sensor_events_received_total", "type")
    past = _sum(before.samples, "sensor_events_received_total", "type")
    return {**counts, "per_second": rates,
            "lost_by": {key: number for key, number in
                        _sum(now.samples, "sensor_events_lost_total", "stage", "reason").items() if number},
            "by_type": {name: {"received": number, "per_second": round(max(number - past.get(name, 0), 0) / seconds, 1)}
                        for name, number in types.items() if number}}


def _probes(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Hooks by family and kind, with the events that they carry."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["family"], row["kind"]), []).append(row)
    return [{"family": family, "hook": kind, "attached": len({(row["program"], row["target"]) for row in each}),
             "events": sorted({row["event"] for row in each if row["event"]})}
            for (family, kind), each in sorted(found.items())]


def _programs(before: Reading, now: Reading) -> list[dict[str, Any]]:
    """Each program once, the costliest first. Of one CPU in percent; None where the kernel told nothing."""
    earlier = {row["id"]: row for row in before.facts["programs"]}
    elapsed = max(now.facts["time_ns"] - before.facts["time_ns"], 1)
    found: dict[int, dict[str, Any]] = {}
    for row in now.facts["programs"]:
        # Loaded since the first reading: what it counts it has counted since then.
        past = earlier.get(row["id"], {"run_ns": 0, "runs": 0})
        known = row["runs"] is not None and past["runs"] is not None
        run_ns, runs = (row["run_ns"] - past["run_ns"], row["runs"] - past["runs"]) if known else (0, 0)
        found[row["id"]] = {
            "program": row["program"], "family": row["family"], "id": row["id"], "tag": row["tag"],
            "runs": row["runs"], "missed": row["missed"],
            "ns_per_run": round(row["run_ns"] / row["runs"], 1) if row["runs"] else None,
            "runs_per_second": round(runs / elapsed * 1e9, 1) if known else None,
            "cpu_percent": round(run_ns / elapsed * 100, 4) if known else None}
    return sorted(found.values(), key=lambda row: (-(row["cpu_percent"] or 0), row["program"]))


def _process(before: Reading, now: Reading, pid: int, seconds: float) -> dict[str, Any]:
    memory, spent = now.usage.get(pid, (None, None))
    past = before.usage.get(pid, (None, None))[1]
    percent = round((spent - past) / seconds * 100, 1) if spent is not None and past is not None else None
    return {"pid": pid, "rss_bytes": memory, "cpu_percent": percent}


def _crashes(directory: str) -> dict[str, int] | None:
    """Of this host, by whom they are attributed to; None where they can't be read."""
    from sensor.crashes import database

    with contextlib.suppress(OSError):
        return database.counts(database.read_file(Path(directory) / database.NAME))
    return None
