"""Benchmark of log-mel features: `batch` clips of `seq` frames (10 ms each)."""

import torch

from unimodal.kernels.bench.spec import OURS, Contender, Problem, Spec
from unimodal.kernels.log_mel import log_mel
from unimodal.kernels.log_mel import reference as mel_reference

HOP_LENGTH = 160
NUM_MELS = 80


def mel(spec: Spec) -> Problem:
    """Features of noise; float32 only, no gradient."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(spec.batch, spec.seq * HOP_LENGTH, generator=generator) * 2 - 1
    clips = samples.to(spec.device)
    # A real transform of 400 points by its fast algorithm, and the product with the bank.
    frames = spec.batch * spec.seq
    return Problem(
        inputs=(clips,),
        grads=(),
        exact=lambda tensors: [mel_reference.log_mel(clip, NUM_MELS) for clip in tensors[0]],
        makers={
            OURS: lambda: Contender(lambda: log_mel(list(clips), NUM_MELS), has_backward=False),
            "eager": lambda: Contender(
                lambda: [mel_reference.log_mel(clip, NUM_MELS) for clip in clips],
                has_backward=False,
                note="torch.stft, a clip at a time",
            ),
        },
        flops=frames * (2.5 * 400 * 8.6 + 2 * 201 * NUM_MELS),
        num_bytes=4.0 * (clips.numel() + frames * NUM_MELS),
    )
