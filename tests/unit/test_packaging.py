"""What is shipped: the unit's promises, the install script, the wheel, and what no file may say."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sensor import __version__
from sensor.content.update import HOME
from sensor.engine_child import ENGINE_SILENT_SECONDS
from sensor.errors import HostError, UsageError
from sensor.loading import LOAD_SECONDS
from tests.conftest import ROOT

SYSTEM_PYTHON = "/usr/bin/python3"
SECONDS = {"": 1, "s": 1, "min": 60}


class Unit(configparser.RawConfigParser):
    """A unit file; a key that is given twice keeps its values in a list, one a line."""

    optionxform = staticmethod(str)

    def __init__(self, name):
        super().__init__(strict=False, interpolation=None, empty_lines_in_values=False)
        text = (ROOT / "systemd" / name).read_text()
        seen: dict[str, str] = {}
        lines = []
        for line in text.splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#") and key in seen:
                lines[seen[key]] += f"\n {value}"
            else:
                if equals:
                    seen[key] = len(lines)
                lines.append(line)
        self.read_string("\n".join(lines))

    def seconds(self, section, key):
        number, unit = re.fullmatch(r"(\d+)(\w*)", self[section][key]).groups()
        return int(number) * SECONDS[unit]


@pytest.mark.contract("panic-8d")
@pytest.mark.hostile("restart")
def test_start_limit_bites_however_slowly_the_unit_fails():
    """The window holds the burst even when each start takes every timeout there is, so no crash loop is endless."""
    unit = Unit("sensor.service")
    slowest = sum(unit.seconds("Service", key)
                  for key in ("TimeoutStartSec", "WatchdogSec", "TimeoutStopSec", "RestartSec"))
    assert unit.seconds("Unit", "StartLimitIntervalSec") > slowest * int(unit["Unit"]["StartLimitBurst"])


def test_start_takes_as_long_as_its_parts_may():
    """A load that is cut at its limit still gets to run with what was loaded: systemd must not be first."""
    start = Unit("sensor.service").seconds("Service", "TimeoutStartSec")
    assert start > ENGINE_SILENT_SECONDS * 2 + LOAD_SECONDS + ENGINE_SILENT_SECONDS


@pytest.mark.contract("panic-8d")
def test_unit_does_not_retry_what_trying_again_cannot_change():
    """Wrong settings (2) and a host that lacks something (3) end for good; those are our statuses."""
    unit = Unit("sensor.service")
    assert unit["Service"]["RestartPreventExitStatus"].split() == [
        str(UsageError.exit_status), str(HostError.exit_status)]


@pytest.mark.parametrize("name", ["sensor.service", "sensor.socket"])
@pytest.mark.contract("panic-8c")
def test_both_switches_stop_service_and_socket(name):
    """A file and a word on the kernel's command line keep either from starting."""
    unit = Unit(name)
    assert unit["Unit"]["ConditionPathExists"] == "!/etc/sensor/disable"
    assert unit["Unit"]["ConditionKernelCommandLine"] == "!sensor=0"


@pytest.mark.parametrize("name", ["sensor-update.service", "sensor-stage.service"])
def test_switches_stop_the_fetching_of_rules_too(name):
    """Both of the sensor's, and the one for content alone."""
    unit = Unit(name)
    assert unit["Unit"]["ConditionPathExists"].split() == ["!/etc/sensor/disable", "!/etc/sensor/content.disable"]
    assert unit["Unit"]["ConditionKernelCommandLine"] == "!sensor=0"


def test_who_fetches_rules_has_the_network_and_no_right_and_who_stages_them_the_reverse():
    """Neither can do the other's part."""
    fetching, staging = Unit("sensor-update.service")["Service"], Unit("sensor-stage.service")["Service"]
    assert (fetching["DynamicUser"], fetching["CapabilityBoundingSet"]) == ("yes", "")
    assert "PrivateNetwork" not in fetching
    assert (staging["PrivateNetwork"], staging["RestrictAddressFamilies"]) == ("yes", "AF_UNIX")
    assert f" {HOME}" in f" /var/lib/{fetching['StateDirectory']}"
    for service in (fetching, staging):
        for key in ("MemoryMax", "CPUQuota", "TasksMax", "TimeoutStartSec", "SystemCallFilter"):
            assert service[key]


