"""sensor content: make, sign, check and publish releases of rules."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sensor.cli.common import example
from sensor.errors import UsageError
from sensor.outputs.terminal import terminal_safe

if TYPE_CHECKING:
    from sensor.config import Settings
    from sensor.content.state import State

_DAYS = 90  # until a release expires, unless said otherwise

settings_option = click.option("-c", "--config", metavar="FILE", help="Settings; default /etc/sensor/sensor.yaml.")
store_option = click.option("--store", metavar="DIRECTORY", help="Where releases are kept; default "
                            "/var/lib/sensor/content.")


def settings_of(path: str | None) -> Settings:
    """Settings of a file, or of the default file. Raises ContentError."""
    from sensor import config

    return config.load(path)


def place_of(store: str | None) -> str:
    """The store that is meant."""
    from sensor.content.state import default_store

    return os.path.abspath(store) if store else default_store()


def say(text: str) -> None:
    """One line on stdout; what releases say can't do anything to a terminal."""
    click.echo(terminal_safe(text))


@click.group("content")
def command() -> None:
    """Make, sign, check and publish releases of rules."""


@command.command(epilog=example("sensor content keygen release.key"))
@click.argument("file", metavar="FILE")
def keygen(file: str) -> int:
    """Make a signing key: the private part into FILE, the public part on stdout, for content.keys."""
    from sensor.content import signing

    pem, public = signing.generate()
    _create(file, pem, 0o600)
    click.echo(public)
    click.echo(f"key {signing.key_id(public)}; keep {terminal_safe(file)} off the hosts that it is for", err=True)
    return 0


@command.command(epilog=example(
    "sensor content pack ./release release-8.tar.zst --version 8",
    "sensor content pack ./release release-8.tar.zst --version 8 --expires 2027-06-30 --revoke $BAD",
    "sensor content pack ./empty revocation.tar.zst --version 9 --revoke $BAD"))
@click.argument("directory", metavar="DIRECTORY")
@click.argument("out", metavar="OUT.tar.zst")
@click.option("--version", type=click.IntRange(min=1), required=True, help="Higher than of any release before.")
@click.option("--name", default="rules", show_default=True, help="One word.")
@click.option("--expires", metavar="DATE", help="When hosts begin to ask for a newer one: 2027-01-31. Default: in "
              f"{_DAYS} days.")
@click.option("--revoke", multiple=True, metavar="ID", help="Id of a release that must not run any more; may be "
              "repeated. With an empty DIRECTORY nothing else is in it.")
def pack(directory: str, out: str, version: int, name: str, expires: str | None, revoke: tuple[str, ...]) -> int:
    """Make a release of DIRECTORY: rules/ with samples, lists/NAME.txt, golden/RECORDING.jsonl.zst.

    The same files give the same archive. It is not signed yet.
    """
    from sensor.content import archive, manifest, pack

    try:
        until = manifest.parse_time(expires) if expires else int(time.time()) // 86_400 * 86_400 + _DAYS * 86_400
    except ValueError:
        raise UsageError(f"--expires {expires!r} is no date like 2027-01-31") from None
    files = pack.make(directory, name, version, until, revoke)
    _replace(out, archive.write(files))
    say(f"{out}: version {version}, {len(files) - 1} files, expires {manifest.time_text(until)}")
    say(f"id {manifest.release_id(files[manifest.NAME])}")
    return 0


@command.command(epilog=example("sensor content sign release-8.tar.zst --key release.key"))
@click.argument("release", metavar="RELEASE.tar.zst")
@click.option("--key", required=True, metavar="FILE", help="Private key, of sensor content keygen.")
def sign(release: str, key: str) -> int:
    """Add a signature to RELEASE, in place. Each of several keepers of keys does it in turn."""
    from sensor.content import pack

    _replace(release, pack.signed(release, key))
    return 0


@command.command(epilog=example("sensor content verify release-8.tar.zst",
                                "sensor content verify --json release-8.tar.zst | jq .report.event_us"))
