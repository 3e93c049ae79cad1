"""`sensor drill`: rehearse what the sensor does when something goes wrong."""

from __future__ import annotations

import json

import click

from sensor.cli.common import example
from sensor.controlsocket import DRILLED, DRILLS, STATUS, Request
from sensor.errors import HostError, SensorError
from sensor.outputs.terminal import terminal_safe

_FAILED, _ABSENT = 1, 3
_HELP = """Rehearse an alarm with the running sensor.

\b
breaker   the probes cost too much: families are shed, and come back
canary    a probe stays silent: it is noticed
guard     two boots end badly: fewer probes, then none (on a copy)
rollback  releases of rules go wrong: the last known good one runs (in a store of its own)
loss      events are lost: the gap is told

Each leaves a sensor_state event that begins with "drill", a line in the log, and sensor_drills_total.
"""


@click.command(help=_HELP, epilog=example("sudo sensor drill guard", "sudo sensor drill rollback --json | jq .result"))
@click.argument("name", type=click.Choice(DRILLS))
@click.option("--json", "as_json", is_flag=True, help="One JSON object: drill, result (ok, failed), text.")
def command(name: str, as_json: bool) -> int:
    """Ask the supervisor for a drill; status 1 where it failed, 3 where there is none."""
    from sensor import controlclient
    from sensor.controlsocket import DRILL

    asked = f"sensor drill {name}"
    if name == "rollback":
        controlclient.ask(Request(STATUS), asked)  # the drill is worth nothing without the sensor's record of it
        answer = _rollback(as_json)
        controlclient.ask(Request(DRILLED, name, answer["result"]), asked)
    else:
        answer = controlclient.ask(Request(DRILL, name), asked)
    if as_json:
        click.echo(json.dumps(answer))
    elif answer["result"] != "unavailable":
        click.echo(terminal_safe(f"drill {name}: {answer['result']}: {answer['text']}"))
    if answer["result"] == "unavailable":
        raise HostError(f"the drill {name} is not available: {terminal_safe(answer['text'])}", "sensor drill --help")
    return 0 if answer["result"] == "ok" else _FAILED


def _rollback(quiet: bool) -> dict[str, str]:
    from sensor.content import drill

    try:
        text = drill.rehearse(lambda line: None if quiet else click.echo(terminal_safe(line)))
    except SensorError as error:
        return {"drill": "rollback", "result": "failed", "text": str(error)}
    return {"drill": "rollback", "result": "ok", "text": text}
