"""Settings: every key once, with its type, default, meaning and check; read from sensor.yaml.

The dataclass tree is the schema. docs/configuration.md and systemd/sensor.yaml are generated from
its metadata, so a key that isn't documented can't exist. A file may leave out anything; what it
says must be known, typed and in range, else the start fails with file and line.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from sensor import config_checks as checks
from sensor.config_checks import FAMILIES, Check
from sensor.errors import ContentError
from sensor.safe_yaml import Node, parse, read_text, shown

DEFAULT_PATH = "/etc/sensor/sensor.yaml"
LOCAL_RULES = "/etc/sensor/rules.d"
MAX_MEMORY_MIB = 64  # never more for our maps, whatever the settings say

WATCH_DEFAULT = (
    "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/sudoers.d/*",
    "/etc/security/opasswd", "/etc/krb5.keytab", "/etc/ssh/ssh_host_*_key",
    "/root/.ssh/*", "/home/*/.ssh/*", "/root/.gnupg/*", "/home/*/.gnupg/*",
    "/root/.netrc", "/home/*/.netrc", "/root/.git-credentials", "/home/*/.git-credentials",
    "/root/.pgpass", "/home/*/.pgpass", "/root/.my.cnf", "/home/*/.my.cnf",
    "/root/.bash_history", "/home/*/.bash_history",
    "/root/.aws/credentials", "/home/*/.aws/credentials",
    "/root/.azure/*", "/home/*/.azure/*",
    "/root/.config/gcloud/*", "/home/*/.config/gcloud/*",
    "/root/.kube/config", "/home/*/.kube/config",
    "/root/.docker/config.json", "/home/*/.docker/config.json",
    "/etc/kubernetes/*", "/etc/kubernetes/pki/*", "/var/lib/kubelet/pki/*",
    "/run/secrets/kubernetes.io/serviceaccount/token",
    "/run/secrets/kubernetes.io/serviceaccount/*/token",
    "/home/*/.config/google-chrome/*/Login Data", "/home/*/.config/chromium/*/Login Data",
    "/home/*/.mozilla/firefox/*/logins.json", "/home/*/.mozilla/firefox/*/key4.db",
    "/proc/*/mem", "/proc/kcore", "/dev/mem", "/dev/kmem",
)


def _key(default: Any, doc: str, *, unit: str = "", check: Check | None = None, section: bool = False) -> Any:
    metadata = {"doc": doc, "unit": unit, "check": check, "section": section}
    return field(default_factory=default, metadata=metadata) if callable(default) else field(
        default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Rules:
    """Detection content."""

    paths: tuple[str, ...] = _key(
        ("default", LOCAL_RULES), "Files and directories of Sigma rules. `default` is the set that comes "
        f"with the sensor. `{LOCAL_RULES}` may be absent; any other path must exist.", check=checks.rule_paths)
    placeholders: Mapping[str, tuple[str, ...]] = _key(
        lambda: MappingProxyType({}), "Values of placeholders in Sigma rules: what `%name%` stands for in a field "
        "with the modifier `expand`. A rule whose placeholder has none is refused.", check=checks.placeholders)
    pipelines: tuple[str, ...] = _key(
        (), "Files of Sigma processing pipelines (YAML), for rules written for the fields of another product. "
        "They may rename fields, change values and log sources, and nothing else.", check=checks.pipelines)
    watch_seconds: int = _key(
        0, "How often rule files are looked at, to load them anew once they have changed and then stayed the same "
        "from one look to the next. 0: only when told (`systemctl reload sensor`, SIGHUP).", unit="s",
        check=checks.between(0, 86400))
    budget_cpu_percent: int = _key(
        20, "Processor time that one rule may take over a minute, in percent of one core. A rule that takes more is "
        "disabled until the next reload, with an event, a metric and a log line. 0: no limit.", unit="%",
        check=checks.between(0, 100))
    budget_alerts: int = _key(
        0, "Alerts that one rule may raise within a minute, likewise. 0: no limit. Whoever can cause alerts can "
        "make a rule reach this limit, and is not seen by it afterwards.", check=checks.between(0, 10_000_000))


@dataclass(frozen=True, slots=True)
class Content:
    """Content releases: rules that are signed, checked and rolled out in stages."""

    keys: tuple[str, ...] = _key(
        (), "Public keys of publishers, `ed25519:...` as `sensor content keygen` writes them.",
        check=checks.public_keys)
    threshold: int = _key(1, "How many of these keys must have signed a release.", check=checks.between(1, 32))
    trusted: tuple[str, ...] = _key(
        (), "Absolute paths, from below which releases are taken without a signature.", check=checks.pipelines)
    hold: int = _key(3600, "How long a release must be healthy in each stage before it goes on by itself.", unit="s",
                     check=checks.between(1, 30 * 86_400))
    alert_factor: int = _key(10, "A release that raises more than this many times the alerts of the rules before it, "
                             "and more than 50, is taken back.", check=checks.between(1, 10_000))
    event_us: int = _key(1000, "Longest mean time that a release may take to evaluate an event, in its golden "
                         "recording and live.", unit="µs", check=checks.between(1, 1_000_000))
    check_seconds: int = _key(60, "Processor time that the check of a release may take.", unit="s",
                              check=checks.between(1, 3600))
    repository: str = _key("off", "URL of a TUF repository from which `sensor content update` takes releases, or "
                           "`off`.", check=checks.url)
    ring: str = _key("stable", "Which releases of the repository: those published for this ring.",
                     check=checks.ring_name)
    root: str = _key("/etc/sensor/content.root.json", "The repository's root metadata, copied here by hand once: what "
                     "all trust in it comes from.", check=checks.absolute)


@dataclass(frozen=True, slots=True)
class Output:
    """Where alerts and events go."""

    spec: str = _key("auto", "`-` (JSON lines on standard output), `table` (for people), `journald`, or the "
                     "absolute path of a file for JSON lines. `auto` is the journal under systemd, a table "
                     "on a terminal, else `-`.", check=checks.output)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Prometheus metrics, /-/healthy and /-/ready."""

    listen: str = _key("127.0.0.1:9923", "ADDRESS:PORT, or `off`. There is no authentication: beyond "
                       "loopback, put something in front.", check=checks.listen)