@pytest.mark.contract("panic-1a")
def test_unit_bounds_what_the_sensor_may_take_and_may_do():
    """Memory, processor, tasks, capabilities and network are limited."""
    service = Unit("sensor.service")["Service"]
    for key in ("MemoryMax", "CPUQuota", "TasksMax", "WatchdogSec", "SystemCallFilter"):
        assert service[key]
    assert set(service["CapabilityBoundingSet"].split()) == {
        "CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE", "CAP_SETUID",
        "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL"}
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    assert service["PrivateNetwork"] == "yes"
    assert service["ProtectKernelModules"] == "yes"
    assert service["OOMPolicy"] == "continue"


def test_journal_drops_no_alerts_of_a_flood():
    """Its rate limit would be a loss that no counter of ours can see."""
    assert Unit("sensor.service").seconds("Service", "LogRateLimitIntervalSec") == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_unit_scores_at_most_2_5():
    """systemd's own judgement of the sandbox."""
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", ROOT / "systemd/sensor.service"],
                          capture_output=True, text=True, check=False)
    if done.returncode and "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze can't judge a file (--offline came with systemd 250)")
    score = re.search(r"Overall exposure level for sensor.service: ([\d.]+)", done.stdout)
    assert score, done.stderr
    assert float(score[1]) <= 2.5


def test_socket_listens_where_the_settings_say_by_default():
    """Two files name the port; they must agree."""
    from sensor.config import Settings

    assert Unit("sensor.socket")["Socket"]["ListenStream"] == Settings().metrics.listen


def test_bcc_of_the_package_index_is_never_a_dependency():
    """That project is another one; a distribution's package is named instead."""
    text = (ROOT / "pyproject.toml").read_text()
    needed = text[text.index("\ndependencies = ["):text.index("[project.scripts]")]
    assert "click" in needed
    assert "pytest" in needed
    assert not re.search(r'"\s*bcc\b', needed)
    assert "python3-bpfcc" in (ROOT / "tools/setup").read_text()


@pytest.mark.parametrize("name", ["tools/setup", "tools/install", "tools/generate", ".ci/run"])
def test_scripts_parse_stop_at_errors_and_are_executable(name):
    """Each is strict and can be started."""
    path = ROOT / name
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("target", ["run", "test", "setup", "replay", "bench", "install", "uninstall", "lint",
                                    "test-unit", "test-live", "test-vm", "generate"])
def test_every_promised_make_target_exists(target):
    """make -n knows each of them."""
    subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=True)


def test_ci_runs_the_command_that_the_readme_names():
    """One way to run the tests, for people and machines."""
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("exec make test")
    assert "sudo make test" in (ROOT / "README.md").read_text()


def committed():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def test_no_file_names_a_place_outside_the_project():
    """Nothing committed depends on, or speaks of, the machine it was written on."""
    outside = re.compile(rb"(?<![\w.])/work/(?:main|shared)|\.\./shared|/root/\.pyenv|\bpypi-more\b")
    assert [str(path) for path in committed()
            if path.is_file() and path.name != Path(__file__).name and outside.search(path.read_bytes())] == []


def test_no_file_is_huge_by_mistake():
    """A core dump or a recording gone wild is caught before it is in every clone."""
    assert [str(path) for path in committed() if path.is_file() and path.stat().st_size > 5 << 20] == []


