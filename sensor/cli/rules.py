"""sensor rules: are they sound, do they do what their samples say, what do they mean."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from sensor import switches
from sensor.cli import rollout, switch
from sensor.cli.common import config_option, example, rule_set
from sensor.errors import SensorError, UsageError
from sensor.outputs.terminal import terminal_safe

if TYPE_CHECKING:
    from sensor.rules.model import Correlation, Rule, RuleSet

_FAILED, _BROKEN = 1, 2

_paths = click.argument("paths", nargs=-1, metavar="[PATH]...")
_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.group("rules")
def command() -> None:
    """Check, test and explain rules. Without PATH, the rules that come with the sensor."""


for _command in (switch.disable, switch.enable, rollout.stage, rollout.promote, rollout.rollback):
    command.add_command(_command)


def _say(*lines: object) -> None:
    for line in lines:
        click.echo(terminal_safe(str(line)))


def _dump(value: object) -> None:
    # ASCII only: what a rule file holds can't do anything to a terminal then.
    click.echo(json.dumps(value, ensure_ascii=True))


@command.command(epilog=example("sensor rules check",
                                "sensor rules check --json /etc/sensor/rules.d | jq .refused"))
@_paths
@config_option
@_as_json
def check(paths: tuple[str, ...], config: str | None, as_json: bool) -> int:
    """Load rules and say which ones run, which are refused, and which are for other log sources.

    Exit status 2 if any is refused.
    """
    rules = rule_set(paths, config)
    if as_json:
        _dump({
            "loaded": rules.loaded, "correlations": len(rules.correlations), "filters": rules.filters,
            "reasons": _reasons(rules),
            "partial": [{"path": rule.path, "line": rule.line, "rule": rule.name, "note": note}
                        for rule, note in _notes(rules)],
            "refused": [{"path": each.path, "line": each.line, "rule": each.rule, "reason": each.reason}
                        for each in rules.refused],
            "unsupported": [{"path": each.path, "rule": each.rule, "logsource": each.logsource,
                             "reason": each.reason} for each in rules.unsupported],
        })
    else:
        total = rules.loaded + len(rules.refused) + len(rules.unsupported)
        _say(f"{rules.loaded} of {total} rules loaded, {len(rules.refused)} refused, "
             f"{len(rules.unsupported)} unsupported")
        if rules.correlations or rules.filters:
            _say(f"among them {len(rules.correlations)} correlations; {rules.filters} filters applied")
        _say(*(f"refused: {each}" for each in rules.refused))
        _say(*(f"unsupported: {each}" for each in rules.unsupported))
        _say(*(f"partial: {rule.path}:{rule.line}: {rule.name}: {note}" for rule, note in _notes(rules)))
        reasons = _reasons(rules)
        if len(rules.refused) + len(rules.unsupported) > len(reasons):
            _say(*(f"{count:5} x {reason}" for reason, count in reasons.items()))
    return _BROKEN if rules.refused else 0


def _notes(rules: RuleSet) -> list[tuple[Rule, str]]:
    """What parts of loaded rules our events don't carry."""
    return [(rule, note) for rule in rules.rules for note in getattr(rule, "notes", ())]


def _reasons(rules: RuleSet) -> dict[str, int]:
    """Why rules don't run, the most frequent reason first."""
    counts = Counter([each.reason for each in rules.refused] + [each.reason for each in rules.unsupported])
    return dict(counts.most_common())


@command.command(epilog=example("sensor rules test rules/", "sensor rules test --strict my_rule.yml"))
@_paths
@config_option
@click.option("--strict", is_flag=True, help="A rule without positive and negative samples fails too.")
@_as_json
def test(paths: tuple[str, ...], config: str | None, strict: bool, as_json: bool) -> int:
    """Run the samples beside rules: name.samples.yml next to name.yml.

    Exit status 1 if a sample fails, 2 if a rule or a sample is refused.
    """
    from sensor.rules import samples

    rules = rule_set(paths, config)
    results = samples.run(rules.rules, rules.correlations)
    refused = [*rules.refused, *results.refused]
    if as_json:
        _dump({
            "rules": rules.loaded, "passed": results.passed, "missing": list(results.missing),
            "failed": [{"path": each.path, "line": each.line, "rule": each.rule,
                        "sample": "positive" if each.positive else "negative"} for each in results.failures],
            "refused": [{"path": each.path, "line": each.line, "rule": each.rule, "reason": each.reason}
                        for each in refused],
        })
    else:
        _say(f"{rules.loaded} rules: {results.passed} samples passed, {len(results.failures)} failed, "
             f"{len(results.missing)} rule files lack samples, {len(refused)} refused")
        _say(*(f"failed: {each}" for each in results.failures))
        _say(*(f"no positive and negative samples: {each}" for each in results.missing))
        _say(*(f"refused: {each}" for each in refused))
    if refused:
        return _BROKEN
    return _FAILED if results.failures or (strict and results.missing) else 0


