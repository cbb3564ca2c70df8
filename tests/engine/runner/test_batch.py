"""How a plan becomes a flat batch."""

from __future__ import annotations

import numpy as np
import torch

from tokenwire_engine.runner.batch import assemble
from tokenwire_engine.runner.block_tables import BlockTables
from tokenwire_engine.runner.staging import Staging
from tokenwire_engine.scheduler.plan import PENDING, DecodeColumns, ScheduledTokens, StepPlan

CPU = torch.device("cpu")


def tables_of(blocks: dict[int, list[int]]) -> BlockTables:
    tables = BlockTables(num_slots=4, max_blocks=8, block_size=16, device=CPU)
    for slot, row in blocks.items():
        tables.append(slot, [row])
    return tables


def test_decodes_come_first_and_samples_keep_the_plans_order() -> None:
    tables = tables_of({0: [5], 1: [7, 2], 2: [3], 3: [1]})
    batch = assemble(
        StepPlan(
            0,
            scheduled=[
                ScheduledTokens(0, 0, [10, 11, 12], [], samples=True),
                ScheduledTokens(1, 16, [20], [], samples=True),
                ScheduledTokens(2, 0, [30, 31], [], samples=False),
                ScheduledTokens(3, 4, [40], [], samples=True),
            ],
        ),
        tables,
    )
    arrays = {name: array.tolist() for name, array in (batch.inputs | batch.pending | batch.arrays).items()}
    assert arrays["slots"] == [1, 3, 0, 2]
    assert arrays["token_ids"] == [20, 40, 10, 11, 12, 30, 31]
    assert arrays["positions"] == [16, 4, 0, 1, 2, 0, 1]
    assert arrays["cache_slots"] == [[2 * 16, 16 + 4, 5 * 16, 5 * 16 + 1, 5 * 16 + 2, 3 * 16, 3 * 16 + 1]]
    assert arrays["query_starts"] == [0, 1, 2, 5, 7]
    assert arrays["context_lens"] == [17, 5, 3, 2]
    assert batch.sampled_slots == [0, 1, 3]
    assert arrays["sampled_tokens"] == [4, 0, 1]
    assert batch.sampled_positions.tolist() == [3, 17, 5]
    assert (batch.num_decodes, batch.max_query_len, batch.max_context_len) == (2, 3, 17)
    assert not batch.samples_all


def test_a_batch_of_decodes_samples_all_of_its_tokens_in_order() -> None:
    batch = assemble(
        StepPlan(0, scheduled=[ScheduledTokens(slot, slot, [slot], [], samples=True) for slot in (2, 0, 1)]),
        tables_of({0: [0], 1: [1], 2: [2]}),
    )
    assert batch.samples_all
    assert batch.arrays["sampled_tokens"].tolist() == [0, 1, 2]


def test_a_table_grows_at_its_end_and_starts_anew_when_cleared() -> None:
    tables = tables_of({1: [4, 6]})
    tables.append(1, [[9]])
    assert tables.rows(torch.tensor([1]), 48).tolist() == [[[4, 6, 9]]]
    tables.clear(1)
    tables.append(1, [[8]])
    assert tables.rows(torch.tensor([1]), 16).tolist() == [[[8]]]
    assert tables.cache_slots(np.array([1, 1]), np.array([0, 15])).tolist() == [[128, 143]]


def test_tables_grow_by_a_block_each_as_they_do_one_by_one() -> None:
    each, one_by_one = (
        BlockTables(num_slots=3, max_blocks=3, block_size=16, device=CPU, num_groups=2) for _ in range(2)
    )
    for tables in (each, one_by_one):
        tables.append(2, [[4], [9]])
    each.append_each([2, 0], [[5, 6], [7, 8]])
    each.append_each([], [[], []])
    one_by_one.append(2, [[5], [7]])
    one_by_one.append(0, [[6], [8]])
    for tables in (each, one_by_one):
        tables.append(0, [[1], [2]])
    assert each.on_device.tolist() == one_by_one.on_device.tolist()
    assert each.on_device[:, 2].tolist() == [[4, 5, 0], [9, 7, 0]]


def test_another_device_is_told_what_was_appended() -> None:
    tables = BlockTables(num_slots=3, max_blocks=4, block_size=16, device=torch.device("meta"), num_groups=2)
    tables.append(1, [[4, 5], [6, 7]])
    tables.append_each([1, 2], [[8, 1], [9, 2]])
    changes = tables.take_changes()
    places = dict(zip(changes["changed_entries"].tolist(), changes["changed_blocks"].tolist(), strict=True))
    # Of two groups of three slots of four blocks each.
    assert places == {4: 4, 5: 5, 16: 6, 17: 7, 6: 8, 8: 1, 18: 9, 20: 2}
    assert tables.take_changes() == {}


def test_each_group_of_layers_has_tables_and_places_of_its_own() -> None:
    tables = BlockTables(num_slots=2, max_blocks=3, block_size=16, device=CPU, num_groups=2)
    tables.append(0, [[4], [9]])
    tables.append(1, [[2, 3], [7, 5]])
    tables.append(0, [[1], [8]])
    assert tables.rows(torch.tensor([1, 0]), 20).tolist() == [[[2, 3], [4, 1]], [[7, 5], [9, 8]]]
    batch = assemble(
        StepPlan(
            0,
            scheduled=[
                ScheduledTokens(0, 15, [1, 2], [], samples=True),
                ScheduledTokens(1, 31, [3], [], samples=True),
            ],
        ),
        tables,
    )
    forward = batch.on_device(Staging(CPU, 0).send(batch.inputs), tables)
    assert [view.cache_slots.tolist() for view in forward.views] == [[63, 79, 16], [95, 159, 128]]
    assert all(view.cache_slots.is_contiguous() for view in forward.views)
    assert [view.attention.block_tables.tolist() for view in forward.views] == [
        [[2, 3], [4, 1]],
        [[7, 5], [9, 8]],
    ]


def test_what_decodes_steadily_comes_as_columns_before_the_other_rows() -> None:
    plan = StepPlan(
        0,
        decodes=DecodeColumns([3, 1], [0, 12], shift=4),
        scheduled=[
            ScheduledTokens(0, 0, [10, 11, 12], [], samples=True),
            ScheduledTokens(2, 5, [20], [], samples=True),
        ],
    )
    batch = assemble(plan, tables_of({0: [5], 1: [7, 2], 2: [3], 3: [1]}))
    by_rows = assemble(StepPlan(0, scheduled=plan.rows()), tables_of({0: [5], 1: [7, 2], 2: [3], 3: [1]}))
    assert batch.inputs["token_ids"].tolist() == [PENDING, PENDING, 20, 10, 11, 12]
    assert batch.pending["pending_slots"].tolist() == [3, 1]
    assert batch.sampled_slots == [3, 1, 0, 2]
    for name, array in (batch.inputs | batch.pending | batch.arrays).items():
        assert array.tolist() == (by_rows.inputs | by_rows.pending | by_rows.arrays)[name].tolist()
