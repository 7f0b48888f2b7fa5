"""The prologue of attention: per-head RMS norm (QK-norm) and rotary position embedding (RoPE).

Not here: the projections, and attention itself. `rope_tables` makes the tables once per batch for
all layers. Tested against float64 and against transformers' Qwen3.
"""

import torch
from torch import Tensor

from unimodal.errors import ShapeError
from unimodal.kernels.qk_prologue import reference
from unimodal.kernels.qk_prologue.eager import NormaliseAndRotate


def rope_tables(
    position: Tensor,
    head_dim: int,
    theta: float = 10_000.0,
    sections: tuple[int, int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of interleaved M-RoPE.

    Frequency i is theta ** (-2 i / head_dim), i < head_dim / 2. It turns with h if i % 3 == 1, with
    w if i % 3 == 2, else with t; so t = h = w gives the one-dimensional RoPE of Qwen3.

    Args:
        position: float32 [B, T, 3]: t, h, w.
        head_dim: Head size H, even.
        theta: Base of the frequencies.
        sections: As Qwen3-VL's `mrope_section`: how many frequencies t, h and w have. Where h or w
            have used up theirs, t takes the rest. None: no such limit.

    Returns:
        cos, sin: float32 [B, T, H / 2].

    Raises:
        ShapeError: if `position` is not [B, T, 3] or `head_dim` is odd.

    References:
        Su et al. 2021, RoFormer; Bai et al. 2025, Qwen3-VL. Differs: none.
    """
    if position.ndim != 3 or position.shape[-1] != 3:
        raise ShapeError(f"`position` must have shape (B, T, 3), but has {tuple(position.shape)}.")
    if head_dim % 2:
        raise ShapeError(f"`head_dim` must be even, but is {head_dim}.")
    number = torch.arange(head_dim // 2, device=position.device)
    exponent = (2 * number).to(torch.float32) / head_dim
    frequency = 1.0 / (theta**exponent)
    axis = number % 3
    if sections is not None:
        if sum(sections) != head_dim // 2:
            raise ShapeError(
                f"`sections` must sum to half of `head_dim` ({head_dim // 2}), but is {sections}."
            )
        limit = torch.tensor((head_dim, *sections[1:]), device=position.device)
        axis = torch.where(number < 3 * limit[axis], axis, 0)
    angle = position.float()[..., axis] * frequency
    return angle.cos(), angle.sin()


def qk_prologue(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """Normalise each head of q and k and rotate them: x / rms(x) * weight, then RoPE.

    RoPE turns (x[i], x[i + H / 2]) by the angle of frequency i, as Qwen3 does. The arithmetic is in
    float32 (float64 for float64), the result in the dtype of the input.

    Args:
        q: [B, T, N, H]; may be a view of a fused projection.
        k: [B, T, K, H].
        q_weight, k_weight: [H], or None for no norm.
        cos, sin: From `rope_tables`, [B, T, H / 2]; [B, T, H] as transformers has them is accepted.
        eps: Added to the mean square.

    Returns:
        The new q and k, contiguous, in the shapes of the old ones.

    Raises:
        ShapeError: if shapes do not fit.
    """
    size = q.shape[-1]
    if q.ndim != 4 or k.ndim != 4 or size % 2 or k.shape[-1] != size:
        raise ShapeError(
            "`q` and `k` must have shapes (B, T, N, H) and (B, T, K, H) with even H, but have "
            f"{tuple(q.shape)} and {tuple(k.shape)}."
        )
    if cos.shape[-1] == size:
        cos, sin = cos[..., : size // 2], sin[..., : size // 2]
    expected = (*q.shape[:2], size // 2)
    if cos.shape != expected or sin.shape != expected:
        raise ShapeError(
            f"`cos` and `sin` must have shape {expected}, but have {tuple(cos.shape)} and "
            f"{tuple(sin.shape)}."
        )
    return _one(q, q_weight, cos, sin, eps), _one(k, k_weight, cos, sin, eps)


def _one(x: Tensor, weight: Tensor | None, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    if torch.compiler.is_compiling():
        return reference.normalise_and_rotate(x, weight, cos, sin, eps)
    result: Tensor = NormaliseAndRotate.apply(x, weight, cos, sin, eps)
    return result
