"""Steps with prompts, replayed: a batch is laid out on the host, and the graphs that hold it do the rest."""

from __future__ import annotations

from tokenwire_engine.runner.batch import assemble
from tokenwire_engine.runner.executor import Sampling
from tokenwire_engine.runner.forward_graphs import ForwardGraphs
from tokenwire_engine.runner.graphs import GraphExecutor, SampledRows
from tokenwire_engine.runner.launched import Landing, Launched
from tokenwire_engine.runner.slots import SlotState
from tokenwire_engine.runner.staging import Staging
from tokenwire_engine.scheduler.plan import StepPlan


class PassExecutor:
    """The `StepExecutor` of whatever rows the graphs have places for, unless prompts are to be scored."""

    def __init__(
        self,
        passes: ForwardGraphs,
        graphs: GraphExecutor,
        slots: SlotState,
        staging: Staging,
        landing: Landing,
    ) -> None:
        """`graphs` samples from the hidden states of `passes`."""
        self._passes = passes
        self._graphs = graphs
        self._slots = slots
        self._staging = staging
        self._landing = landing

    def forward(self, plan: StepPlan) -> Sampling | None:
        """See `StepExecutor.forward`."""
        tables = self._slots.tables
        batch = assemble(plan, tables, self._slots.steady.of(plan.decodes))
        replay = self._passes.holding(batch)
        if replay is None or batch.scored or not self._graphs.holds(len(batch.sampled_slots)):
            return None
        rows = SampledRows(
            batch.arrays["sampled_slots"], batch.sampled_positions, batch.arrays["sampled_tokens"]
        )
        arrays = batch.pending | tables.take_changes() | self._graphs.prepare(rows.slots, rows.positions)
        sent = self._staging.send(arrays) if arrays else {}
        tables.update(sent)
        replay(sent)
        if not batch.sampled_slots:
            return lambda _: self._landing.send(Launched(plan.step, []))
        return self._graphs.project(plan.step, rows, sent)
