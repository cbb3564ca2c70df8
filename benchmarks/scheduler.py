"""The scheduler alone: what each policy makes of the same bursty trace, and what a plan costs.

    python -m benchmarks.scheduler --requests 100000

No model runs. A step takes as long as a made-up device would need: `STEP_S` and `TOKEN_S` for each token, so
queue times are in that device's seconds. What planning costs is measured, in CPU time of this machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.trace import HEAVY_TENANT, NUM_TENANTS, SYSTEM_TOKENS, Arrival, make_trace
from tokenwire_engine import garbage
from tokenwire_engine.kv_cache.block_pool import BlockPool
from tokenwire_engine.kv_cache.prefix_cache import PrefixCache
from tokenwire_engine.sampling.params import SamplingParams
from tokenwire_engine.scheduler.fair import INPUT_WEIGHT, OUTPUT_WEIGHT
from tokenwire_engine.scheduler.plan import StepPlan, StepResult
from tokenwire_engine.scheduler.policy import make_policy
from tokenwire_engine.scheduler.request import Request
from tokenwire_engine.scheduler.scheduler import Scheduler, SchedulerLimits

RESULTS = Path(__file__).parent / "results"
POLICIES = ("fcfs", "priority", "fair")
RUNNING = (64, 256, 512, 1024, 4096)

STEP_S, TOKEN_S = 8e-3, 20e-6
LIMITS = SchedulerLimits(max_running=256, max_step_tokens=2048, max_model_len=4096)
NUM_BLOCKS, BLOCK_SIZE = 1536, 16
REQUESTS_PER_SECOND = 180.0
WINDOW_STEPS = 200
"""Fairness is judged in windows of so many steps."""


@dataclass(slots=True)
class PolicyResult:
    """What became of the trace under one policy; times in simulated seconds."""

    policy: str
    requests_per_s: float
    output_tokens_per_s: float
    queue_p50_s: float
    queue_p99_s: float
    queue_p99_heavy_tenant_s: float
    queue_p99_other_tenants_s: float
    queue_p99_by_priority_s: dict[int, float]
    jain_index: float
    """Of the service to tenants that waited throughout a window, mean over the windows; 1 is equal."""
    preemptions: int
    prefix_hit_rate: float
    steps: int
    host_us_per_step: float
    """Measured CPU time of planning and taking in results."""


@dataclass(slots=True)
class PlanCost:
    """What a step with so many decoding requests costs the host: medians of CPU time over its steps."""

    running: int
    plan_us: float
    complete_us: float
    changing_plan_us: float
    """With one request that ends and another that joins in each step, as are the next."""
    changing_complete_us: float


class Simulation:
    """Feeds a trace to a scheduler, whose steps cost simulated time."""

    def __init__(self, policy: str) -> None:
        self.now_s = 0.0
        self._policy = policy
        pool = BlockPool(NUM_BLOCKS, BLOCK_SIZE)
        self._scheduler = Scheduler(
            LIMITS, pool, make_policy(policy), PrefixCache(pool), clock=lambda: self.now_s
        )
        self._waiting: dict[int, int] = {}
        """Number of the request that has not run yet, by the identity of its prompt."""
        self._num_waiting: Counter[int] = Counter()
        """Of those, by tenant."""
        self._service: Counter[int] = Counter()
        """By tenant, in this window."""
        self._satisfied: set[int] = set()
        """Tenants that at some time in this window had no request waiting."""
        self._jain: list[float] = []

    def run(self, trace: list[Arrival]) -> tuple[PolicyResult, list[float]]:
        """Also the queue time of each request."""
        scheduler, queue_s, host_s = self._scheduler, [0.0] * len(trace), 0.0
        next_index = 0
        while next_index < len(trace) or scheduler.has_work:
            if not scheduler.has_work:
                self.now_s = max(self.now_s, trace[next_index].at_s)
            while next_index < len(trace) and trace[next_index].at_s <= self.now_s:
                self._submit(next_index, trace[next_index])
                next_index += 1
            started = time.thread_time()
            plan = scheduler.plan()
            host_s += time.thread_time() - started
            assert plan is not None
            for admission in plan.admitted:
                number = self._waiting.pop(id(admission.prompt_token_ids), None)
                if number is not None:
                    queue_s[number] = self.now_s - trace[number].at_s
                    self._serve(trace[number])
            self.now_s += STEP_S + TOKEN_S * plan.num_tokens
            result = _result(plan)
            started = time.thread_time()
            scheduler.complete(result)
            outputs = scheduler.take_outputs()
            host_s += time.thread_time() - started
            for tenant, output in outputs.items():
                self._service[tenant] += OUTPUT_WEIGHT * len(output.token_ids)
            if plan.step % WINDOW_STEPS == 0:
                self._end_window()
        return self._summary(trace, queue_s, host_s), queue_s

    def _submit(self, number: int, arrival: Arrival) -> None:
        unique = arrival.prompt_tokens - SYSTEM_TOKENS
        prompt = [arrival.tenant] * SYSTEM_TOKENS + [NUM_TENANTS + number] * unique
        request = Request(str(number), prompt, SamplingParams(), arrival.output_tokens)
        request.channel, request.tenant = arrival.tenant, str(arrival.tenant)
        request.priority = arrival.priority
        self._waiting[id(prompt)] = number
        self._num_waiting[arrival.tenant] += 1
        self._scheduler.submit(request)

    def _serve(self, arrival: Arrival) -> None:
        self._service[arrival.tenant] += INPUT_WEIGHT * arrival.prompt_tokens
        self._num_waiting[arrival.tenant] -= 1
        if not self._num_waiting[arrival.tenant]:
            self._satisfied.add(arrival.tenant)

    def _end_window(self) -> None:
        waited = [self._service[t] for t in range(NUM_TENANTS) if t not in self._satisfied]
        if len(waited) > 1 and any(waited):
            self._jain.append(sum(waited) ** 2 / (len(waited) * sum(value**2 for value in waited)))
        self._service.clear()
        self._satisfied = {tenant for tenant in range(NUM_TENANTS) if not self._num_waiting[tenant]}

    def _summary(self, trace: list[Arrival], queue_s: list[float], host_s: float) -> PolicyResult:
        counters = self._scheduler.counters
        rows = list(zip(trace, queue_s, strict=True))
        return PolicyResult(
            policy=self._policy,
            requests_per_s=len(trace) / self.now_s,
            output_tokens_per_s=counters.generated_tokens / self.now_s,
            queue_p50_s=percentile(queue_s, 50),
            queue_p99_s=percentile(queue_s, 99),
            queue_p99_heavy_tenant_s=percentile([s for a, s in rows if a.tenant == HEAVY_TENANT], 99),
            queue_p99_other_tenants_s=percentile([s for a, s in rows if a.tenant != HEAVY_TENANT], 99),
            queue_p99_by_priority_s={
                level: percentile([s for a, s in rows if a.priority == level], 99) for level in (-1, 0, 1)
            },
            jain_index=statistics.fmean(self._jain) if self._jain else 1.0,
            preemptions=counters.preemptions,
            prefix_hit_rate=counters.prefix_hit_tokens / counters.prefix_query_tokens,
            steps=counters.steps,
            host_us_per_step=host_s / counters.steps * 1e6,
        )


def plan_cost(running: int, rounds: int = 3) -> PlanCost:
    """Measure steps in which so many requests decode: the best of some rounds, since whoever else uses the
    machine takes turns in its caches."""
    steady = min(_step_cost(running, changes=False) for _ in range(rounds))
    changing = min(_step_cost(running, changes=True) for _ in range(rounds))
    return PlanCost(running, *steady, *changing)


def _step_cost(running: int, changes: bool, steps: int = 50) -> tuple[float, float]:
    """Microseconds of planning a step, and of taking in its results."""
    limits = SchedulerLimits(running, 64 * running, 4096)
    pool = BlockPool(16 * running, BLOCK_SIZE)
    scheduler = Scheduler(limits, pool, make_policy("fcfs"), PrefixCache(pool))
    for number in range(running + (steps if changes else 0)):
        # Of all lengths, so that in each step some need another block.
        prompt = [number] * (1 + number % 32)
        num_tokens = number + 1 if changes and number < steps else 4 * steps
        scheduler.submit(Request(str(number), prompt, SamplingParams(), num_tokens))
    plans: list[float] = []
    completions: list[float] = []
    for _ in range(steps):
        started = time.thread_time()
        plan = scheduler.plan()
        planned = time.thread_time()
        assert plan is not None
        assert plan.num_rows == running
        result = _result(plan)
        collected = time.thread_time()
        scheduler.complete(result)
        scheduler.take_outputs()
        completions.append(time.thread_time() - collected)
        plans.append(planned - started)
    # The first step computes the prompts.
    return statistics.median(plans[1:]) * 1e6, statistics.median(completions[1:]) * 1e6


def percentile(values: list[float], percent: int) -> float:
    """The value that so many percent of the values do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


