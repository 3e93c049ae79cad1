"""The shipped recordings: real runs of one script on two kernels, replayed with the default rules."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/examples/intrusion.jsonl.zst"
OLD_KERNEL = ROOT / "tests/recordings/intrusion-5.10.jsonl.zst"
EXPECTED = ROOT / "docs/examples/intrusion.expect.yaml"


def replay(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a user does."""
    return subprocess.run([sys.executable, "-m", "sensor", "replay", *map(str, arguments)], capture_output=True,
                          cwd=ROOT, check=False)


@pytest.mark.parametrize("recording", [EXAMPLE, OLD_KERNEL], ids=["6.12", "5.10"])
def test_recording_raises_the_expected_alerts_on_either_kernel(recording: Path) -> None:
    """The same intrusion is the same alerts, whatever hooks carried the events."""
    done = replay(recording, "--expect", EXPECTED, "--format", "summary")
    assert done.returncode == 0, done.stderr.decode()


def test_a_missing_alert_is_a_failed_expectation(tmp_path: Path) -> None:
    """The expectation can fail: one alert more than there is gives status 1 and names the rule."""
    _, _, rest = EXPECTED.read_text().partition("\n0")
    wrong = tmp_path / "wrong.yaml"
    rule = rest.partition(":")[0]
    wrong.write_text(EXPECTED.read_text().replace(f"0{rule}: 1", f"0{rule}: 9"))
    done = replay(EXAMPLE, "--expect", wrong, "--format", "summary")
    assert done.returncode == 1
    assert f"0{rule}".encode() in done.stderr + done.stdout


def test_replay_is_deterministic() -> None:
    """Two replays give the same bytes."""
    assert replay(EXAMPLE, "--format", "jsonl").stdout == replay(EXAMPLE, "--format", "jsonl").stdout


def test_every_alert_names_process_parent_and_user() -> None:
    """An alert that says neither who nor from where helps nobody."""
    alerts = [json.loads(line) for line in replay(EXAMPLE, "--format", "jsonl").stdout.splitlines()]
    assert Counter(alert["event"]["kind"] for alert in alerts) == {"alert": len(alerts)}
    assert alerts
    for alert in alerts:
        assert alert["process"]["executable"].startswith("/")
        assert alert["process"]["parent"]["pid"] > 0
        assert alert["user"]["name"] == "root"
