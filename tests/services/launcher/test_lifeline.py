"""Processes whose parent is killed."""

import os
import signal
import subprocess
import sys

from tests.patience import PATIENCE_S

CHILD = """
import os, time
from tokenwire_services.launcher.lifeline import die_with_parent
die_with_parent({parent})
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1].format(parent=os.getpid())])
"""


def test_a_process_ends_when_its_parent_is_killed():
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    parent.stdout.readline()
    os.kill(parent.pid, signal.SIGKILL)
    assert parent.communicate(timeout=PATIENCE_S)[0] == ""  # ends when the child no longer holds the pipe


def test_a_process_whose_parent_is_already_gone_ends_at_once():
    orphan = subprocess.run([sys.executable, "-c", CHILD.format(parent=1)], timeout=PATIENCE_S)
    assert orphan.returncode == -signal.SIGKILL