def test_setup_a_second_time_does_nothing(tmp_path):
    """With everything there it neither installs nor asks for root."""
    done = subprocess.run(["tools/setup", "test"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    again = subprocess.run(["tools/setup", "test"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    assert again.stderr == ""


def test_setup_refuses_an_unknown_level():
    """A typing mistake is told, not taken for the default."""
    done = subprocess.run(["tools/setup", "everything"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.parametrize("arguments", [["install", "/nonexistent", "relative"], ["install", "/nonexistent", "/opt"],
                                       ["remove"], []])
def test_install_refuses_what_it_does_not_understand(arguments):
    """A prefix that could be / or /opt is never removed."""
    done = subprocess.run(["tools/install", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2


# --- slow: real builds, from the package index ---------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, as pip builds it."""
    place = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
                    "--wheel-dir", place, ROOT], check=True)
    (path,) = place.glob("sensor-*.whl")
    return path


@pytest.mark.slow
def test_wheel_holds_probes_shim_headers_and_rules(wheel):
    """What the loader and the engine read at run time travels with the code."""
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, suffix, inside in (("probes", "*.[ch]", "sensor/_data/probes"),
                                   ("rules", "*.yml", "sensor/_data/rules"),
                                   ("sensor/kernel/shim", "*.h", "sensor/kernel/shim")):
        files = [path for path in (ROOT / folder).rglob(suffix) if path.is_file()]
        assert files, folder
        assert {f"{inside}/{path.relative_to(ROOT / folder)}" for path in files} <= names
    assert not [name for name in names if name.startswith(("tests/", "tools/")) or name.endswith(".pyc")]


@pytest.mark.slow
def test_installed_wheel_replays_without_root_bcc_or_checkout(wheel, tmp_path):
    """A clean environment that can't see BCC runs the rules over a recording, as an unprivileged user."""
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel], check=True)
    absent = subprocess.run([python, "-c", "import bcc"], capture_output=True, check=False, cwd=tmp_path)
    assert absent.returncode
    recording = tmp_path / "one.jsonl"
    recording.write_text(json.dumps({
        "@timestamp": "2026-01-01T00:00:00.000000000Z",
        "event": {"id": "a", "kind": "event", "category": ["process"], "type": ["start"], "action": "process-exec"},
        "process": {"pid": 7, "executable": "/usr/bin/true", "command_line": "true", "args": ["true"]}}) + "\n")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    done = subprocess.run([*user, tmp_path / "venv/bin/sensor", "replay", recording, "--format", "summary"],
                          capture_output=True, text=True, check=False, cwd="/", env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    assert summary["events"] == 1
    version = subprocess.run([tmp_path / "venv/bin/sensor", "--version"], capture_output=True, text=True, check=True)
    assert __version__ in version.stdout


@pytest.mark.slow
def test_uninstall_leaves_nothing_but_what_somebody_changed(tmp_path):
    """Install into a staged root, run from it, remove it; then again with an edited settings file."""
    def install(action, **environ):
        subprocess.run(["tools/install", action, tmp_path], cwd=ROOT, check=True, capture_output=True,
                       env=dict(os.environ, **environ))

    def files():
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")
                      if path.is_symlink() or not path.is_dir())

    install("install")
    there = files()
    for name in ("usr/local/bin/sensor", "usr/lib/systemd/system/sensor.service", "usr/lib/sysusers.d/sensor.conf",
                 "usr/lib/systemd/system/sensor.socket", "usr/lib/tmpfiles.d/sensor.conf",
                 "etc/sensor/sensor.yaml", "usr/share/sensor/rules", "opt/sensor/bin/sensor"):
        assert name in there
    text = (tmp_path / "opt/sensor/bin/sensor").read_text()
    assert text.startswith("#!/opt/sensor/bin/python")
    rules = tmp_path / os.readlink(tmp_path / "usr/share/sensor/rules").lstrip("/")
    assert list(rules.rglob("*.yml"))
    install("uninstall")
    assert files() == []

    install("install")
    edited = tmp_path / "etc/sensor/sensor.yaml"
    edited.write_text("user: probe\n")
    install("install")
    assert edited.read_text() == "user: probe\n"
    install("uninstall")
    assert files() == ["etc/sensor/sensor.yaml"]
    install("uninstall", PURGE="1")
    assert files() == []