@dataclass(frozen=True, slots=True)
class Watch:
    """Reads that are reported. Opens for writing are always reported."""

    paths: tuple[str, ...] = _key(
        WATCH_DEFAULT, "Files whose opening for reading makes a file_open event. `*`, `?` and `[...]` match "
        "within one component; the last component or the last directory must be fixed text. A list replaces "
        "the default; it does not add to it.", check=checks.watch)


@dataclass(frozen=True, slots=True)
class Probes:
    """What is loaded into the kernel."""

    families: tuple[str, ...] = _key(
        ("process", "file", "network", "privilege"), f"Of {', '.join(f'`{f}`' for f in FAMILIES)}. "
        "`process` is needed. `shell` reports each line typed at a bash prompt, passwords typed there by "
        "mistake too, and is off for that reason.", check=checks.families)


@dataclass(frozen=True, slots=True)
class Engine:
    """The unprivileged rule engine."""

    tick_ms: int = _key(10, "How often the ring is read. Longer costs less and alerts later.", unit="ms",
                        check=checks.between(1, 1000))


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds. Each one that is reached is counted in a metric."""

    ring_kib: int = _key(8192, "Ring buffer of all events but process events; a power of two.", unit="KiB",
                         check=checks.ring)
    process_ring_kib: int = _key(1024, "Ring buffer of process events, apart so that a flood of file events "
                                 "can't push them out; a power of two.", unit="KiB", check=checks.ring)
    kernel_memory_mib: int = _key(32, "Most memory that all our maps together may take; computed before "
                                  f"loading. {MAX_MEMORY_MIB} at most.", unit="MiB",
                                  check=checks.between(4, MAX_MEMORY_MIB))
    processes: int = _key(65536, "Processes, running and recently ended, that the process table holds.",
                          check=checks.between(1024, 4 << 20))
    kernel_cpu: float = _key(1.0, "What all probes together may take of each processor, mean of 30 s. Above it probe "
                             "families are switched off, one by one (docs/safety.md has the order), process events "
                             "never; they come back by themselves. 0: no limit; with `limits.program_ns: 0` nothing is "
                             "measured at all.", unit="%",
                              check=checks.between(0, 100))
    program_ns: int = _key(1000, "Longest mean run time of one probe program that takes a tenth of "
                           "`limits.kernel_cpu` or more, likewise. 0: no limit.", unit="ns",
                           check=checks.between(0, 100_000_000))
    cgroup_events: int = _key(20_000, "Events a second that one control group may cause in one probe family (files; "
                              "names of files; network; privileges). What is more is dropped in the kernel, counted "
                              "and told; process events never. 0: no limit.", check=checks.between(0, 10_000_000))


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. ``Settings()`` is the default."""

    rules: Rules = _key(Rules, Rules.__doc__ or "", section=True)
    content: Content = _key(Content, Content.__doc__ or "", section=True)
    output: Output = _key(Output, Output.__doc__ or "", section=True)
    events: Literal["alerts", "all"] = _key("alerts", "`alerts`, or `all` to write every event as well.")
    metrics: Metrics = _key(Metrics, Metrics.__doc__ or "", section=True)
    watch: Watch = _key(Watch, Watch.__doc__ or "", section=True)
    probes: Probes = _key(Probes, Probes.__doc__ or "", section=True)
    hooks: Mapping[str, str] = _key(
        lambda: MappingProxyType({}), "Event name to the one alternative that may carry it (`sensor doctor` "
        "lists them), or to `off`.", check=checks.hooks)
    engine: Engine = _key(Engine, Engine.__doc__ or "", section=True)
    limits: Limits = _key(Limits, Limits.__doc__ or "", section=True)


