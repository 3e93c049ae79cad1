"""Where the files lie that come with the package: default rules, probes, the header shim.

An installed wheel carries them in ``sensor/_data``; a checkout has ``rules/`` and ``probes/`` next to
the package. The checkout wins where both exist: whoever edits a rule wants that one.
"""

from __future__ import annotations

from pathlib import Path

from sensor.errors import HostError

_PACKAGE = Path(__file__).resolve().parent


def rules_dir() -> Path:
    """Directory of the default rules.

    Raises:
        HostError: The installation is incomplete.
    """
    return _find("rules")


def probes_dir() -> Path:
    """Directory of the probes' C sources. Raises HostError as above."""
    return _find("probes")


def shim_dir() -> Path:
    """Root of the include tree that stands in for kernel headers. Raises HostError as above."""
    return _first("shim", [_PACKAGE / "kernel" / "shim"])


def _find(name: str, package: Path = _PACKAGE) -> Path:
    candidates = [package / "_data" / name]
    # Next to an installed package lie other people's packages; pyproject.toml tells a checkout.
    if (package.parent / "pyproject.toml").is_file():
        candidates.insert(0, package.parent / name)
    return _first(name, candidates)


def _first(name: str, candidates: list[Path]) -> Path:
    for path in candidates:
        if path.is_dir():
            return path
    raise HostError(f"the installation lacks its {name}: looked in {', '.join(map(str, candidates))}",
                    "reinstall the package, or work in a complete checkout")
