"""The command line: one module per command, imported when it is called.

`sensor --help` shows what is installed without importing it: start-up time is paid per command, and
replay must work where nothing of the live part can be imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from sensor import __version__
from sensor.errors import SensorError

#: Command -> what it does, in the order of the help. Its module is sensor.cli.<command>, and the
#: click command in it is called ``command``. A command whose module is absent isn't offered.
COMMANDS: dict[str, str] = {
    "run": "Watch this host: events to rules to alerts.",
    "record": "Write live events to a recording.",
    "replay": "Run the rules over recordings.",
    "hunt": "Search recordings for a rule or condition.",
    "rules": "Check, test, explain, roll out and take back rules.",
    "content": "Make, sign, check and publish releases of rules.",
    "doctor": "Say what this host offers and what is missing.",
    "status": "Show the running sensor: mode, rates, loss, cost.",
    "top": "The same, again and again.",
    "crashes": "Show crashes of this host, and whose they are.",
    "guard": "Show or reset the boot guard.",
    "passive": "Unload all probes, or load them again.",
    "drill": "Rehearse an alarm with the running sensor.",
    "schema": "List events and fields.",
}

_USAGE = 2
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class ReaderGone(Exception):
    """Whoever read our output went away."""


class Lazy(click.Group):
    """A group whose commands are imported by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands that are installed."""
        return [name for name in COMMANDS if _installed(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS or not _installed(cmd_name):
            return None
        command = importlib.import_module(f"sensor.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. click itself would end with status 1 where a reader has had enough."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


def _installed(name: str) -> bool:
    return importlib.util.find_spec(f"sensor.cli.{name}") is not None


def _version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from sensor import native

        click.echo(f"sensor, version {__version__}\nengine: {native.state()}")
        context.exit()


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]}, epilog=(
    "Exit status: 0 fine; 1 a check or expectation failed; 2 bad usage, configuration or content; "
    "3 the host lacks something.\n\nExample:  sensor replay recording.jsonl --format table"))
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version,
              help="Show the version, and whether the C extension is used.")
def sensor() -> None:
    """Linux endpoint sensor: sees what processes run, open and connect to, through Sigma rules."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script. Ends the process with the promised exit status."""
    sys.exit(call(arguments))


def call(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; errors become one message on stderr."""
    try:
        status = sensor.main(args=None if arguments is None else list(arguments), prog_name="sensor",
                             standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return _INTERRUPTED
    except SensorError as error:
        click.echo(f"sensor: {error}", err=True)
        return error.exit_status
    except (ReaderGone, BrokenPipeError):
        # The reader has what it wanted (`| head`). What is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        return 0
    return status if isinstance(status, int) else 0
