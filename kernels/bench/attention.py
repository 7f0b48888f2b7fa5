"""Attention's benchmark: ours against torch's on the same documents and the same mask.

Contenders that know no documents get them as a batch of their own (`sdpa`, `cudnn`, `flash`,
`flash_attn`): that is the best a user can do when all documents have one length, as here. `dense`
attends over whole rows with a mask, which is what a user does without thinking.
"""

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unimodal.kernels.attention import attention, plan_attention
from unimodal.kernels.attention.tokens import plan_tokens
from unimodal.kernels.bench import layouts
from unimodal.kernels.bench.compilers import no_compiler
from unimodal.kernels.bench.spec import OURS, Contender, Missing, Problem, Spec, random

Mask = Tensor | None


def problem(spec: Spec) -> Problem:
    """Queries, keys and values, what is right, and who competes."""
    shapes = [(spec.batch, spec.seq, n, spec.head_dim) for n in (spec.heads, *[spec.kv_heads] * 2)]
    q, k, v = (random(shape, spec, seed) for seed, shape in enumerate(shapes))
    grad = random(shapes[0], spec, 3, grad=False)
    placed = layouts.layout(spec)
    by_kind = layouts.kinds(spec)
    documents = spec.batch * spec.documents
    length = spec.seq // spec.documents
    one = placed.map(lambda x: x[0, :length])
    mask = layouts.visible(one, one, by_kind)
    pairs = int(mask.sum()) * documents
    tensors = (q, k, v)
    is_plain = spec.pattern.strip() in ("causal", "full")
    causal = spec.pattern.strip() == "causal"
    moved = 2 * (q.numel() + k.numel()) * q.element_size()

    def build() -> Tensor:
        return layouts.visible(one, one, by_kind)

    sdpa = partial(_sdpa, spec, tensors, build, is_plain, causal)
    return Problem(
        inputs=tensors,
        grads=(grad,),
        exact=lambda inputs: (_definition(inputs, mask, spec.documents),),
        makers={
            OURS: lambda: _ours(tensors, placed, by_kind),
            "sdpa": lambda: sdpa(None),
            "dense": lambda: _dense(tensors, placed, by_kind),
            "flex": lambda: _flex(spec, tensors, placed, by_kind),
            "compile": lambda: _compiled(spec, tensors, mask),
            "cudnn": lambda: sdpa("CUDNN_ATTENTION"),
            "flash": lambda: sdpa("FLASH_ATTENTION"),
            "flash_attn": lambda: _flash_attn(spec, tensors, is_plain, causal),
        },
        largest_term=float(v.detach().abs().max()),
        flops=4.0 * spec.head_dim * spec.heads * pairs,
        num_bytes=moved,
        facts={"visible_pairs": pairs, "share_of_rows": pairs / (spec.batch * spec.seq**2)},
    )


def _definition(inputs: Sequence[Tensor], mask: Tensor, documents: int) -> Tensor:
    """softmax(q k^T / sqrt(H) + mask) v in the precision of its inputs, a head at a time."""
    q, k, v = inputs
    queries, keys, values = (_split(x, documents) for x in (q, k, v))
    group = q.shape[2] // k.shape[2]

    def one(q_h: Tensor, k_h: Tensor, v_h: Tensor) -> Tensor:
        scores = q_h @ k_h.transpose(-1, -2) * q.shape[-1] ** -0.5
        return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1) @ v_h

    heads = [
        checkpoint(
            one, queries[:, n], keys[:, n // group], values[:, n // group], use_reentrant=False
        )
        for n in range(q.shape[2])
    ]
    return _join(torch.stack(heads, dim=1), q)


def _split(x: Tensor, documents: int) -> Tensor:
    """[B, T, N, H] to [B * documents, N, T / documents, H]."""
    return x.reshape(x.shape[0] * documents, -1, *x.shape[2:]).transpose(1, 2)


def _join(out: Tensor, like: Tensor) -> Tensor:
    return out.transpose(1, 2).reshape(like.shape)


def _ours(
    tensors: tuple[Tensor, ...], placed: layouts.Layout, by_kind: Sequence[layouts.BenchPattern]
) -> Contender:
    q, k, v = tensors
    held: dict[str, Any] = {}

    def prepare() -> None:
        held["plan"] = plan_attention(placed, by_kind, layouts.visible)  # type: ignore[arg-type]

    return Contender(lambda: (attention(q, k, v, held["plan"]),), prepare)


def _sdpa(
    spec: Spec,
    tensors: tuple[Tensor, ...],
    build: Callable[[], Tensor],
    is_plain: bool,
    causal: bool,
    backend: str | None,
) -> Contender | Missing:
    """Torch's own on documents as a batch; a named backend takes no mask."""
    if backend is not None and spec.device != "cuda":
        return Missing("it needs a CUDA device")
    if backend is not None and not is_plain:
        return Missing("it takes no mask, and the pattern needs one")
    held: dict[str, Mask] = {"mask": None}
    chosen: Callable[[], AbstractContextManager[Any]] = nullcontext
    if backend is not None:
        attention_backends = importlib.import_module("torch.nn.attention")
        kind = getattr(attention_backends.SDPBackend, backend)
        chosen = partial(attention_backends.sdpa_kernel, kind)

    def prepare() -> None:
        held["mask"] = None if is_plain else build()

    def forward() -> tuple[Tensor]:
        q, k, v = (_split(x, spec.documents) for x in tensors)
        with chosen():
            out = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=held["mask"],
                is_causal=causal,
                enable_gqa=spec.heads != spec.kv_heads,
            )
        return (_join(out, tensors[0]),)

    return Contender(forward, prepare, note="documents as a batch")


