"""`sensor guard`: the boot guard, shown and reset."""

from __future__ import annotations

import json

import click

from sensor.cli.common import example
from sensor.errors import HostError
from sensor.outputs.terminal import terminal_safe


@click.group("guard", epilog=example("sudo sensor guard show", "sudo sensor guard reset"))
def command() -> None:
    """Show or reset the boot guard, which loads fewer probes, then none, after boots that ended badly."""


@command.command(epilog=example("sudo sensor guard show --json | jq .mode"))
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(as_json: bool) -> int:
    """Say what the next start may load, and why. Status 0 in every mode."""
    from sensor import guard, killswitch
    from sensor.crashes.telling import when
    from sensor.switches import state_home

    home = state_home()
    try:
        state = guard.Store(home).read()
        since = killswitch.passive_since(home)
    except OSError as error:
        raise HostError(f"{home / guard.NAME} can't be read: {error.strerror}", "sudo sensor guard show") from error
    off = killswitch.disabled()
    mode = "disabled" if off is not None else guard.PASSIVE if since is not None else state.mode
    reason = off.reason if off else "switched to passive by `sensor passive on`" if since is not None else state.reason
    facts = {"mode": mode, "reason": reason, "strikes": state.strikes, "trial": state.trial,
             "switched_passive": since is not None, "passive_since": when(since) if since else None,
             "disabled": off is not None, "programs_known": len(state.programs),
             "armed": [_plain(each) for each in state.armed], "bad_ends": [_plain(each) for each in state.history]}
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return 0
    click.echo(f"mode: {mode}" + (f": {reason}" if reason else ""))
    click.echo(f"strikes: {state.strikes} of {guard.STRIKES}" + (" (everything is tried again)" if state.trial else ""))
    for title, rows in (("armed", state.armed), ("ended badly", state.history)):
        for each in rows:
            click.echo(terminal_safe(f"{title}: {when(each.time)} boot {each.boot_id} kernel {each.release} "
                                     f"{each.mode}, sensor {each.version}, {len(each.tags)} programs"))
    return 0


def _plain(armed: object) -> dict[str, object]:
    from dataclasses import asdict

    from sensor.guard import Armed

    assert isinstance(armed, Armed)
    return {**asdict(armed), "tags": list(armed.tags)}


@command.command(epilog=example("sudo sensor guard reset && sudo systemctl restart sensor"))
def reset() -> int:
    """Forget the boots that ended badly: the next start loads everything."""
    from sensor import guard, killswitch
    from sensor.oversight import boot_id
    from sensor.switches import state_home

    store = guard.Store(state_home())
    try:
        before = store.read()
        boot = boot_id()
        store.change(lambda state: guard.reset(state, boot))
        told = killswitch.tell(store.directory, boot) if before.mode == guard.PASSIVE else None
    except OSError as error:
        raise HostError(f"{store.directory / guard.NAME} can't be changed: {error.strerror}",
                        "sudo sensor guard reset") from error
    if before.mode == guard.FULL:
        click.echo("the boot guard was not in the way; nothing is held against the sensor now")
    elif told:
        click.echo(f"the boot guard is reset; the running sensor (process {told}) was told and loads its probes")
    else:
        click.echo("the boot guard is reset; everything is loaded after: systemctl restart sensor")
    return 0
