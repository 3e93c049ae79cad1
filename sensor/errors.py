"""The exceptions of the sensor, and the exit status each one ends a command with.

    SensorError              1  a check or an expectation failed
    +-- UsageError           2  bad usage, configuration or content
    |   +-- ContentError     2  the same, with the place in a file
    +-- HostError            3  the host lacks something; says what, and how to get it
    +-- RecordError          -  one ring record can't be decoded; counted, never fatal
"""

from __future__ import annotations


class SensorError(Exception):
    """Base class. ``str()`` is one message for a person, saying what to do next."""

    exit_status = 1


class UsageError(SensorError):
    """The command line, the settings or the content are wrong."""

    exit_status = 2


class ContentError(UsageError):
    """A rule or settings file is wrong at a place that can be named."""

    def __init__(self, path: str, line: int | None, reason: str, hint: str = "") -> None:
        self.path, self.line, self.reason, self.hint = path, line, reason, hint
        where = path if line is None else f"{path}:{line}"
        super().__init__(f"{where}: {reason}" + (f" ({hint})" if hint else ""))


class HostError(SensorError):
    """The host lacks something that the command needs.

    ``fix`` is the command that would supply it, or an empty string where there is none.
    """

    exit_status = 3

    def __init__(self, reason: str, fix: str = "") -> None:
        self.reason, self.fix = reason, fix
        super().__init__(reason + (f"\n  fix: {fix}" if fix else ""))


class RecordError(SensorError):
    """A ring record that can't be decoded. ``reason`` is a metric label from a closed set."""

    reason = "malformed"


class ShortRecord(RecordError):
    """A size or a text word points outside the record."""

    reason = "short"


class AbiMismatch(RecordError):
    """The record was written under another schema."""

    reason = "abi"


class UnknownType(RecordError):
    """The record's type is in no row of the event table."""

    reason = "type"
