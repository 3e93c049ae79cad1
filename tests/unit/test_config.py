"""Settings: defaults, places of errors, hostile files, and the documents made from them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import config, config_checks, schema
from sensor.config import Settings, all_keys, load, loads, to_mapping
from sensor.errors import ContentError
from sensor.safe_yaml import MAX_BYTES, parse, read_descriptor
from sensor.watch import WatchList
from tests.conftest import ROOT
from tools import settings_docs


def refusal(text: str) -> ContentError:
    with pytest.raises(ContentError) as caught:
        loads(text, "f.yaml")
    return caught.value


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "rules:\n", "rules: {}\nhooks:\nlimits:\n"])
def test_file_that_says_nothing_is_the_default(text):
    """Absent keys and empty sections take their defaults."""
    assert loads(text) == Settings()


def test_every_key_can_be_set():
    """Each key, given a legal value that is not its default, arrives where it belongs."""
    text = """
rules:
  paths: [/srv/rules, default]
  placeholders: {admins: [ann, bob]}
  pipelines: [/srv/pipeline.yml]
  watch_seconds: 30
  budget_cpu_percent: 5
  budget_alerts: 600
content:
  keys: ['ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=']
  threshold: 2
  trusted: [/srv/content]
  hold: 60
  alert_factor: 3
  event_us: 50
  check_seconds: 5
  repository: https://updates.example/sensor
  ring: canary
  root: /srv/root.json
output: {spec: /var/log/sensor.jsonl}
events: all
metrics: {listen: '[::1]:9'}
watch:
  paths:
  - /srv/*/secret
probes: {families: [process, shell]}
hooks: {network_connect: kprobe, mount: off}
engine: {tick_ms: 25}
limits: {ring_kib: 64, process_ring_kib: 32, kernel_memory_mib: 4, processes: 2048, kernel_cpu: 0.25, program_ns: 0,
  cgroup_events: 500}
"""
    got = to_mapping(loads(text))
    default = to_mapping(Settings())
    for name, item, _ in all_keys():
        if not item.metadata["section"]:
            section, _, key = name.rpartition(".")
            mine, usual = (got[section], default[section]) if section else (got, default)
            assert mine[key] != usual[key], name
    assert got["hooks"] == {"network_connect": "kprobe", "mount": "off"}
    assert got["limits"]["ring_kib"] == 64
    assert got["limits"]["kernel_cpu"] == 0.25
    assert got["watch"]["paths"] == ["/srv/*/secret"]
    assert loads(text).rules.placeholders == {"admins": ("ann", "bob")}


