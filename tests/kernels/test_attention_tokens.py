"""The plan that kernels read, in torch: it stands for the patterns' own mask. No Triton here."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unimodal.kernels.attention.contract import AttentionPlan
from unimodal.kernels.attention.forms import MAX_CONDITIONS, Form, number_programs
from unimodal.kernels.attention.tokens import TokenPlan, dense_mask, plan_tokens
from unimodal.patterns import (
    Causal,
    Column,
    Conv,
    Full,
    Nearby3D,
    Pattern,
    Prefix,
    Row,
    Window,
    visible,
)
from unimodal.types import Coordinates

SIMPLE = st.sampled_from(
    [
        Causal(),
        Full(),
        Prefix(2),
        Window(3),
        Row(),
        Column(),
        Conv(3),
        Nearby3D(1, 1, 0),
    ]
)
COMBINED = st.one_of(
    SIMPLE,
    st.builds(lambda a, b: a & b, SIMPLE, SIMPLE),
    st.builds(lambda a, b, c: (a & b) | c, SIMPLE, SIMPLE, SIMPLE),
)


def plan_of(coordinates: Coordinates, by_kind: list[Pattern]) -> TokenPlan:
    programs = number_programs([None if p.is_dense else p.form() for p in by_kind])
    assert programs is not None
    return plan_tokens(coordinates, programs)


def random_coordinates(seed: int, batch: int = 2, length: int = 40) -> Coordinates:
    """Anything at all: interleaved documents, segments of mixed kinds, repeated cells."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, (batch, length, *shape), generator=generator).int()

    grid = draw(0, 4, 3)
    grid[draw(0, 4) == 0] = -1
    segment = draw(0, 3).sort(dim=1).values
    index = torch.arange(length, dtype=torch.int32).expand(batch, length)
    return Coordinates(index, draw(-1, 3), segment, draw(0, 3), draw(0, 2).bool(), grid)


@settings(max_examples=40, deadline=None)
@given(st.lists(COMBINED, min_size=3, max_size=3), st.integers(0, 1000))
def test_a_plan_stands_for_the_patterns_mask(by_kind: list[Pattern], seed: int) -> None:
    coordinates = random_coordinates(seed)
    plan = plan_of(coordinates, by_kind)
    mask = visible(coordinates, coordinates, by_kind)
    if plan.order is not None:
        place = plan.order.view(plan.shape) % plan.shape[1]
        rows = torch.arange(plan.shape[0])[:, None, None]
        mask = mask[rows, place[:, :, None], place[:, None, :]]
    assert torch.equal(dense_mask(plan.tensors()), mask)


def test_column_cells_are_visited_by_column_and_nothing_else_moves() -> None:
    length = 12
    grid = torch.full((1, length, 3), -1, dtype=torch.int32)
    grid[0, 3:9] = torch.tensor([[0, h, w] for h in range(2) for w in range(3)]).int()
    zeros = torch.zeros(1, length, dtype=torch.int32)
    index = torch.arange(length, dtype=torch.int32)[None]
    coordinates = Coordinates(index, zeros, zeros, zeros, zeros.bool(), grid)
    plan = plan_of(coordinates, [Column()])
    assert plan.order is not None
    assert plan.order.tolist() == [0, 1, 2, 3, 6, 4, 7, 5, 8, 9, 10, 11]
    assert plan.tokens[0, 0].tolist() == plan.order.tolist()
    assert plan_of(coordinates, [Column() | Row()]).order is None


def test_programs_are_shared_and_limited() -> None:
    row = Row().form()
    programs = number_programs([row, None, row])
    assert programs is not None
    assert programs.of_kind == (1, 0, 1)
    assert len(programs.conditions) == 1
    wide: Form = row
    for _ in range(MAX_CONDITIONS):
        wide = wide | row
    assert number_programs([wide]) is None


def test_a_plan_holds_a_few_integers_a_token() -> None:
    coordinates = random_coordinates(0, length=64)
    plan: AttentionPlan = plan_of(coordinates, [Row(), Column(), Conv(3)])
    assert sum(t.numel() for t in plan.tensors()) < 9 * 2 * 64 + 40