@click.argument("release", metavar="RELEASE")
@settings_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def verify(release: str, config: str | None, as_json: bool) -> int:
    """Everything that is done before RELEASE may run: signatures, syntax, rules, samples, golden recording.

    Exit status 2 and the reasons where it may not.
    """
    import shutil
    import tempfile

    from sensor.content import manifest, state, store

    settings = settings_of(config)
    opened = store.open_release(release, settings.content)
    report: dict[str, Any] = {}
    if opened.manifest.kind == manifest.RELEASE:
        place = tempfile.mkdtemp(prefix="sensor-content-")
        try:
            os.mkdir(os.path.join(place, state.RELEASES))
            report = store.check(store.write(place, opened), release, settings.content, settings.rules.placeholders)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    expired = opened.manifest.expires <= time.time()
    if as_json:
        click.echo(json.dumps({"id": opened.id, **opened.facts(), "kind": opened.manifest.kind, "expired": expired,
                               "revokes": list(opened.manifest.revokes), "report": report}))
        return 0
    signed = ", ".join(opened.signers) or "nobody; its path is trusted"
    say(f"{release}: {opened.manifest.kind} {opened.manifest.name} {opened.manifest.version}, signed by {signed}")
    say(f"id {opened.id}")
    say(f"{'expired' if expired else 'expires'} {manifest.time_text(opened.manifest.expires)}")
    say(report_line(report) if report else f"revokes {len(opened.manifest.revokes)} releases")
    return 0


def report_line(report: dict[str, Any]) -> str:
    """The report of a check for people."""
    return (f"{report['rules']} rules ({report['unsupported']} for other sensors), {report['samples']} samples passed "
            f"({report['without_samples']} files without), golden recording: {report['events']} events, "
            f"{report['alerts']} alerts, {report['event_us']} µs an event")


@command.command(epilog=example(
    "sensor content publish /srv/www/sensor --key online.key --root-key root.key --add release-8.tar.zst --ring canary",
    "sensor content publish /srv/www/sensor --key online.key"))
@click.argument("directory", metavar="DIRECTORY")
@click.option("--key", required=True, metavar="FILE", help="Key that signs publications, of sensor content keygen.")
@click.option("--root-key", metavar="FILE", help="Key that hosts trust: for the first publication, once a year, and to "
              "change --key.")
@click.option("--add", metavar="RELEASE", help="Signed release to publish. Without one, the expiry is renewed.")
@click.option("--ring", default="stable", show_default=True, metavar="NAME", help="For hosts with this content.ring.")
@click.option("--revocation", is_flag=True, help="RELEASE only revokes; it is offered beside the ring's release.")
@click.option("--hours", default=48, show_default=True, type=click.IntRange(1, 24 * 365),
              help="Hosts raise the alarm when nothing was published for so long.")
def publish(directory: str, key: str, root_key: str | None, add: str | None, ring: str, revocation: bool,
            hours: int) -> int:
    """Write DIRECTORY as a repository of The Update Framework, for any static web server.

    Hosts need a copy of its metadata/1.root.json (content.root) and its URL (content.repository).
    """
    from sensor.config_checks import ring_name
    from sensor.content import publish, update

    if fault := ring_name(ring):
        raise UsageError(f"--ring {ring!r} {fault}")
    name = f"{ring}/{update.REVOCATION if revocation else update.RELEASE}"
    made = publish.publish(directory, publish.Order(key, root_key, {name: add} if add else {}, hours))
    say(", ".join(f"{role} {version}" for role, version in made.items()))
    return 0


@command.command(epilog=example("sensor content update -c /etc/sensor/sensor.yaml --home /var/lib/sensor-update"))
@settings_option
@click.option("--home", metavar="DIRECTORY", help="Where it keeps its files; default /var/lib/sensor-update.")
def update(config: str | None, home: str | None) -> int:
    """Fetch what content.repository has for content.ring. Nothing is staged: see sensor rules stage --fetched."""
    from sensor.content import update

    taken = update.update(settings_of(config).content, home or default_home())
    for path in taken:
        say(path)
    if not taken:
        click.echo("nothing new", err=True)
    return 0


def default_home() -> str:
    """Where the updater keeps its files."""
    from sensor.content import update

    return os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or update.HOME


@command.command(epilog=example("sensor content show", "sensor content show --json | jq .current"))
@store_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def show(store: str | None, as_json: bool) -> int:
    """Which release runs, which is on trial, which are never tried again."""
    from dataclasses import asdict

    from sensor.content import state

    current = state.read(place_of(store))
    if as_json:
        click.echo(json.dumps(asdict(current)))
        return 0
    for line in _shown(current):
        say(line)
    return 0


def _shown(current: State) -> Sequence[str]:
    def named(release: str) -> str:
        facts = current.releases.get(release, {})
        return f"{release[:12]} {facts.get('name', '')} {facts.get('version', '')}"

    lines = [f"running     {named(current.running) if current.running else 'built-in rules'}"]
    if current.trial:
        lines.append(f"on trial    {named(current.trial)}, stage {current.label}")
    lines += [f"known good  {named(each)}" for each in reversed(current.good)]
    lines += [f"never again {each[:12]} {reason}" for each, reason in current.bad.items()]
    return lines


def _create(path: str, data: bytes, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:
            file.write(data)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _replace(path: str, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = Path(f"{path}.new")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"{path}: {error.strerror}") from error