@command.command("list", epilog=example("sensor rules list",
                                        "sensor rules list --json my-rules/ | jq -r .[].id"))
@_paths
@config_option
@_as_json
def list_rules(paths: tuple[str, ...], config: str | None, as_json: bool) -> int:
    """List rules: level, id, events, name; and which ones are disabled on this host."""
    from sensor.rules import explain
    from sensor.rules.model import Correlation

    rules = rule_set(paths, config)
    off = _disabled()
    if as_json:
        _dump([{**explain.facts(rule), **({"disabled": off[rule.id]} if rule.id in off else {})}
               for rule in rules.every])
        return 0
    for rule in rules.every:
        what = rule.kind.value if isinstance(rule, Correlation) else ",".join(rule.categories)
        _say(f"{rule.level:13} {rule.id}  {what:20} {rule.name}"
             + (f"  (disabled since {off[rule.id]})" if rule.id in off else ""))
    left_out = len(rules.refused) + len(rules.unsupported)
    if left_out:
        click.echo(f"{left_out} more are refused or unsupported; see: sensor rules check", err=True)
    return 0


def _disabled() -> dict[str, str]:
    """Rules that are disabled on this host, as far as that can be told."""
    try:
        return switches.read(switches.state_home())
    except SensorError as error:
        click.echo(f"sensor: {terminal_safe(str(error))}", err=True)
        return {}


@command.command(epilog=example("sensor rules coverage", "sensor rules coverage --navigator layer.json my-rules/",
                                "sensor rules coverage --json | jq '.tactics[] | {tactic, rules}'"))
@_paths
@config_option
@_as_json
@click.option("--navigator", metavar="FILE", help="Write a layer for the ATT&CK Navigator (format 4.5); - is stdout.")
def coverage(paths: tuple[str, ...], config: str | None, as_json: bool, navigator: str | None) -> int:
    """Show what the rules cover of MITRE ATT&CK, by their tags: tactics, techniques, sub-techniques.

    Each technique is followed by its number of rules, sub-techniques included. Which technique belongs to
    which tactic is told by rules that name one tactic.
    """
    from sensor.rules import attack

    found = attack.coverage(rule_set(paths, config).every)
    if navigator is not None:
        where = ", ".join(paths) or "the rules that come with the sensor"
        _write(navigator, attack.layer(found, "sensor", f"Rules of {where}"))
        if navigator == "-":
            return 0
    if as_json:
        _dump(attack.facts(found))
    else:
        _say(*attack.lines(found))
    return 0


def _write(path: str, value: object) -> None:
    text = json.dumps(value, indent=1) + "\n"
    try:
        if path == "-":
            click.echo(text, nl=False)
        else:
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {error.strerror}") from error


@command.command("convert", epilog=example("sensor rules convert falco_rules.yaml > converted.yml"))
@click.argument("paths", nargs=-1, required=True, metavar="FILE...")
def convert_rules(paths: tuple[str, ...]) -> int:
    """Write Falco's rules of FILE as Sigma, one YAML document for each event that a rule names.

    Macros and lists of several files are taken together, in their order. Exit status 1 if a rule
    can't be said in Sigma or is not carried by our events, 2 if one is refused; the reason is on stderr.
    """
    from sensor.rules.falco import tosigma
    from sensor.rules.falco.model import FalcoRule

    rules = rule_set(paths)
    reasons = [f"refused: {each}" for each in rules.refused] + [f"unsupported: {each}" for each in rules.unsupported]
    written = []
    for rule in rules.rules:
        try:
            if isinstance(rule, FalcoRule):
                written.append(tosigma.convert(rule))
        except tosigma.CannotConvert as error:
            reasons.append(f"not converted: {rule.path}:{rule.line}: {rule.name}: {error}")
    if not written and not reasons:
        raise UsageError("no rule of Falco's language in it")
    for number, text in enumerate(written):
        # The text goes to files: what could harm a terminal has been escaped by the YAML writer.
        click.echo(("---\n" if number else "") + text, nl=False)
    for reason in reasons:
        click.echo(terminal_safe(reason), err=True)
    return _BROKEN if rules.refused else _FAILED if reasons else 0