@pytest.mark.parametrize(("text", "line", "words"), [
    ("\nenginee:\n  tick_ms: 3\n", 2, ["unknown key 'enginee'", "did you mean engine?"]),
    ("engine:\n  tick: 3\n", 2, ["unknown key 'engine.tick'", "did you mean engine.tick_ms?"]),
    ("tick_ms: 3\n", 1, ["unknown key 'tick_ms'", "did you mean engine.tick_ms?"]),
    ("xyzzy: 3\n", 1, ["unknown key 'xyzzy'", "docs/configuration.md"]),
    ("engine:\n\n  tick_ms: ten\n", 3, ["engine.tick_ms must be a whole number, not 'ten'"]),
    ("engine:\n  tick_ms: '10'\n", 2, ["must be a whole number"]),
    ("engine:\n  tick_ms: 1e3\n", 2, ["must be a whole number"]),
    ("engine:\n  tick_ms: 0x10\n", 2, ["must be a whole number"]),
    ("engine:\n  tick_ms: 0\n", 2, ["from 1 to 1000"]),
    ("engine:\n  tick_ms: [1]\n", 2, ["one value"]),
    ("engine: 3\n", 1, ["engine must be a mapping"]),
    ("limits:\n  kernel_cpu: 1e1\n", 2, ["limits.kernel_cpu must be a number, not '1e1'"]),
    ("limits:\n  kernel_cpu: .5\n", 2, ["must be a number"]),
    ("limits:\n  kernel_cpu: 100.5\n", 2, ["from 0 to 100"]),
    ("- engine\n", 1, ["the file must be a mapping"]),
    ("events: some\n", 1, ["one of alerts, all, not 'some'"]),
    ("events:\n", 1, ["has no value"]),
    ("metrics: {listen: 9923}\n", 1, ["metrics.listen must name an IP address"]),
    ("metrics: {listen: '::1:9923'}\n", 1, ["brackets"]),
    ("metrics: {listen: '127.0.0.1:99999'}\n", 1, ["ADDRESS:PORT"]),
    ("watch:\n  paths: /etc/shadow\n", 2, ["must be a list"]),
    ("watch:\n  paths:\n  - [a]\n", 3, ["an item of watch.paths must be one value"]),
    ("watch: {paths: ['/home/*/*']}\n", 1, ["/home/*/*", "fixed"]),
    (f"watch: {{paths: ['/{'a' * 255}']}}\n", 1, ["longer than 255 bytes"]),
    ("probes: {families: [file]}\n", 1, ["must have process"]),
    ("probes: {families: [process, netwrok]}\n", 1, ["did you mean network?"]),
    ("hooks:\n  file_opn: syscall\n", 2, ["file_opn", "did you mean file_open?"]),
    ("hooks:\n  file_open: magic\n", 2, ["file_open is 'magic'", "one of ", "syscall", ", off"]),
    ("hooks:\n  process_exec: off\n", 2, ["process_exec off"]),
    ("hooks:\n  sensor_loss: off\n", 2, ["sensor_loss"]),
    ("limits: {ring_kib: 3000}\n", 1, ["power of two"]),
    ("limits: {kernel_memory_mib: 65}\n", 1, ["from 4 to 64"]),
    ("\nlimits:\n  ring_kib: 32768\n", 2, ["33792 KiB", "kernel_memory_mib"]),
    ("rules: {paths: [rules.d]}\n", 1, ["'rules.d'", "default"]),
    ("output: {spec: syslog}\n", 1, ["output.spec must be"]),
])
def test_wrong_setting_is_refused_with_its_line(text, line, words):
    """The message names file, line, key and what would be right."""
    error = refusal(text)
    assert error.line == line
    assert str(error).startswith(f"f.yaml:{line}: ")
    assert error.exit_status == 2
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize(("text", "word"), [
    ("[" * 50_000, "nested deeper"),
    ("{" * 50_000, "nested deeper"),
    ("- " * 50_000, "nested deeper"),
    ("- a\n" * 30_000, "more than 20000"),
    ("a: &a [x, x]\nb: [*a, *a]\n", "aliases"),
    ("events: *x\n", "aliases"),
    ("events: !!python/object/apply:os.system [id]\n", "tags"),
    ("events: " + "!" * 50_000, "tags"),
    ("events: all\nevents: alerts\n", "stands twice, first in line 1"),
    ("events: all\n---\nevents: all\n", "second document"),
    ("? [a]\n: b\n", "key must be text"),
    ("<<: {events: all}\n", "unknown key '<<'"),
    ("events: [all\n", "no YAML"),
    ("events:\n\t- a\n", "no YAML"),
    ("events: a\0b\n", "not allowed"),
    ('"\\e[2Jx": 1\n', "'\\x1b[2Jx'"),
    ("a" * (MAX_BYTES + 1), "is larger"),
])
@pytest.mark.contract("content-7b")
@pytest.mark.hostile("huge-settings")
def test_hostile_yaml_is_refused_at_once_with_a_short_clean_message(text, word):
    """Depth, aliases, tags, duplicates and garbage end in one printable line, not a crash or a long wait."""
    began = time.process_time()
    error = refusal(text)
    assert word in str(error)
    assert len(str(error)) < 400
    assert str(error).isprintable()
    assert time.process_time() - began < 5


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=200))
def test_any_text_is_either_settings_or_a_content_error(text):
    """No input raises anything else."""
    try:
        assert isinstance(loads(text), Settings)
    except ContentError as error:
        assert str(error)


@given(st.text(alphabet="[]{}-:?,&*!|>'\"%@`# \n\tab0", max_size=80))
def test_any_yaml_punctuation_is_either_settings_or_a_content_error(text):
    """No arrangement of YAML's own characters raises anything else."""
    try:
        parse(text, "f")
        loads(text)
    except ContentError as error:
        assert str(error)


@pytest.mark.parametrize("word", ["off", "no", "1_0", "0o7", "~", "null", "2001-01-01"])
def test_a_word_stays_a_word_where_text_belongs(word):
    """YAML 1.1's conversions of off, ~, dates and the like never touch a text."""
    assert loads(f"output: {{spec: /srv/{word}}}\nhooks: {{mount: off}}\n").output.spec == f"/srv/{word}"
    assert loads("metrics: {listen: off}\n").metrics.listen == "off"


def test_missing_default_file_is_the_default_and_missing_named_file_is_an_error(tmp_path, monkeypatch):
    """Only /etc/sensor/sensor.yaml may be absent."""
    monkeypatch.setattr(config, "DEFAULT_PATH", str(tmp_path / "absent.yaml"))
    assert load() == Settings()
    with pytest.raises(ContentError, match="No such file"):
        load(tmp_path / "absent.yaml")


def test_file_is_read_and_its_path_is_in_the_message(tmp_path):
    """load() reads what it is given and names it."""
    path = tmp_path / "s.yaml"
    path.write_text("events: all\n")
    assert load(path).events == "all"
    path.write_text("events: all\nevent: x\n")
    with pytest.raises(ContentError, match=rf"{path}:2: unknown key 'event' \(did you mean events\?\)"):
        load(path)


