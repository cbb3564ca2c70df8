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
ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}


def test_where_the_locale_is_ascii_other_text_is_read_and_spelled_out():
    program = (
        "import sys; from tokenwire_services.launcher.main import main; main(['--version']); "
        "print(sys.stdin.read(), '🙂')"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(
        command, input="é".encode(), capture_output=True, env={**os.environ, **ASCII}, timeout=60
    )
    assert ended.stderr == b""
    assert ended.stdout.splitlines()[-1] == b"\\ufffd\\ufffd \\U0001f642"


@pytest.mark.parametrize(
    ("output", "said"), [("| true", b""), ("> /dev/full", b"tokenwire: [Errno 28] No space left on device\n")]
)
def test_output_that_nobody_takes_is_one_line_at_most(output, said):
    command = f"{sys.executable} -m tokenwire_services.launcher --help {output}; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (1, said)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_it_runs_and_no_socket_takes_their_numbers(closed):
    def close():
        for number in closed:
            os.close(number)

    assert subprocess.run([sys.executable, "-c", PROGRAM], preexec_fn=close, timeout=60).returncode == 0
