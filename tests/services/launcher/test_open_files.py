"""The limit of open files, seen from a process that starts with a small one."""

import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from tokenwire_services.launcher.main import main
main(["--version"])
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize("hard", [256, 4096])
def test_a_process_may_open_as_many_files_as_the_system_lets_it(hard):
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard)),
    ).stdout
    assert output.splitlines()[-1] == f"{hard} {hard}"