@command.command("explain", epilog=example("sensor rules explain rules/persistence/cron_spool_write.yml",
                                           "sensor rules explain 'File made immutable' --event events.jsonl"))
@click.argument("rule", metavar="RULE")
@_paths
@config_option
@click.option("--event", metavar="FILE", help="Event or recording: show the truth of every part on it.")
@_as_json
def explain_rule(rule: str, paths: tuple[str, ...], config: str | None, event: str | None,
                 as_json: bool) -> int:
    """Show what RULE (a file, an id or a title) means: its events, fields and condition.

    With --event, exit status 1 if no event matches.
    """
    from sensor.rules import explain
    from sensor.rules.model import Correlation

    documents = _documents(event) if event else []
    answers, matched = [], False
    for each in _find(rule, paths, config):
        if isinstance(each, Correlation):
            if documents:
                raise UsageError("a correlation is about several events; try it with sensor replay, or with samples")
            answers.append(explain.facts(each))
            if not as_json:
                _describe_correlation(each)
            continue
        answer: dict[str, Any] = {**explain.facts(each), "condition": explain.tree(each.condition)}
        if documents:
            answer["on"] = []
        if not as_json:
            _describe(each)
        for document in documents:
            yes, sentence = explain.verdict(each, document)
            matched = matched or yes
            if as_json:
                answer["on"].append({"event": document["event"].get("id"), "match": yes, "why": sentence,
                                     "condition": explain.tree(each.condition, document)})
            else:
                _say(f"event {document['event'].get('id', '')}: {sentence}",
                     *(f"  {line}" for line in explain.lines(each.condition, document)))
        answers.append(answer)
    if as_json:
        _dump(answers)
    return 0 if matched or not documents else _FAILED


def _find(wanted: str, paths: Sequence[str], settings: str | None) -> list[Rule | Correlation]:
    """Rules by file, id or title. Raises UsageError where there is none, or it is refused."""
    by_file = os.path.isfile(wanted)
    rules = rule_set([wanted] if by_file else paths, settings)
    every = rules.every
    found = list(every) if by_file else [rule for rule in every if wanted in (rule.id, rule.name, rule.handle)]
    if found:
        return found
    reasons = [str(each) for each in rules.refused if by_file or each.rule == wanted]
    reasons += [str(each) for each in rules.unsupported if by_file or each.rule == wanted]
    if reasons:
        raise UsageError("not loaded: " + terminal_safe("; ".join(reasons)))
    raise UsageError(f"no rule {terminal_safe(wanted)!r}; see: sensor rules list")


def _describe(rule: Rule) -> None:
    from sensor.rules import explain

    facts = explain.facts(rule)
    _say(f"{rule.name}  ({rule.level}, {rule.id})", f"  {rule.path}:{rule.line}")
    for key in ("description", "notes", "output", "techniques", "categories", "events", "fields", "falsepositives"):
        value = facts.get(key)
        if value:
            _say(f"  {key}: {', '.join(value) if isinstance(value, list) else ' '.join(value.split())}")
    _say("  condition:", *(f"    {line}" for line in explain.lines(rule.condition)))


def _describe_correlation(rule: Correlation) -> None:
    from sensor.rules import explain

    facts = explain.facts(rule)
    _say(f"{rule.name}  ({rule.level}, {rule.id})", f"  {rule.path}:{rule.line}")
    for key in ("description", "techniques", "correlation", "rules", "group_by", "fields", "falsepositives"):
        value = facts[key]
        if value:
            _say(f"  {key}: {', '.join(value) if isinstance(value, (list, dict)) else ' '.join(value.split())}")
    _say(f"  fulfilled: {facts['fulfilled']}")


def _documents(path: str) -> list[dict[str, Any]]:
    """Events of a file. Raises UsageError where it holds none."""
    from sensor.reading import Reader

    reader = Reader()
    documents = list(reader.documents(path))
    if not documents:
        skipped = ", ".join(f"{reason}: {count}" for reason, count in reader.skipped.items())
        raise UsageError(f"{path}: no event in it" + (f" (skipped {skipped})" if skipped else ""))
    return documents
