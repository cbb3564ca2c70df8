"""What importing the client brings, and what it does not."""

import subprocess
import sys

import pytest

import tokenwire


def loaded_by(statement: str) -> set[str]:
    """Modules that a fresh interpreter has loaded after a statement."""
    program = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split())


def test_importing_the_stubs_does_not_load_the_client():
    modules = loaded_by("import tokenwire.v1")
    assert "tokenwire" in modules
    assert not modules & {"tokenwire.client", "tokenwire.aio", "grpc"}


def test_the_client_needs_no_server():
    modules = loaded_by("import tokenwire; tokenwire.Client")
    assert "tokenwire.client" in modules
    assert not {name.partition(".")[0] for name in modules} & {
        "torch",
        "tokenizers",
        "fastapi",
        "hpack",
        "tokenwire_engine",
        "tokenwire_services",
    }


def test_every_public_name_is_there():
    public = [name for name in dir(tokenwire) if name[0].isupper() and name != "TYPE_CHECKING"]
    assert {"Client", "AsyncClient", "Generation", "TokenwireError"} <= set(public)
    assert all(getattr(tokenwire, name) is not None for name in public)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = tokenwire.nothing
