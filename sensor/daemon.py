"""``sensor run`` and ``sensor record``: check that this can work, then be the supervisor."""

from __future__ import annotations

import os
import platform
import sys

from sensor import activation, killswitch
from sensor.arguments import Arguments
from sensor.content.state import default_store
from sensor.controlsocket import runtime_home
from sensor.errors import HostError
from sensor.kernel import preflight
from sensor.notify import Notifier
from sensor.options import RunOptions
from sensor.oversight import Oversight, boot_id
from sensor.supervisor import Supervisor
from sensor.switches import state_home

_MACHINES = ("x86_64",)


def run(options: RunOptions) -> int:
    """Run until a signal, or for ``options.duration`` seconds; return the exit status.

    Raises:
        HostError: Switched off, not root, or a machine that the probes were not written for; or, where there is nobody
            to stay up for, a kernel that can't carry them.
    """
    if platform.machine() not in _MACHINES:
        raise HostError(f"the probes know the system calls of {', '.join(_MACHINES)}, not of {platform.machine()}")
    if os.geteuid() != 0:
        raise HostError("loading probes needs root", "sudo sensor run")
    if (switched_off := killswitch.disabled()) is not None:
        raise switched_off
    notifier = Notifier.from_environment()
    # A service without probes stays up and tells so; a recording or a person at a terminal wants events.
    stay = notifier.active and options.record is None
    if not stay:
        preflight.check()
    sockets = activation.inherited()
    arguments = Arguments(
        config=str(options.config) if options.config else None, rules=tuple(map(str, options.rules)),
        output=options.output, events=options.events, metrics=options.metrics,
        record=str(options.record) if options.record else None,
        metrics_fd=sockets[0] if sockets else None)
    oversight = Oversight(state_home(), _say, boot=boot_id())
    # Rules of the command line are what the operator wants to see now, and nothing else.
    store = None if options.rules or options.record is not None else default_store()
    return Supervisor([arguments.dump()], options.duration, sockets, notifier.send, oversight, stay=stay,
                      once=options.record is not None, store=store, runtime=runtime_home()).run()


def _say(message: str) -> None:
    sys.stderr.write(f"sensor: {message}\n")
    sys.stderr.flush()
