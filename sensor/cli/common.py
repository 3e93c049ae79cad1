"""What several commands share: option types, and rules from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from sensor.errors import UsageError
from sensor.options import METRICS_OFF, parse_address, parse_duration

if TYPE_CHECKING:
    from sensor.rules.files import Gathered
    from sensor.rules.model import Options, RuleSet

#: Refusals shown before the rest is only counted.
_SHOWN = 20


def duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Callback of ``--duration``: seconds."""
    try:
        return None if value is None else parse_duration(value)
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def listen(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Callback of ``--metrics``: the text as it was, once it is known to be sound."""
    try:
        if value is not None and value != METRICS_OFF:
            parse_address(value)
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from error
    return value


def example(*lines: str) -> str:
    """An epilog of examples; the backspace keeps click from joining the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


#: Settings for reading rules: their placeholders and processing pipelines.
config_option = click.option(
    "--config", metavar="FILE", help="Settings from which rules.placeholders and rules.pipelines are taken. "
    "Default: none.")


def rule_options(path: str | None) -> Options:
    """What a settings file says about reading rules. Raises UsageError."""
    from sensor.rules.model import Options

    if path is None:
        return Options()
    from sensor import config

    rules = config.load(path).rules
    return Options(rules.placeholders, rules.pipelines)


def rule_set(paths: Sequence[str], settings: str | None = None, options: Options | None = None) -> RuleSet:
    """Rules of files and directories, the default rules if there are none; parsed, or as compiled before.

    Raises:
        UsageError: A path is absent, or a processing pipeline can't be used.
    """
    from sensor import resources
    from sensor.rulecache import RuleCache, user_home
    from sensor.rules import files

    options = options or rule_options(settings)
    sources = files.discover(list(paths) or [str(resources.rules_dir())])
    return RuleCache(user_home()).load(files.gather(sources, options.pipelines), options, _compile)


def _compile(gathered: Gathered, options: Options) -> RuleSet:
    from sensor.rules import content  # pySigma takes a quarter of a second

    return content.compile_rules(gathered, options=options)


def load_rules(paths: Sequence[str], settings: str | None = None) -> RuleSet:
    """Rules of files and directories; the default rules if there are none.

    A command that runs rules doesn't run half of them: one that is broken stops it. Rules for log
    sources that the sensor lacks are no fault of theirs and are left out.

    Raises:
        UsageError: A path is absent, a rule is refused (each with file, line and reason), or none is left.
    """
    rules = rule_set(paths, settings)
    if rules.refused:
        from sensor.outputs.terminal import terminal_safe

        lines = [terminal_safe(str(refused)) for refused in rules.refused[:_SHOWN]]
        more = len(rules.refused) - len(lines)
        if more:
            lines.append(f"... and {more} more; see: sensor rules check")
        raise UsageError(f"{len(rules.refused)} rules are refused\n  " + "\n  ".join(lines))
    if not rules.loaded:
        others = f"{len(rules.unsupported)} are for log sources that the sensor lacks"
        raise UsageError(f"no rule to run in {', '.join(paths) or 'the default rules'}; {others}")
    return rules
