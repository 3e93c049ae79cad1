"""All fuzz targets by name, in the order in which they run."""

from __future__ import annotations

from tests.fuzz import input_targets, rule_targets, supervisor_targets
from tests.fuzz.harness import Target

TARGETS: dict[str, Target] = {target.name: target for target in (
    *rule_targets.TARGETS, *input_targets.TARGETS, *supervisor_targets.TARGETS)}
