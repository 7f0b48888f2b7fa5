"""Benchmark of DNA n-grams: one sequence of `batch * seq` letters, some of them N."""

import torch

from unimodal.kernels.bench.spec import OURS, Contender, Problem, Spec
from unimodal.kernels.dna_ngrams import dna_ngrams
from unimodal.kernels.dna_ngrams import reference as ngrams_reference
from unimodal.kernels.dna_ngrams.layout import NUM_LETTERS

N = 3
SHARE_OF_OTHERS = 1e-3


def ngrams(spec: Spec) -> Problem:
    """Blocks of three letters; integers, no gradient."""
    generator = torch.Generator().manual_seed(0)
    bases = torch.randint(4, (spec.rows,), generator=generator)
    is_other = torch.rand(spec.rows, generator=generator) < SHARE_OF_OTHERS
    letters = torch.where(is_other, 5, bases).to(device=spec.device, dtype=torch.uint8)

    def eager(letters: torch.Tensor) -> tuple[torch.Tensor]:
        return (ngrams_reference.dna_ngrams(letters, N, False, NUM_LETTERS),)

    (ids,) = eager(letters)
    return Problem(
        inputs=(letters,),
        grads=(),
        exact=lambda tensors: eager(tensors[0]),
        makers={
            OURS: lambda: Contender(lambda: (dna_ngrams(letters, N),), has_backward=False),
            "eager": lambda: Contender(
                lambda: eager(letters), has_backward=False, note="plain torch, in int64"
            ),
        },
        # A shift and an addition a letter; integers, which the roof of products says little of.
        flops=2.0 * spec.rows,
        num_bytes=float(letters.numel() + ids.numel()),
        facts={"n": N, "share_of_others": SHARE_OF_OTHERS},
    )