def _dense(
    tensors: tuple[Tensor, ...], placed: layouts.Layout, by_kind: Sequence[layouts.BenchPattern]
) -> Contender:
    q, k, v = tensors
    held: dict[str, Tensor] = {}

    def prepare() -> None:
        held["mask"] = layouts.visible(placed, placed, by_kind)[:, None]

    def forward() -> tuple[Tensor]:
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=held["mask"],
            enable_gqa=q.shape[2] != k.shape[2],
        )
        return (out.transpose(1, 2),)

    return Contender(forward, prepare, note="one mask over whole rows")


def _flex(
    spec: Spec,
    tensors: tuple[Tensor, ...],
    placed: layouts.Layout,
    by_kind: Sequence[layouts.BenchPattern],
) -> Contender | Missing:
    """FlexAttention, compiled, with a block mask made of the same integers a token.

    It gets the permutation that ours works in, and is timed with it.
    """
    if (missing := no_compiler(spec.device)) is not None:
        return missing
    flex = importlib.import_module("torch.nn.attention.flex_attention")
    rule = layouts.Rule.of(by_kind)
    planned = plan_tokens(placed, rule.programs)  # type: ignore[arg-type]
    table, order = planned.tokens.unbind(0), planned.order
    q, k, v = tensors
    held: dict[str, Any] = {}
    run = torch.compile(flex.flex_attention, dynamic=False)
    sees = layouts.scalar_rule(rule)

    def mask_mod(b: Tensor, h: Tensor, q_index: Tensor, k_index: Tensor) -> Tensor:
        return sees([row[b, q_index] for row in table], [row[b, k_index] for row in table])

    build = flex.create_block_mask
    if spec.device == "cuda":
        build = torch.compile(build, dynamic=False)

    def prepare() -> None:
        held["mask"] = build(mask_mod, spec.batch, None, spec.seq, spec.seq, device=spec.device)

    def forward() -> tuple[Tensor]:
        given: Sequence[Tensor] = (q, k, v)
        if order is not None:
            given = [x.flatten(0, 1).index_select(0, order).view(x.shape) for x in given]
        out = run(
            *(x.transpose(1, 2) for x in given),
            block_mask=held["mask"],
            enable_gqa=spec.heads != spec.kv_heads,
        ).transpose(1, 2)
        if order is not None:
            flat = out.flatten(0, 1)
            out = torch.empty_like(flat).index_copy(0, order, flat).view(q.shape)
        return (out,)

    if spec.device == "cuda":
        return Contender(forward, prepare, note="compiled, block mask")
    inputs = [x.detach() for x in tensors]
    q, k, v = inputs
    note = "compiled, block mask; it has no backward on the CPU"
    return Contender(forward, prepare, has_backward=False, inputs=inputs, note=note)


def _compiled(spec: Spec, tensors: tuple[Tensor, ...], mask: Tensor) -> Contender | Missing:
    if (missing := no_compiler(spec.device)) is not None:
        return missing
    q, k, v = tensors

    def formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        group = q.shape[2] // k.shape[2]
        queries, keys, values = (_split(x, spec.documents) for x in (q, k, v))
        keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
        scores = (queries @ keys.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1).to(q.dtype)
        return _join(weights @ values, q)

    run = torch.compile(formula, dynamic=False)
    return Contender(lambda: (run(q, k, v, mask),), note="the formula, compiled")


def _flash_attn(
    spec: Spec, tensors: tuple[Tensor, ...], is_plain: bool, causal: bool
) -> Contender | Missing:
    if spec.device != "cuda":
        return Missing("it needs a CUDA device")
    if not is_plain:
        return Missing("it takes no mask, and the pattern needs one")
    try:
        package = importlib.import_module("flash_attn")
    except ImportError:
        return Missing("flash-attn is not installed")

    def forward() -> tuple[Tensor]:
        parts = [_split(x, spec.documents).transpose(1, 2) for x in tensors]
        out: Tensor = package.flash_attn_func(*parts, causal=causal)
        return (out.reshape(tensors[0].shape),)

    return Contender(forward, note="documents as a batch")
