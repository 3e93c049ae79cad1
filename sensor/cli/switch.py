"""sensor rules disable, enable: rules switched off on this host. They need no running sensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sensor import switches
from sensor.cli.common import example, rule_set
from sensor.errors import SensorError, UsageError
from sensor.outputs.terminal import terminal_safe

if TYPE_CHECKING:
    from sensor.rules.model import About

_AFTER = "it takes effect at the next load: systemctl reload sensor"

_rules = click.argument("rules", nargs=-1, required=True, metavar="RULE_ID...")
_config = click.option("-c", "--config", metavar="FILE",
                       help="Settings of the service, for the places of its rules; default /etc/sensor/sensor.yaml.")
_state = click.option("--state", metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
                      help="State directory of the service; default $STATE_DIRECTORY, else /var/lib/sensor.")


@click.command(epilog=example("sudo sensor rules disable 0f2e1c1e-8d5a-4f0b-9a51-3d1e1f3c7b10",
                              "sudo sensor rules disable 'File made immutable' && sudo systemctl reload sensor"))
@_rules
@_config
@_state
def disable(rules: tuple[str, ...], config: str | None, state: Path | None) -> int:
    """Switch rules off on this host, by id or title, until `sensor rules enable`.

    The service leaves them out whenever it loads rules. Works while it is down, and where rules can't be
    loaded: then by id. Replays of recordings are not affected.
    """
    home = state or switches.state_home()
    off = switches.read(home)
    known = _known(config)
    for wanted in rules:
        for number, name in _found(wanted, known):
            off.setdefault(number, switches.now())
            click.echo(terminal_safe(f"disabled: {number} {name}".rstrip()))
    switches.write(home, off)
    click.echo(_AFTER, err=True)
    return 0


@click.command(epilog=example("sudo sensor rules enable 0f2e1c1e-8d5a-4f0b-9a51-3d1e1f3c7b10",
                              "sudo sensor rules enable all && sudo systemctl reload sensor"))
@_rules
@_config
@_state
def enable(rules: tuple[str, ...], config: str | None, state: Path | None) -> int:
    """Switch rules on again that `sensor rules disable` switched off, by id or title, or all of them.

    Exit status 2 if one is not switched off; then nothing changes.
    """
    home = state or switches.state_home()
    off = switches.read(home)
    names = {rule.name: rule.id for rule in _known(config)} if not set(rules) <= {*off, "all"} else {}
    wanted = set(off) if "all" in rules else {names.get(rule, rule) for rule in rules}
    if not wanted <= set(off):
        missing = ", ".join(sorted(wanted - set(off)))
        raise UsageError(terminal_safe(f"not disabled: {missing}; see: sensor rules list"))
    switches.write(home, {rule: since for rule, since in off.items() if rule not in wanted})
    for rule in sorted(wanted):
        click.echo(terminal_safe(f"enabled: {rule}"))
    click.echo(_AFTER, err=True)
    return 0


def _known(settings: str | None) -> Sequence[About]:
    """Rules of the service; none where they can't be loaded, which is when a switch may be needed most."""
    from sensor import config
    from sensor.resources import rules_dir
    from sensor.rulefiles import DEFAULT
    from sensor.rules.model import Options

    try:
        rules = config.load(settings).rules
        paths = [str(rules_dir()) if path == DEFAULT else path for path in rules.paths
                 if path != config.LOCAL_RULES or Path(path).exists()]
        return rule_set(paths, options=Options(rules.placeholders, rules.pipelines)).every
    except SensorError as error:
        click.echo(f"sensor: {terminal_safe(str(error))}", err=True)
        return ()


def _found(wanted: str, known: Sequence[About]) -> list[tuple[str, str]]:
    """Id and name of the rules that are meant. An id that no rule has is taken as it is."""
    found = [(rule.id, rule.name) for rule in known if wanted in (rule.id, rule.name)]
    if found:
        return found
    if not 1 <= len(wanted) <= switches.MAX_ID or not wanted.isprintable() or " " in wanted:
        raise UsageError(terminal_safe(f"no rule {wanted[:80]!r}; see: sensor rules list"))
    click.echo(terminal_safe(f"sensor: no rule that could be loaded has the id {wanted}"), err=True)
    return [(wanted, "")]
