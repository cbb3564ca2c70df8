"""A process that is started without standard streams."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, socket, sys
from tokenwire_services.launcher.main import main
code = main(["--version"])
print("goes nowhere, or to the test", flush=True)
print("so does this", file=sys.stderr, flush=True)
os._exit(0 if code == 0 and socket.socket().fileno() > 2 else 1)
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_it_runs_and_no_socket_takes_their_numbers(closed):
    def close():
        for number in closed:
            os.close(number)

    assert subprocess.run([sys.executable, "-c", PROGRAM], preexec_fn=close, timeout=60).returncode == 0
