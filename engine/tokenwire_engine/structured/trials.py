"""The engine's side of a trial: asks the process of `trial.py`, and knows what its silence means."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tokenwire_engine.structured.trial import MAX_BYTES, MAX_CPU_S, READY

START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 4.0 * MAX_CPU_S
"""For a machine that has too much to do to give the trial its processor time."""


class TrialError(Exception):
    """A constraint that must not be compiled here; says why."""


class NoTrialError(Exception):
    """Constraints cannot be tried, whatever they are; says why."""


@dataclass(slots=True, frozen=True)
class Verdict:
    """A grammar that compiled within the limits."""

    grammar: str
    """As llguidance takes it."""
    num_bytes: int
    """Memory that it took."""


class Trials:
    """One trial process, started by the first trial and again when it was lost. From any thread."""

    def __init__(self, tokenizer_json: Path, vocab_size: int, eos_token_ids: tuple[int, ...]) -> None:
        module = f"{__package__}.trial"
        numbers = map(str, (vocab_size, *eos_token_ids))
        self._command = [sys.executable, "-P", "-m", module, str(tokenizer_json), *numbers]
        self._starting = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, kind: str, text: str) -> Verdict:
        """Compile a constraint in a process of its own. Takes as long as that takes.

        Raises:
            TrialError: it is malformed, unsupported, or passes a limit.
            NoTrialError: the trial process does not come up.
        """
        started = time.monotonic()
        try:
            answer = self._ask(json.dumps({"kind": kind, "text": text}).encode())
        except TimeoutError:
            answer = b""
        if not answer:
            if time.monotonic() - started >= MAX_CPU_S:
                raise TrialError(f"takes more than {MAX_CPU_S} s to compile; simplify it")
            raise TrialError(
                f"needs more than {MAX_BYTES >> 20} MB, or nests too deeply, to compile; simplify it"
            )
        verdict = json.loads(answer)
        if verdict["error"]:
            raise TrialError(f"cannot be used: {verdict['error']}")
        return Verdict(verdict["grammar"], verdict["num_bytes"])

    def close(self) -> None:
        """End the process. Trials that run, or come to run, fail."""
        if self._process is not None:
            self._process.kill()

    def _ask(self, request: bytes) -> bytes:
        """The answer; empty when the child died."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._hand_over(theirs)
            ours.settimeout(ANSWER_TIMEOUT_S)
            try:
                ours.sendall(request)
                ours.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: ours.recv(1 << 16), b""))
            except (BrokenPipeError, ConnectionResetError):
                return b""

    def _hand_over(self, peer: socket.socket) -> None:
        with self._starting:
            for _ in range(2):
                control = self._control or self._start()
                try:
                    socket.send_fds(control, [b"t"], [peer.fileno()])
                    return
                except OSError:  # the process was lost since the last trial
                    self._forget()
        raise NoTrialError("the process that tries constraints ended unexpectedly")

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            # It ends by itself when its standard input does.
            process = self._process = subprocess.Popen(
                self._command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        ours.settimeout(START_TIMEOUT_S)
        greeting = ours.recv(1 << 12)
        if greeting != READY:
            ours.close()
            process.wait()
            reason = greeting.decode(errors="replace") or "the process that tries constraints does not start"
            raise NoTrialError(reason)
        ours.settimeout(None)
        self._control = ours
        return ours

    def _forget(self) -> None:
        if self._control is not None and self._process is not None:
            self._control.close()
            self._control = None
            self._process.wait()