# --- reading -----------------------------------------------------------------------------------


def load(path: str | Path | None = None) -> Settings:
    """Settings of a file. None is the default file, which may be absent; any other must exist.

    Raises:
        ContentError: With file and line where there is one.
    """
    if path is None:
        if not Path(DEFAULT_PATH).exists():
            return Settings()
        path = DEFAULT_PATH
    return loads(read_text(str(path)), str(path))


def loads(text: str, path: str = "<settings>") -> Settings:
    """Settings of a text. *path* is for messages. Raises ContentError as :func:`load`."""
    root = parse(text, path)
    settings: Settings = Settings() if root is None else _section(Settings, root, "", path)
    rings = settings.limits.ring_kib + settings.limits.process_ring_kib
    if rings > settings.limits.kernel_memory_mib << 10:
        line = _line_of(root, "limits")
        raise ContentError(path, line, f"the rings take {rings} KiB, more than limits.kernel_memory_mib "
                           f"({settings.limits.kernel_memory_mib} MiB)")
    return settings


def all_keys(cls: type = Settings, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Every key: dotted name, field, type. Sections come before their keys."""
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        name = f"{prefix}{item.name}"
        yield name, item, hints[item.name]
        if item.metadata["section"]:
            yield from all_keys(hints[item.name], f"{name}.")


def _section(cls: type, node: Node, prefix: str, path: str) -> Any:
    """One dataclass from one mapping. An empty section is its default."""
    if node.value == "" and not node.quoted:
        return cls()
    if not isinstance(node.value, dict):
        what = prefix.rstrip(".") or "the file"
        raise ContentError(path, node.line, f"{what} must be a mapping of keys to values")
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for name, (line, child) in node.value.items():
        if name not in fields:
            raise ContentError(path, line, f"unknown key {shown(prefix + name)}", _suggest(prefix + name))
        item, full = fields[name], prefix + name
        if item.metadata["section"]:
            values[name] = _section(hints[name], child, f"{full}.", path)
            continue
        values[name] = _value(hints[name], child, full, path)
        check: Check | None = item.metadata["check"]
        if check and (fault := check(values[name])):
            raise ContentError(path, child.line, f"{full} {fault}")
    return cls(**values)


def _suggest(name: str) -> str:
    """The key that was meant: by spelling, or by the last word in another section."""
    known = [key for key, *_ in all_keys()]
    same = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    close = same or difflib.get_close_matches(name[:64], known, n=1)
    return f"did you mean {close[0]}?" if close else "docs/configuration.md lists the keys"


def _value(hint: Any, node: Node, name: str, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(node.value, list):
            raise ContentError(path, node.line, f"{name} must be a list", "[a, b], or one - item a line")
        return tuple(_value(str, item, f"an item of {name}", path) for item in node.value)
    if origin is Mapping:
        if node.value == "" and not node.quoted:
            return MappingProxyType({})
        if not isinstance(node.value, dict):
            raise ContentError(path, node.line, f"{name} must be a mapping")
        return MappingProxyType({key: _value(args[1], child, f"{name}.{key[:64]}", path)
                                 for key, (_, child) in node.value.items()})
    if not isinstance(node.value, str):
        raise ContentError(path, node.line, f"{name} must be one value, not a list or mapping")
    if node.value == "" and not node.quoted:
        raise ContentError(path, node.line, f"{name} has no value", "leave the key out for its default")
    if origin is Literal:
        if node.value not in args:
            choice = ", ".join(args)
            raise ContentError(path, node.line, f"{name} must be one of {choice}, not {shown(node.value)}")
        return node.value
    if hint is int:
        if node.quoted or not re.fullmatch(r"-?[0-9]{1,18}", node.value):
            raise ContentError(path, node.line, f"{name} must be a whole number, not {shown(node.value)}")
        return int(node.value)
    if hint is float:
        if node.quoted or not re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]{1,9})?", node.value):
            raise ContentError(path, node.line, f"{name} must be a number, not {shown(node.value)}")
        return float(node.value)
    return node.value


def _line_of(root: Node | None, key: str) -> int | None:
    if root is not None and isinstance(root.value, dict) and key in root.value:
        return root.value[key][0]
    return None


def to_mapping(settings: Settings) -> dict[str, Any]:
    """Plain JSON-ready dict of *settings*, every key present."""
    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return dict(value)
        return list(value) if isinstance(value, tuple) else value
    return {item.name: plain(getattr(settings, item.name)) for item in dataclasses.fields(settings)}
