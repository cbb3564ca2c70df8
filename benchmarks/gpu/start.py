"""One start in a process of its own: loads, warms up, computes a token, prints the phases' seconds as JSON.

Arguments: a checkpoint's directory, a device, and the monotonic time at which the process was asked for.
"""

from __future__ import annotations

import json
import sys
import time

from tokenwire_engine.server.startup import StartupClock


def main() -> None:
    directory, device, asked = sys.argv[1:]
    startup = StartupClock(lambda phase, fraction=None: None)
    startup("importing PyTorch")
    from benchmarks.gpu.steps import GREEDY
    from tokenwire_engine.config import EngineConfig
    from tokenwire_engine.runner.load import load_runner
    from tokenwire_engine.scheduler.plan import Admission, ScheduledTokens, StepPlan

    interpreter = time.monotonic() - float(asked)
    config = EngineConfig(model=directory, device=device)
    runner = load_runner(config, startup)
    startup("warming up")
    runner.warm_up()
    startup("first token")
    prompt = [1, 2, 3]
    rows = [ScheduledTokens(0, 0, prompt, [[0]], samples=True)]
    runner.launch(StepPlan(0, admitted=[Admission(0, GREEDY, prompt, [])], scheduled=rows))
    runner.collect()
    startup.finish()
    imported = startup.seconds["importing PyTorch"]
    print(json.dumps({"starting Python": max(0.0, interpreter - imported)} | startup.seconds))


if __name__ == "__main__":
    main()
