"""Puts the C extension into the wheel, or into a checkout, where it can be built; goes on without it where not."""

import importlib.util
import os
import subprocess
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeHook(BuildHookInterface):  # type: ignore[type-arg]  # generic only to type checkers
    """Build hook of pyproject.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the extension before files are collected."""
        if self.target_name != "wheel" or os.environ.get("SENSOR_NATIVE") == "0":
            return
        loader = SourceFileLoader("sensor_native_build", str(Path(self.root) / "tools/native"))
        spec = importlib.util.spec_from_loader(loader.name, loader)
        assert spec is not None
        native = importlib.util.module_from_spec(spec)
        loader.exec_module(native)
        try:
            into = Path(self.root) / ("sensor" if version == "editable" else "build")
            into.mkdir(exist_ok=True)
            made = native.build(into)
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"the C extension is left out, the engine will be slower: {error}")
            return
        if version != "editable":
            build_data["force_include"][str(made)] = f"sensor/{made.name}"
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
