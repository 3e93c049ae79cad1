"""The command line: promised exit statuses, help with examples, errors as one message."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from sensor import __version__, cli, resources, schema
from sensor.errors import HostError
from sensor.outputs.ecs_json import encode
from tests.conftest import ROOT
from tests.unit.output_samples import CONNECT, event

RULE_ID = "5f1f2b1e-6c0e-4f0c-9d1e-2b8a4c7d9e10"
RULE = f"""title: Cat runs
id: {RULE_ID}
status: experimental
description: A program named cat was executed.
level: high
logsource: {{product: linux, category: process_creation}}
detection:
  selection:
    Image|endswith: /cat
  condition: selection
"""


def run(*arguments: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
    """One command in a process of its own, from the checkout."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run([sys.executable, "-m", "sensor", *arguments], capture_output=True, text=True, timeout=60,
                          check=False, env=environ, **keywords)


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "rule.yml"
    path.write_text(RULE)
    return str(path)


@pytest.fixture
def recording(tmp_path: Path) -> str:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"".join(map(encode, [event(1), CONNECT, event(2)])))
    return str(path)


def test_every_command_of_the_table_is_offered_and_has_an_example() -> None:
    """--help of each ends with something to copy."""
    listing = CliRunner().invoke(cli.sensor, ["--help"]).output
    offered = cli.sensor.list_commands(None)  # type: ignore[arg-type]
    assert {"run", "record", "replay", "rules", "doctor", "schema"} <= set(offered)
    for name in offered:
        assert name in listing
        command = cli.sensor.get_command(None, name)  # type: ignore[arg-type]
        below = sorted(command.commands) if isinstance(command, click.Group) else []
        for words in [[name, word] for word in below] or [[name]]:
            page = CliRunner().invoke(cli.sensor, [*words, "--help"])
            assert page.exit_code == 0
            assert re.search(rf"\bsensor {' '.join(words)} ", page.output.partition("Options:")[2]), words


def test_help_imports_no_command() -> None:
    """Start-up is paid per command: neither pySigma nor rich is loaded to list names."""
    code = ("import sys; from sensor import cli; cli.call(['--help']); print([name for name in "
            "('sigma', 'rich', 'pyarrow', 'prometheus_client', 'sensor.daemon') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_is_the_packages() -> None:
    """`sensor --version`, and whether the C extension is used."""
    first, second = run("--version").stdout.splitlines()
    assert first == f"sensor, version {__version__}"
    assert second.startswith(("engine: native", "engine: pure Python ("))


@pytest.mark.parametrize("arguments", [
    ["teleport"], ["replay"], ["replay", "absent.jsonl"], ["replay", "-", "-"], ["schema", "teleport"],
    ["replay", "--input", "sysmon", os.devnull], ["replay", "--format", "xml", os.devnull],
    ["replay", "--rules", "/absent", os.devnull], ["replay", "--expect", "/absent", os.devnull],
    ["run", "--duration", "soon"], ["run", "--metrics", "9923"], ["run", "--events", "some"],
    ["record", "out.csv"], ["record", "/absent/out.jsonl"], ["run", "-c", "/absent.yaml"],
])
def test_bad_usage_ends_with_2_and_one_message(arguments: list[str]) -> None:
    """No traceback, a sentence on stderr."""
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 6
    assert done.stderr


def test_unknown_input_names_those_supported() -> None:
    """Others may come; these are there."""
    assert "auto, sensor, ecs" in run("replay", "--input", "auditd", os.devnull).stderr


def test_broken_rule_stops_a_replay_with_file_and_line(tmp_path: Path, recording: str) -> None:
    """Half of the rules would be half of the alerts."""
    broken = tmp_path / "broken.yml"
    broken.write_text(RULE.replace("Image|endswith", "Imagine|endswith"))
    done = run("replay", recording, "--rules", str(broken))
    assert done.returncode == 2
    assert re.search(r"broken\.yml:\d+: ", done.stderr)


def test_replay_writes_alerts_and_a_summary(rules: str, recording: str) -> None:
    """Alerts on stdout, the summary on stderr with JSON as its last line."""
    done = run("replay", recording, "--rules", rules)
    assert done.returncode == 0, done.stderr
    alerts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [alert["event"]["sequence"] for alert in alerts] == [1, 2]
    assert all(alert["event"]["kind"] == "alert" and alert["rule"]["id"] == RULE_ID for alert in alerts)
    summary = json.loads(done.stderr.splitlines()[-1])
    assert {key: summary[key] for key in ("events", "skipped", "alerts", "by_rule")} == {
        "events": 3, "skipped": {}, "alerts": 2, "by_rule": {RULE_ID: 2}}
    assert set(summary) == {"events", "skipped", "alerts", "by_rule", "seconds", "events_per_second"}
    again = run("replay", recording, "--rules", rules)
    assert again.stdout == done.stdout


def test_summary_format_is_on_stdout(rules: str, recording: str) -> None:
    """Then nothing else is."""
    done = run("replay", recording, recording, "--rules", rules, "--format", "summary")
    assert json.loads(done.stdout.splitlines()[-1])["alerts"] == 4
    assert done.stderr == ""
    assert "Cat runs" in done.stdout


def test_table_format_has_a_row_an_alert(rules: str, recording: str) -> None:
    """For people who pipe it into a pager."""
    done = run("replay", recording, "--rules", rules, "--format", "table")
    assert done.stdout.count("cat[4711]") == 2
    assert "\x1b" not in done.stdout


def test_recording_comes_from_stdin(rules: str, recording: str) -> None:
    """`-` is standard input, whatever is in it."""
    done = run("replay", "-", "--rules", rules, input=Path(recording).read_text() + "garbage\n")
    summary = json.loads(done.stderr.splitlines()[-1])
    assert (summary["events"], summary["skipped"]) == (3, {"json": 1})


def test_expectation_decides_the_exit_status(tmp_path: Path, rules: str, recording: str) -> None:
    """0 where it holds; 1 and a diff where it does not."""
    expected = tmp_path / "expected.yaml"
    expected.write_text(f"{RULE_ID}: {{count: 2, events: [b0-0-1-1, b0-0-1-2]}}\n")
    assert run("replay", recording, "--rules", rules, "--expect", str(expected)).returncode == 0
    expected.write_text(f"{RULE_ID}: 3\n")
    done = run("replay", recording, "--rules", rules, "--expect", str(expected))
    assert done.returncode == 1
    assert f"-{RULE_ID} (Cat runs): 3\n+{RULE_ID} (Cat runs): 2" in done.stderr


def test_reader_that_has_enough_ends_a_replay_quietly(tmp_path: Path, rules: str) -> None:
    """`| head -1`: no traceback, no message, status 0."""
    path = tmp_path / "many.jsonl"
    path.write_bytes(b"".join(encode(event(number)) for number in range(5000)))
    command = f"{sys.executable} -m sensor replay {path} --rules {rules} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[1] == "0"


def test_full_disk_ends_a_replay_with_1(rules: str, recording: str) -> None:
    """A clear message, not a traceback and not a success."""
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "sensor", "replay", recording, "--rules", rules], stdout=full,
                              stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr == "sensor: can't write to stdout: No space left on device\n"


