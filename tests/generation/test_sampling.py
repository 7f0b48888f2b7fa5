"""Drawing: ids come as often as temperature, top-k, top-p and what is legal say, row by row."""

import math

import pytest
import torch

from unimodal.generation import Sampling
from unimodal.generation.sampling import Sampler, Uniforms

SHARES = (0.05, 0.4, 0.15, 0.3, 0.1)
DRAWS = 4000


def shares(sampling: Sampling, legal: tuple[int, ...] | None = None) -> list[float]:
    """How often each id is drawn when the random numbers are spread evenly over [0, 1)."""
    logits = torch.tensor([SHARES]).log().expand(DRAWS, -1)
    uniform = (torch.arange(DRAWS, dtype=torch.float64) + 0.5) / DRAWS
    mask = None
    if legal is not None:
        mask = torch.zeros(1, len(SHARES), dtype=torch.bool)  # one row stands for all
        mask[:, list(legal)] = True
    sampler = Sampler([sampling] * DRAWS, torch.device("cpu"))
    chosen, score = sampler.draw(logits, uniform, mask)
    torch.testing.assert_close(score.exp(), torch.tensor(SHARES)[chosen])
    return (torch.bincount(chosen, minlength=len(SHARES)) / DRAWS).tolist()


def among(kept: tuple[int, ...], power: float = 1.0) -> list[float]:
    """The shares of `kept`, each to a power, that sum to one."""
    weights = [share**power if i in kept else 0.0 for i, share in enumerate(SHARES)]
    return [weight / math.fsum(weights) for weight in weights]


@pytest.mark.parametrize(
    ("sampling", "legal", "expected"),
    [
        (Sampling(), None, among((0, 1, 2, 3, 4))),
        (Sampling(temperature=0.5), None, among((0, 1, 2, 3, 4), power=2.0)),
        (Sampling(temperature=2.0), None, among((0, 1, 2, 3, 4), power=0.5)),
        (Sampling(top_k=2), None, among((1, 3))),
        (Sampling(top_k=9), None, among((0, 1, 2, 3, 4))),
        (Sampling(top_p=0.39), None, among((1,))),
        (Sampling(top_p=0.69), None, among((1, 3))),
        (Sampling(top_p=0.71), None, among((1, 2, 3))),
        (Sampling(top_k=3, top_p=0.8), None, among((1, 3))),
        (Sampling(), (0, 2), among((0, 2))),
        (Sampling(top_k=2), (0, 2, 4), among((2, 4))),
        (Sampling(top_p=0.45), (0, 2, 4), among((2,))),
    ],
)
def test_ids_come_as_often_as_the_settings_say(
    sampling: Sampling, legal: tuple[int, ...] | None, expected: list[float]
) -> None:
    assert shares(sampling, legal) == pytest.approx(expected, abs=2 / DRAWS)


def test_each_row_has_settings_of_its_own() -> None:
    settings = [Sampling(temperature=0), Sampling(top_k=1), Sampling(), Sampling(top_p=0.5)]
    logits = torch.tensor([SHARES]).log().expand(4, -1)
    uniform = torch.tensor([0.99, 0.99, 0.99, 0.99], dtype=torch.float64)
    chosen, _ = Sampler(settings, torch.device("cpu")).draw(logits, uniform)
    assert chosen.tolist() == [1, 1, 4, 3]


def test_numbers_follow_the_seed_alone() -> None:
    one, other = Uniforms(3), Uniforms(3)
    taken = one.take(100)
    assert [other.take(1)[0] for _ in range(100)] == taken
    one.give_back(taken[-2:])
    assert one.take(2) == taken[-2:]
    assert Uniforms(4).take(100) != taken
    assert all(0 <= number < 1 for number in taken)
