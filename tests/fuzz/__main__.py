"""Coverage-guided fuzzing of everything that reads foreign bytes: ``python -m tests.fuzz --help``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / "build/fuzz"  # corpus and failures of each target
_WALL = 60  # seconds after which libFuzzer ends an input that never returns
_MEMORY = 2048  # MiB


def main() -> int:
    """Run targets one after the other; 1 if an input failed, 3 without atheris."""
    options = _options()
    if options.child:
        _fuzz(options.targets[0], options.rest)
    if options.list or options.input:
        from tests.fuzz.targets import TARGETS

        return _again(options.targets[0], options.input) if options.input else _listed(TARGETS)
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: atheris is missing; fix: .venv/bin/pip install --editable '.[fuzz]'", file=sys.stderr)
        return 3
    from tests.fuzz.targets import TARGETS

    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        print(f"fuzz: no target is called {min(unknown)}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    names = options.targets or list(TARGETS)
    failed = [name for name in names if not _run(name, options.seconds, TARGETS[name].max_bytes)]
    if failed:
        print(f"fuzz: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__,
                                     epilog="example: FUZZ_SECONDS=60 make fuzz ARGS='sigma falco'")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all, if none is named")
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("FUZZ_SECONDS") or 600),
                        help="for each target; FUZZ_SECONDS, or 600")
    parser.add_argument("--list", action="store_true", help="name the targets and end")
    parser.add_argument("--input", type=Path, metavar="FILE", help="run one input of one target, without atheris")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rest", nargs=argparse.REMAINDER, default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if (options.input or options.child) and len(options.targets) != 1:
        parser.error("--input needs one target")
    return options


def _listed(targets: dict[str, object]) -> int:
    for name, target in targets.items():
        print(f"{name:<10} {target.doc}")  # type: ignore[attr-defined]
    return 0


def _again(name: str, path: Path) -> int:
    """One input, with the traceback of what it does."""
    from tests.fuzz.harness import execute
    from tests.fuzz.targets import TARGETS

    execute(TARGETS[name], path.read_bytes())
    print(f"fuzz: {name}: {path} does no harm")
    return 0


def _run(name: str, seconds: int, max_bytes: int) -> bool:
    """One target in a process of its own, which may crash. Whether nothing was found."""
    folder = STATE / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    before = set(folder.glob("failure-*"))
    command = [sys.executable, "-m", "tests.fuzz", name, "--child", "--rest", str(folder / "corpus"),
               f"-max_total_time={seconds}", f"-timeout={_WALL}", "-report_slow_units=600",
               f"-rss_limit_mb={_MEMORY}", f"-max_len={max_bytes}", f"-artifact_prefix={folder}/failure-",
               "-print_final_stats=1"]
    with (folder / "log").open("wb") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    text = (folder / "log").read_text(errors="replace")
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", text)
    print(f"fuzz: {name}: {runs[1] if runs else 'unknown'} inputs in {seconds} s, status {done.returncode}", flush=True)
    if done.returncode == 0:
        return True
    print(text[-4000:], file=sys.stderr)
    for path in sorted(set(folder.glob("failure-*")) - before):
        shown = path.relative_to(ROOT)
        print(f"fuzz: {name}: the input is in {shown}; again: .venv/bin/python -m tests.fuzz {name} --input {shown}",
              file=sys.stderr)
    return False


def _fuzz(name: str, arguments: list[str]) -> None:
    """Hand the process over to libFuzzer, which ends it."""
    import atheris

    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["sensor"]):
        from tests.fuzz.harness import Slow, execute
        from tests.fuzz.targets import TARGETS

        target = TARGETS[name]
        corpus = Path(arguments[0])
        for number, seed in enumerate(target.seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
            target.run(seed)  # what is imported late is instrumented too, and counts in no input's time
    if target.words:
        words = STATE / name / "words"
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
        arguments.append(f"-dict={words}")
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def run(data: bytes) -> None:
        try:
            execute(target, data)
        except Slow as error:
            if _slow_again(name, data):
                raise
            print(f"fuzz: {error}; not in a process of its own", flush=True)

    atheris.Setup([name, *arguments], run)
    atheris.Fuzz()


def _slow_again(name: str, data: bytes) -> bool:
    """Whether an input is slow in a fresh interpreter too.

    What a hypervisor takes of a processor counts as time of whoever had it.
    """
    path = STATE / name / "slow"
    path.write_bytes(data)
    return subprocess.run([sys.executable, "-m", "tests.fuzz", name, "--input", str(path)], cwd=ROOT,
                          check=False).returncode != 0


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    sys.exit(main())
