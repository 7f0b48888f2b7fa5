"""Decode constraints only remove ids."""

import torch

from unimodal.constraints import Ban, Trie

END = 0


def test_a_trie_allows_only_its_sequences_each_with_its_end() -> None:
    trie = Trie(((5, 6, END), (5, END), (7, 8, 9, END)))
    ids = torch.arange(10)

    def allowed(*written: int) -> list[int]:
        kept = trie.keep(written, ids)
        assert kept is not None
        return ids[kept].tolist()

    assert allowed() == [5, 7]
    assert allowed(5) == [0, 6]
    assert allowed(7, 8) == [9]
    assert allowed(8) == []


def test_a_ban_removes_its_ids() -> None:
    kept = Ban((1, 3)).keep((), torch.arange(5))
    assert kept is not None
    assert kept.tolist() == [True, False, True, False, True]
