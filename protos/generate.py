"""Generates the Python stubs, `tokenwire.v1`, from the protos.

Run by every build (`hatch_build.py`), and by `make protos` in place. The generated
code is never committed. It is made with the oldest generator that the supported runtimes accept, because
generated code demands a runtime at least as new as its generator.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
OUTPUT = ROOT / "clients" / "python"


def generate() -> None:
    """Write `*_pb2.py`, `*_pb2_grpc.py` and their type stubs under `clients/python/tokenwire/v1`."""
    import google.rpc
    from grpc_tools import protoc

    well_known = Path(protoc.__file__).parent / "_proto"
    google_apis = Path(next(iter(google.rpc.__path__))).parent.parent
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    arguments = [f"-I{PROTOS}", f"-I{well_known}", f"-I{google_apis}"]
    plugins = Path(sys.executable).parent
    for plugin in ("mypy", "mypy_grpc"):
        arguments.append(f"--plugin=protoc-gen-{plugin}={_find_plugin(plugins, plugin)}")
        arguments.append(f"--{plugin}_out=quiet:{OUTPUT}")
    arguments += [f"--python_out={OUTPUT}", f"--grpc_python_out={OUTPUT}"]
    package = OUTPUT / "tokenwire" / "v1"
    package.mkdir(parents=True, exist_ok=True)
    if protoc.main(["protoc", *arguments, *sources]) != 0:
        raise RuntimeError(f"protoc failed on {', '.join(sources)}")
    (package / "__init__.py").write_text('"""Generated from protos/tokenwire/v1. Do not edit."""\n')


def _find_plugin(scripts: Path, name: str) -> str:
    """Path of a protoc plugin: beside the interpreter, or anywhere on PATH (isolated builds)."""
    import shutil

    program = f"protoc-gen-{name}"
    beside = scripts / program
    found = str(beside) if beside.exists() else shutil.which(program)
    if found is None:
        raise RuntimeError(f"{program} not found; install mypy-protobuf")
    return found


if __name__ == "__main__":
    generate()
