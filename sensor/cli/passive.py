"""`sensor passive`: probes off and on, whether an engine runs or not."""

from __future__ import annotations

from typing import Literal

import click

from sensor.cli.common import example
from sensor.errors import HostError


@click.command(epilog=example("sudo sensor passive on", "sudo sensor passive off"))
@click.argument("state", type=click.Choice(["on", "off"]))
def command(state: Literal["on", "off"]) -> int:
    """Unload all probes and load none until switched off again, over restarts too. A running sensor obeys at once."""
    from sensor import guard, killswitch
    from sensor.oversight import boot_id
    from sensor.switches import state_home

    home = state_home()
    try:
        changed = killswitch.set_passive(home, state == "on")
        told = killswitch.tell(home, boot_id())
        mode = guard.Store(home).read().mode
    except OSError as error:
        raise HostError(f"the passive switch in {home} can't be set: {error.strerror}",
                        f"sudo sensor passive {state}") from error
    was = "" if changed else " already"
    heard = f"the running sensor (process {told}) was told" if told else "no sensor is running; its next start obeys"
    click.echo(f"passive mode is{was} {state}; {heard}")
    if state == "off" and mode == guard.PASSIVE:
        click.echo("the boot guard still keeps all probes out: sensor guard show")
    return 0
