"""What tests of decoding share, plain and interpreted: slots of a cache, and pages of one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Slots = Callable[[int, int, int, int], tuple[Tensor, Tensor]]
Pages = Callable[[Tensor, int, Tensor, int], tuple[Tensor, Tensor]]


@pytest.fixture
def random_slots() -> Slots:
    """`(batch, new, slots, seed)`: integers of new positions and of a cache in no order."""

    def make(batch: int, new: int, slots: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def draw(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, (batch, slots, *shape), generator=generator)

        index = torch.rand(batch, slots, generator=generator).argsort(1)
        document, segment = index // (slots // 2 + 1), index // (slots // 4 + 1)
        cell = draw(0, 4, 3)
        cell[draw(0, 8) == 0] = -1
        full = segment % 2
        # Kinds beyond those that a pattern is given for, too.
        parts = [index, document, segment, draw(0, 4), full]
        keys = torch.cat([torch.stack(parts, -1), cell], -1).int()
        # The last ones of the second document, and now and then nobody.
        queries = keys.gather(1, index.argsort(1)[:, -new:, None].expand(-1, -1, 8))
        keys[draw(0, 8) == 0] = -1
        if new > 1:
            queries[0, 0] = -1
        return queries.contiguous(), keys

    return make


@pytest.fixture
def to_pages() -> Pages:
    """`(cache, size, used, seed)`: pages in random order with NaN elsewhere, and their table.

    Args of the function: cache [B, S, ...]; slots of a page; slots in use of each row, beyond
    which the table holds no page.
    """

    def make(cache: Tensor, size: int, used: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        batch, slots = cache.shape[:2]
        each = -(-slots // size)
        spare = 3
        order = torch.randperm(
            batch * each + spare, generator=torch.Generator().manual_seed(seed)
        ).int()
        table = order[: batch * each].view(batch, each).clone()
        pages = cache.new_full((batch * each + spare, size, *cache.shape[2:]), torch.nan)
        for row in range(batch):
            for place in range(int(used[row])):
                pages[table[row, place // size], place % size] = cache[row, place]
            table[row, -(-int(used[row]) // size) :] = -1 if row % 2 else 1 << 30
        return pages, table

    return make