def markdown(results: list[PolicyResult], costs: list[PlanCost], num_requests: int) -> str:
    """The report."""
    lines = [
        f"# Scheduling {num_requests} requests",
        "",
        f"A bursty, heavy-tailed trace of {NUM_TENANTS} tenants, one of which sends half of the requests, at "
        f"{REQUESTS_PER_SECOND:g} requests/s on a simulated device (a step takes {STEP_S * 1e3:g} ms and "
        f"{TOKEN_S * 1e6:g} µs a token; {LIMITS.max_running} running, {LIMITS.max_step_tokens} tokens a "
        f"step, {NUM_BLOCKS} blocks of {BLOCK_SIZE}). Times in simulated seconds. Jain's index is that of "
        "the service to tenants with requests waiting all the time: 1 is equal.",
        "",
        "| policy | requests/s | output tokens/s | queue p50 | queue p99 | p99, heavy tenant | p99, others | "
        "p99 by priority -1 / 0 / 1 | Jain's index | preemptions | prefix hits |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        by_priority = " / ".join(f"{seconds:.2f}" for seconds in row.queue_p99_by_priority_s.values())
        lines.append(
            f"| {row.policy} | {row.requests_per_s:.1f} | {row.output_tokens_per_s:.0f} | "
            f"{row.queue_p50_s:.3f} | {row.queue_p99_s:.2f} | {row.queue_p99_heavy_tenant_s:.2f} | "
            f"{row.queue_p99_other_tenants_s:.2f} | {by_priority} | {row.jain_index:.3f} | "
            f"{row.preemptions} | {row.prefix_hit_rate:.1%} |"
        )
    lines += [
        "",
        "What a step costs the host (measured CPU time, medians over decode steps, best of three rounds), "
        "while the same requests decode, and with one that ends and one that joins in every step:",
        "",
        "| running requests | plan | take in the results | plan, changing | take in the results, changing |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {c.running} | {c.plan_us:.0f} µs | {c.complete_us:.0f} µs | {c.changing_plan_us:.0f} µs | "
        f"{c.changing_complete_us:.0f} µs |"
        for c in costs
    ]
    return "\n".join(lines) + "\n"


def plot(queue_times: dict[str, tuple[list[float], list[float]]], path: Path) -> None:
    """How long the heavy tenant's and the others' requests queue, per policy."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axis, title, index in zip(axes, ("the tenant with half the load", "the others"), (0, 1), strict=True):
        for policy, times in queue_times.items():
            ordered = sorted(times[index])
            shares = [(i + 1) / len(ordered) for i in range(len(ordered))]
            axis.plot([max(seconds, 1e-3) for seconds in ordered], shares, label=policy)
        axis.set(title=title, xscale="log", xlabel="queue time (simulated s)")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of requests")
    axes[1].legend()
    figure.savefig(path, dpi=110)


def _result(plan: StepPlan) -> StepResult:
    slots = [*plan.decodes.slots, *(row.slot for row in plan.scheduled if row.samples)]
    return StepResult(plan.step, slots, [1] * len(slots))


def main(arguments: list[str] | None = None) -> None:
    """Run all of it and write the reports."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduler", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "scheduler")
    options = parser.parse_args(arguments)

    trace = make_trace(options.requests, REQUESTS_PER_SECOND, options.seed)
    garbage.tune()  # as an engine does
    costs = [plan_cost(running) for running in RUNNING]
    results: list[PolicyResult] = []
    queue_times: dict[str, tuple[list[float], list[float]]] = {}
    for policy in POLICIES:
        result, queue_s = Simulation(policy).run(trace)
        results.append(result)
        rows = list(zip(trace, queue_s, strict=True))
        queue_times[policy] = (
            [seconds for arrival, seconds in rows if arrival.tenant == HEAVY_TENANT],
            [seconds for arrival, seconds in rows if arrival.tenant != HEAVY_TENANT],
        )
    report = markdown(results, costs, options.requests)
    print(report)
    options.output.with_suffix(".md").write_text(report)
    options.output.with_suffix(".json").write_text(
        json.dumps(
            {
                "machine": machine.describe(),
                "requests": options.requests,
                "seed": options.seed,
                "policies": [asdict(result) for result in results],
                "plan_cost": [asdict(cost) for cost in costs],
            },
            indent=2,
        )
        + "\n"
    )
    plot(queue_times, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