def test_bytes_that_are_no_utf8_are_refused_with_their_line(tmp_path):
    """A Latin-1 file says which byte in which line."""
    path = tmp_path / "s.yaml"
    path.write_bytes(b"# ok\nevents: h\xe9\n")
    with pytest.raises(ContentError, match=r"s.yaml:2: byte 0xe9 is no UTF-8"):
        load(path)


def test_descriptor_is_read_from_its_beginning_each_time(tmp_path):
    """A process without the right to open the file reads what root has opened, also after a reload."""
    path = tmp_path / "s.yaml"
    path.write_text("events: all\n")
    fd = os.open(path, os.O_RDONLY)
    try:
        assert read_descriptor(fd, "s.yaml") == "events: all\n"
        path.write_text("events: alerts\n")
        assert loads(read_descriptor(fd, "s.yaml")).events == "alerts"
    finally:
        os.close(fd)


@pytest.mark.hostile("odd-files")
def test_fifo_directory_and_endless_device_are_refused_without_waiting(tmp_path):
    """Opening must not hang, and /dev/zero must not fill memory."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(ContentError, match=r"regular file|directory"):
            load(path)


@pytest.mark.hostile("huge-settings")
def test_file_over_the_limit_is_refused(tmp_path):
    """One byte more than 1 MiB is too much, even of comments."""
    path = tmp_path / "s.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ContentError, match="is larger than 1048576 bytes"):
        load(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root refuses it")
def test_root_refuses_a_file_that_everybody_can_write(tmp_path):
    """Whoever could edit it would command root."""
    path = tmp_path / "s.yaml"
    path.write_text("events: all\n")
    path.chmod(0o666)
    with pytest.raises(ContentError, match="writable by everybody"):
        load(path)


def test_settings_are_frozen_all_the_way_down():
    """Nobody can change a setting after the start."""
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.limits.ring_kib = 1
    with pytest.raises(TypeError):
        settings.hooks["x"] = "y"


def test_default_passes_its_own_checks():
    """What is documented as the default is accepted when it is written down."""
    for name, item, _ in all_keys():
        if check := item.metadata["check"]:
            value = Settings()
            for part in name.split("."):
                value = getattr(value, part)
            assert check(value) is None, name


def test_default_watch_list_covers_what_attackers_read_and_leaves_out_the_rest():
    """Secrets match, ordinary files don't."""
    watched = WatchList(Settings().watch.paths)
    for path in ("/etc/shadow", "/root/.ssh/id_ed25519", "/home/ann/.ssh/id_rsa", "/etc/ssh/ssh_host_rsa_key",
                 "/home/ann/.aws/credentials", "/proc/1/mem", "/etc/sudoers.d/ops",
                 "/run/secrets/kubernetes.io/serviceaccount/token", "/home/ann/.docker/config.json"):
        assert watched.matches(path), path
    for path in ("/etc/passwd", "/etc/ssh/ssh_config", "/home/ann/ssh/id_rsa", "/proc/1/maps", "/bin/cat"):
        assert not watched.matches(path), path


def test_every_family_of_the_event_table_can_be_switched():
    """A probe family without a setting could not be turned off."""
    assert set(config_checks.FAMILIES) == {event.family for event in schema.EVENTS} - {"user"}


def test_every_key_says_what_it_means():
    """A key without a sentence is not done."""
    for name, item, _ in all_keys():
        assert item.metadata["doc"].endswith("."), name


def test_reference_and_example_are_what_the_generator_writes():
    """docs/configuration.md and systemd/sensor.yaml are regenerated and compared."""
    assert (ROOT / "docs/configuration.md").read_text() == settings_docs.reference()
    assert (ROOT / "systemd/sensor.yaml").read_text() == settings_docs.example()


def test_example_is_the_default_both_commented_out_and_not():
    """The shipped file changes nothing, and each line in it is right when its # is removed."""
    text = (ROOT / "systemd/sensor.yaml").read_text()
    assert loads(text) == Settings()
    opened = "\n".join(line[1:] for line in text.splitlines() if line.startswith("#") and line[:2] != "##")
    assert loads(opened) == Settings()
    named = {key for key, *_ in all_keys()}
    assert all(any(line.strip().startswith(f"{key.rpartition('.')[2]}:") for line in opened.splitlines())
               for key in named)


def test_reading_settings_loads_no_other_part_of_the_sensor():
    """The settings' reader may run confined; it must not drag in BCC, pySigma or the outputs."""
    code = ("import sys, sensor.config; "
            "print(*sorted(m for m in sys.modules if m.startswith(('sensor', 'bcc', 'sigma'))))")
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["sensor", "sensor.config", "sensor.config_checks", "sensor.errors", "sensor.kernel",
                                  "sensor.kernel.hooks", "sensor.safe_yaml", "sensor.schema", "sensor.watch"]
