"""Command line of the VM tests."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from sensor.errors import HostError
from tests.vm import coverage, host, images, matrix


def main() -> int:
    """Run the matrix. Status: 0 all as expected, 1 a failure, 2 bad usage, 3 the host lacks something."""
    kernels, names = list(images.KERNELS), [test.name for test in matrix.TESTS]
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description="Guest tests on all kernels.")
    # Through the environment too: `make test-vm KERNEL=6.12 TEST=smoke`.
    parser.add_argument("--kernel", action="append", choices=kernels, metavar="VERSION",
                        help=f"one of {', '.join(kernels)}; repeatable; default $KERNEL, or all")
    parser.add_argument("--test", action="append", choices=names, metavar="NAME",
                        help="a test of --list; repeatable; default $TEST, or all")
    parser.add_argument("--root", action="append", choices=images.ROOTS, metavar="SUITE", default=[],
                        help=f"suite of the root image: one of {', '.join(images.ROOTS)}; repeatable; default "
                             f"{images.ROOT_SUITE} with --kernel, else all that a test names")
    parser.add_argument("--slow", action="store_true",
                        help="add what takes a quarter of an hour: the service under systemd")
    parser.add_argument("--list", action="store_true", help="list the tests and end")
    parser.add_argument("--keep", action="store_true", help="keep the tree that the guests were given")
    parser.add_argument("--write-coverage", action="store_true", help="write docs/coverage.md from this run")
    parser.add_argument("--jobs", type=int, default=2, help="guests at a time (default 2)")
    parser.add_argument("--overlay", type=Path, action="append", default=[], metavar="DIRECTORY",
                        help="a tree to lay over the guest's root")
    parser.add_argument("--append", default="", metavar="ARGUMENTS", help="more kernel arguments")
    options = parser.parse_args()
    if options.list:
        print(matrix.table([[t.name, t.mode, " ".join([*t.kernels, *map("/".join, t.also)]), t.doc]
                            for t in matrix.TESTS]))
        return 0
    chosen = [options.kernel or os.environ.get("KERNEL", "").split(),
              options.test or os.environ.get("TEST", "").split()]
    if unknown := {*chosen[0]} - {*kernels} | {*chosen[1]} - {*names}:
        parser.error(f"no such kernel or test: {' '.join(sorted(unknown))}")
    jobs = matrix.plan(*chosen, options.root, slow=options.slow)
    try:
        host.ensure_host_packages()
        done = matrix.run(jobs, options.jobs, keep=options.keep, overlays=options.overlay,
                          extra=options.append)
    except HostError as error:
        return host.fail(error)
    verdicts, failed = matrix.verdicts(done)
    page = matrix.coverage_page(done)
    old = coverage.PATH.read_text() if coverage.PATH.exists() else ""
    page = coverage.with_slow_part(page, old) if page else matrix.coverage_of_service(done, old)
    if options.write_coverage and page:
        coverage.PATH.write_text(page)
    elif page and coverage.comparable(page) != coverage.comparable(old):
        verdicts += "\ndocs/coverage.md says something else: run with --write-coverage and look at the difference"
        failed += 1
    for text in [matrix.failures(done), *(report(done) for report in matrix.REPORTS), verdicts]:
        if text:
            print("\n" + text)
    host.say(f"{failed} failures" if failed else "all as expected")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
