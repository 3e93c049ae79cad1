"""The real sensor as a child process, its documents and metrics, and workloads that print their truth.

Nothing here imports the sensor's own decoder or encoder: what the tests compare with a workload's
truth is what a user reads from the output.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live.host import children, owned_programs, status_of, wait_gone, wait_until

Document = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
WORKLOADS = ROOT / "tests" / "workloads"
CFLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread")
READY_SECONDS = 60.0
QUIET_SECONDS = 20.0  # without any document, while one is waited for
ARRIVAL_SECONDS = 90.0  # of what happened, behind a backlog


# --- workloads -----------------------------------------------------------------------------------


class Workloads:
    """Compiles tests/workloads/*.c when first asked for, and runs them."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def program(self, name: str) -> Path:
        """The compiled workload; its name carries the hash of its sources."""
        source, header = WORKLOADS / f"{name}.c", WORKLOADS / "workload.h"
        digest = hashlib.sha256(b"\0".join((source.read_bytes(), header.read_bytes(), *map(str.encode, CFLAGS))))
        target = self._cache / f"{name}-{digest.hexdigest()[:12]}"
        if not target.exists():
            if shutil.which("gcc") is None:  # a guest brings them compiled
                pytest.skip(f"the workload {name} needs gcc")
            part = target.with_name(f"{target.name}.{os.getpid()}")
            subprocess.run(["gcc", *CFLAGS, "-o", part, source], check=True, timeout=120)
            part.rename(target)
        return target

    def start(self, name: str, *arguments: object) -> subprocess.Popen[bytes]:
        """Start a workload; finish() has its truth."""
        return subprocess.Popen(
            [self.program(name), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, name: str, *arguments: object, timeout: float = 120) -> Document:
        """Run a workload to its end; its truth."""
        return finish(self.start(name, *arguments), timeout)


def finish(workload: subprocess.Popen[bytes], timeout: float = 120) -> Document:
    """The truth of a workload that has been started, texts decoded as the sensor's documents hold them."""
    try:
        out, errors = workload.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        workload.kill()
        workload.communicate()
        raise
    assert workload.returncode == 0, f"{workload.args!r}: {workload.returncode} {errors.decode(errors='replace')}"
    truth = _from_bytes(json.loads(out))
    assert isinstance(truth, dict)
    return truth


def _from_bytes(value: Any) -> Any:
    """Workloads write each byte as one code point."""
    if isinstance(value, str):
        return value.encode("latin-1").decode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_from_bytes(item) for item in value]
    if isinstance(value, dict):
        return {key: _from_bytes(item) for key, item in value.items()}
    return value


# --- documents -----------------------------------------------------------------------------------


def get(document: Document, key: str, default: Any = None) -> Any:
    """Value at a dotted key."""
    node: Any = document
    for name in key.split("."):
        if not isinstance(node, dict) or name not in node:
            return default
        node = node[name]
    return node


def action(document: Document) -> str:
    return str(get(document, "event.action"))


def flags(document: Document) -> set[str]:
    return set(get(document, "sensor.flags", ()))


def octal(value: int | str | None) -> int | None:
    """Mode bits, however the document writes them: ECS has octal text."""
    return int(value, 8) if isinstance(value, str) else value


def parse_line(line: bytes) -> Document:
    """One output line. The escapes that sensor.escaped lists are undone, as docs/fields.md describes them."""
    document = orjson.loads(line)
    assert isinstance(document, dict), line
    for key in get(document, "sensor.escaped", ()):
        *parents, last = key.split(".")
        node: Any = document
        for name in parents:
            node = node[int(name) if isinstance(node, list) else name]
        place = int(last) if isinstance(node, list) else last
        node[place] = re.sub(
            r"\\(?:\\|x([0-9a-f]{2}))",
            lambda hit: chr(0xDC00 + int(hit[1], 16)) if hit[1] else "\\",
            node[place],
        )
    return document


def of_kind(documents: Iterable[Document], *actions: str) -> list[Document]:
    return [d for d in documents if action(d) in actions and get(d, "event.kind") == "event"]


def alerts(documents: Iterable[Document]) -> list[Document]:
    return [d for d in documents if get(d, "event.kind") == "alert"]


# --- the sensor ----------------------------------------------------------------------------------


def command(*arguments: object) -> list[str]:
    script = Path(sys.executable).with_name("sensor")
    head = [str(script)] if script.exists() else [sys.executable, "-m", "sensor.cli"]
    return [*head, *map(str, arguments)]


@functools.cache
def state() -> str:
    """The state directory of all sensors of this run: never the host's own."""
    place = tempfile.mkdtemp(prefix="sensor-state-")
    os.chmod(place, 0o755)  # as the unit makes it: the engine reads there
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def environment() -> dict[str, str]:
    return {"STATE_DIRECTORY": state(), "RUNTIME_DIRECTORY": f"{state()}/run", **os.environ, "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1"}


def run_command(*arguments: object, timeout: float = 60, user: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command of the sensor to its end."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        errors="surrogateescape",
        cwd="/",
        timeout=timeout,
        check=False,
        env=environment(),
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ask(port: int, path: str, pause: float = 0) -> tuple[int, str]:
    """HTTP status and body of a path of a metrics server; status 0 where nobody answers.

    The connection is an event itself. A *pause* in seconds before the request lets it arrive, so that
    the counters in the answer hold still.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.connect()
        time.sleep(pause)
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


#: Bounds that no test reaches by chance. Run times are measured all the same, as they are by default.
BOUNDS = {"kernel_cpu": 100, "program_ns": 100_000_000, "cgroup_events": 0}


def unbounded(settings: str) -> str:
    """Settings without the bounds that a flood, or an emulated processor, is meant to reach; unless they name one."""
    wide = "".join(f"  {key}: {bound}\n" for key, bound in BOUNDS.items() if f"{key}:" not in settings)
    if "limits:\n" in settings:
        return settings.replace("limits:\n", f"limits:\n{wide}", 1)
    return f"{settings}\nlimits:\n{wide}"


class Sensor:
    """One `sensor run`, relocated into *directory*. A context manager: entering waits until it is ready."""

    def __init__(
        self,
        directory: Path,
        *arguments: object,
        settings: str = "",
        output: str | None = None,
        events: str = "all",
        only_count: bytes = b"\0",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.output = Path(output or directory / "events.jsonl")
        self.port = free_port()
        config = directory / "sensor.yaml"
        config.write_text(unbounded(settings))
        self.arguments = [
            *command(
                "run",
                "-c",
                config,
                "--events",
                events,
                "-o",
                self.output,
                "--metrics",
                f"127.0.0.1:{self.port}",
                *arguments,
            ),
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self._documents: list[Document] = []
        self._offset = 0
        self._only_count = only_count  # lines with this text are counted, not read
        self.counted = self.tears = 0  # tears: lines that may be torn
        self._rest = b""

    # -- life --

    def start(self) -> Sensor:
        with (self.directory / "stderr").open("wb") as errors, (self.directory / "stdout").open("wb") as out:
            self.process = subprocess.Popen(
                self.arguments,
                stdout=out,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                env=self.environment(),
                cwd="/",
            )
        return self

    def environment(self) -> dict[str, str]:
        """With a control socket of its own."""
        return {**environment(), "RUNTIME_DIRECTORY": str(self.directory / "run")}

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stderr(self) -> str:
        return (self.directory / "stderr").read_text(errors="replace")

    def probe(self, path: str) -> tuple[int, str]:
        """See ask()."""
        return ask(self.port, path)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the sensor ended with {self.process.returncode}: {self.stderr()}"
        return self.probe("/-/ready")[0] == 200

    def wait_ready(self, seconds: float = READY_SECONDS) -> Sensor:
        wait_until(self.is_ready, seconds, f"ready: {self.stderr()}", 0.1)
        return self

    def stop(self, seconds: float = 20) -> str:
        """SIGTERM, a clean end, no programs left; returns stderr."""
        assert self.process is not None
        owned = set(owned_programs([self.pid]))
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        assert status == 0, f"exit status {status}: {self.stderr()}"
        wait_gone(owned, "programs detached after a clean stop")
        return self.stderr()

    def kill(self) -> None:
        """For clean-up only."""
        if self.process is not None and self.process.poll() is None:
            for pid in (*children(self.pid), self.pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.process.wait(10)

    def __enter__(self) -> Sensor:  # noqa: PYI034  typing.Self is newer than the oldest Python
        try:
            return self.start().wait_ready()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None and self.process is not None and self.process.poll() is None:
            self.stop()
        self.kill()

    # -- what it says --

    def documents(self) -> list[Document]:
        """All documents so far; the last line may still be in the writing."""
        if self.output.is_file():  # a device has no end
            with self.output.open("rb") as file:
                file.seek(self._offset)
                data = self._rest + file.read()
                self._offset = file.tell()
            *lines, self._rest = data.split(b"\n")
            wanted = [line for line in lines if self._only_count not in line]
            self.counted += len(lines) - len(wanted)
            for line in wanted:
                self._take(line)
        return self._documents

    def kill_engine(self) -> int:
        """SIGKILL; its pid. Whoever is killed within a write leaves a torn line, and an end of line after it."""
        engine = self.engine()
        self.tears += 1
        os.kill(engine, signal.SIGKILL)
        return engine

    def _take(self, line: bytes) -> None:
        try:
            self._documents.append(parse_line(line))
        except orjson.JSONDecodeError:
            if self.tears <= 0:
                raise
            self.tears -= 1

    def wait_for(
        self, check: Callable[[Document], bool], since: int = 0, seconds: float = 10, what: str = "a document"
    ) -> Document:
        """The first document from index *since* on that passes."""

        def find() -> Document | None:
            return next((d for d in self.documents()[since:] if check(d)), None)

        try:
            found: Document = wait_until(find, seconds, what)
        except AssertionError as failed:
            raise AssertionError(f"{failed}\n{self.condition()}") from failed
        return found

    def condition(self) -> str:
        """What a failed test wants to know: how much came, what was lost and where, what the daemon has said."""
        try:
            metrics = self.metrics()
        except (OSError, AssertionError) as error:
            return f"{error}\n{self.stderr()[-4000:]}"
        told = [
            f"{name}{dict(labels)} {value:.0f}"
            for (name, labels), value in metrics.items()
            if value and re.search("events_|lost|missed|throttled|shed|health|canar|ring|passive|probe_enabled", name)
        ]
        kinds = Counter(map(action, self.documents()))
        return "\n".join([*told, f"documents: {dict(kinds)}", self.stderr()[-4000:]])

    def settle(self, since: int = 0) -> None:
        """Returns when everything that happened before the call is in the output.

        Both rings keep their order, so a marker in each that has arrived says that all before it has.
        """
        mark = f"marker-{uuid.uuid4().hex}"
        path = self.directory / mark
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        subprocess.run(["/bin/true", mark], check=True)
        path.unlink()
        self._arrives(
            lambda d: action(d) == "process-exec" and mark in get(d, "process.args", ()), since, "exec marker"
        )
        self._arrives(
            lambda d: action(d) == "file-open" and get(d, "file.path", "").endswith(mark), since, "open marker"
        )

    def _arrives(self, check: Callable[[Document], bool], since: int, what: str) -> None:
        """Wait for a document as long as others come: a slow machine has a backlog."""
        begun = last = time.monotonic()
        looked = since
        while time.monotonic() < min(begun + ARRIVAL_SECONDS, last + QUIET_SECONDS):
            found = self.documents()
            if any(map(check, found[looked:])):
                return
            if len(found) > looked:
                looked, last = len(found), time.monotonic()
            time.sleep(0.05)
        raise AssertionError(f"{what} did not come\n{self.condition()}")

    def watch(self, act: Callable[[], Any]) -> tuple[Any, list[Document]]:
        """Do something; its result, and the documents from its beginning until all of it has arrived."""
        since = len(self.documents())
        result = act()
        self.settle(since)
        return result, self.documents()[since:]

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Samples by name and sorted labels."""
        status, text = ask(self.port, "/metrics", pause=0.1)
        assert status == 200, text
        return {
            (s.name, tuple(sorted(s.labels.items()))): s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples that carry these labels."""
        return sum(
            value
            for (sample, pairs), value in self.metrics().items()
            if sample == name and labels.items() <= dict(pairs).items()
        )

    def flow(self, **labels: str) -> tuple[float, float, float]:
        """Events emitted, received, and lost in the kernel, as one scrape has them."""
        metrics = self.metrics()

        def total(name: str, **more: str) -> float:
            wanted = {**labels, **more}.items()
            return sum(
                value for (sample, pairs), value in metrics.items() if sample == name and wanted <= dict(pairs).items()
            )

        return (
            total("sensor_events_emitted_total"),
            total("sensor_events_received_total"),
            total("sensor_events_lost_total", stage="kernel_ringbuf"),
        )

    # -- its processes --

    def engine(self) -> int:
        """Pid of the engine: the child that is not root."""

        def find() -> int | None:
            return next((pid for pid in children(self.pid) if status_of(pid).get("Uid", "0").split()[0] != "0"), None)

        pid = wait_until(find, 15, "an engine without root")
        assert isinstance(pid, int)
        return pid
