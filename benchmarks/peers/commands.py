"""The worker's side of the conversation.

Standard library only: peers import it in environments of their own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

ANSWERS_FD = "BENCHMARK_ANSWERS_FD"
"""Environment variable with the descriptor for answers, apart from what libraries print."""


def answer_commands(ready: dict[str, Any], handle: Callable[..., dict[str, Any]]) -> None:
    """Announce readiness, then answer commands until standard input closes."""
    with os.fdopen(int(os.environ[ANSWERS_FD]), "w", buffering=1) as answers:
        answers.write(json.dumps(ready) + "\n")
        for line in sys.stdin:
            answers.write(json.dumps(handle(**json.loads(line))) + "\n")
