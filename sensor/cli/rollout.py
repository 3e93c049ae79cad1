"""sensor rules stage, promote, rollback: the rollout of a content release. They need no running sensor."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from sensor.cli.common import example
from sensor.cli.content import place_of, report_line, say, settings_of, settings_option, store_option
from sensor.errors import HostError

if TYPE_CHECKING:
    from sensor.config import Settings
    from sensor.content.state import State

_TAKES = "a running sensor takes it within seconds"


@click.command(epilog=example("sudo sensor rules stage release-8.tar.zst",
                              "sudo sensor rules stage --allow-downgrade release-7.tar.zst"))
@click.argument("release", metavar="RELEASE", required=False)
@settings_option
@store_option
@click.option("--allow-downgrade", is_flag=True, help="Take a version that is not above the highest so far.")
@click.option("--if-new", is_flag=True, help="End well where the release was here before.")
@click.option("--fetched", is_flag=True, help="Instead of RELEASE: what sensor content update has fetched.")
@click.option("--retry", is_flag=True, help="Try again a release that was taken back or refused.")
def stage(release: str | None, config: str | None, store: str | None, allow_downgrade: bool, if_new: bool,
          fetched: bool, retry: bool) -> int:
    """Verify and check RELEASE (a directory, .tar.zst or .zip) and begin its rollout, in the stage shadow.

    Whatever is wrong with it: what runs stays. It goes on by itself after content.hold in each stage.
    """
    from sensor.content import update

    if fetched == (release is not None):
        raise click.UsageError("either RELEASE or --fetched")
    settings = settings_of(config)
    for path in [release] if release is not None else update.fetched(update.HOME, settings.content.ring):
        _stage(path, settings, place_of(store), if_new or fetched, downgrade=allow_downgrade, retry=retry)
    return 0


def _stage(release: str, settings: Settings, store: str, if_new: bool, *, downgrade: bool, retry: bool) -> None:
    from sensor.content import store as stores

    if if_new and (why := stores.seen(release, store, settings.content)):
        say(f"{release}: {why}")
        return
    taken, report = stores.stage(release, store, settings.content, settings.rules.placeholders,
                                 downgrade=downgrade, retry=retry)
    if "revoked" in report:
        say(f"{report['revoked']} releases are revoked; {_TAKES}")
        return
    say(report_line(report))
    say(f"release {taken.manifest.version} ({taken.id[:12]}) is in the stage shadow; {_TAKES}")


@click.command(epilog=example("sudo sensor rules promote --store /var/lib/sensor/content"))
@store_option
def promote(store: str | None) -> int:
    """The release on trial goes one stage on now: shadow, canary, active, known good."""
    from sensor.content import state

    with _changed(place_of(store)) as current:
        step = state.promote(current, time.time())
    say(f"{step}; {_TAKES}")
    return 0


@click.command(epilog=example("sudo sensor rules rollback && sensor content show"))
@store_option
def rollback(store: str | None) -> int:
    """Leave the release on trial, or else the current one, for the last known good one or the built-in rules.

    It is not tried again. No file of any release is read.
    """
    from sensor.content import state

    with _changed(place_of(store)) as current:
        left = state.rollback(current, "operator", time.time())
    running = current.running
    say(f"left {left[:12]}; running: {running[:12] if running else 'the built-in rules'}; {_TAKES}")
    return 0


@contextlib.contextmanager
def _changed(place: str) -> Iterator[State]:
    from sensor.content import state

    try:
        with state.changing(place) as current:
            yield current
    except FileNotFoundError:
        raise HostError(f"{place}: no release was ever staged here", "sudo sensor rules stage RELEASE") from None
    except OSError as error:
        raise HostError(f"{place}: {error.strerror}", "run it as root, or name another place: --store") from error
