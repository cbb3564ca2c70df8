"""What a build does before it collects files: generate the Python stubs, and compile the native CPU kernels.

Run by hatchling whenever the project is built or installed, editable installs included. Without a C++
compiler the build goes on, and says so: the engine then computes with torch's operators on a CPU.
"""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
KERNELS = ROOT / "kernels" / "tokenwire_kernels" / "cpu"


class TokenwireBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Makes what is never committed, and puts the demo model into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling at the start of every build."""
        runpy.run_path(str(ROOT / "protos" / "generate.py"))["generate"]()
        if self.target_name != "wheel":
            return
        if self._compile_kernels():
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
        if version == "standard":
            build_data["force_include"][str(ROOT / "models/demo/checkpoint")] = "tokenwire_engine/demo"

    def _compile_kernels(self) -> bool:
        build = runpy.run_path(str(KERNELS / "build.py"))
        if build["is_current"]():
            return True
        try:
            instruction_sets = build["build"]()
        except build["BuildError"] as error:
            build["LIBRARY"].unlink(missing_ok=True)
            self.app.display_warning(f"the native CPU kernels were not compiled: {error}")
            return False
        self.app.display_info(f"native CPU kernels: {', '.join(instruction_sets)}")
        return True