def test_report_is_one_page_that_trusts_nothing(tmp_path: Path, rules: str) -> None:
    """Nothing from elsewhere, no script, every value escaped, the same each time."""
    hostile = event(1)
    hostile["process"]["command_line"] = "cat <script>alert(1)</script> \" onload='x' \x1b[31m\u202e"
    hostile["process"]["parent"]["name"] = "<img src=x onerror=y>"
    hostile["user"]["name"] = "&lt;b&gt;"
    path = tmp_path / "r.jsonl"
    path.write_bytes(encode(hostile) + encode(event(2)) + b"garbage\n")
    pages = []
    for name in ("a.html", "b.html"):
        target = tmp_path / name
        done = run("replay", str(path), "--rules", rules, "--format", "summary", "--report", str(target))
        assert done.returncode == 0, done.stderr
        pages.append(target.read_text())
    page = pages[0]
    assert pages[0] == pages[1]
    for raw in ("<script", "<img", "\x1b", "\u202e", "http:", "https:", "url("):
        assert raw not in page
    assert "&lt;script&gt;" in page
    assert "&amp;lt;b&amp;gt;" in page
    assert "default-src 'none'" in page
    for word in ("<svg", "Cat runs", "nginx", RULE_ID, "json"):
        assert word in page
    assert run("replay", str(path), "--rules", rules, "--report", "/absent/x.html").returncode == 2


def test_default_rules_are_found_in_a_checkout() -> None:
    """Without --rules a replay has rules to run."""
    assert resources.rules_dir() == ROOT / "rules"
    assert resources.probes_dir() == ROOT / "probes"
    assert (resources.shim_dir() / "include").is_dir()


def test_installed_package_brings_its_own_files(tmp_path: Path) -> None:
    """sensor/_data in a wheel; an incomplete installation is said to be one."""
    package = tmp_path / "sensor"
    (package / "_data" / "rules").mkdir(parents=True)
    (tmp_path / "rules").mkdir()  # somebody else's, next to us in site-packages
    assert resources._find("rules", package) == package / "_data" / "rules"
    with pytest.raises(HostError, match="lacks its probes") as caught:
        resources._find("probes", package)
    assert caught.value.exit_status == 3


def test_schema_as_json_is_the_event_table() -> None:
    """For programs: every event and every field."""
    table = json.loads(run("schema", "--json").stdout)
    assert table["abi"] == schema.ABI
    assert [entry["name"] for entry in table["events"]] == [item.name for item in schema.EVENTS]
    exec_fields = next(entry for entry in table["events"] if entry["name"] == "process_exec")["fields"]
    assert [field["key"] for field in exec_fields] == [field.ecs for field in schema.BY_NAME["process_exec"].fields]
    assert len(json.loads(run("schema", "process-exec", "--json").stdout)["events"]) == 1


def test_schema_for_people_names_every_event() -> None:
    """And the fields of one."""
    listing = run("schema").stdout
    assert all(item.name in listing for item in schema.EVENTS)
    assert "process.executable" in run("schema", "process_exec").stdout


def test_progress_bar_is_for_terminals_and_leaves_nothing(rules: str, recording: str) -> None:
    """With stderr a terminal and stdout a pipe, lines on stdout are whole and the bar is gone at the end."""
    leader, follower = pty.openpty()
    done = subprocess.run([sys.executable, "-m", "sensor", "replay", recording, "--rules", rules], cwd=ROOT,
                          stdout=subprocess.PIPE, stderr=follower, check=True)
    os.close(follower)
    text = b""
    while True:
        try:
            text += os.read(leader, 65536)
        except OSError:  # EIO: the last one who had it open is gone
            break
    os.close(leader)
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 2
    assert b"replay" in text
    assert text.rstrip().endswith(b"}")


def test_interrupt_ends_with_130(rules: str) -> None:
    """Ctrl-C is no crash."""
    with subprocess.Popen([sys.executable, "-m", "sensor", "replay", "-", "--rules", rules], cwd=ROOT,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          # A shell's background jobs inherit an ignored one.
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
                          ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(encode(event()))
        process.stdin.flush()
        assert process.stdout.readline(), "an alert of a stream is shown at once"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in error
