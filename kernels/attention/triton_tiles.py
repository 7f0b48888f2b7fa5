"""Tile sizes of the attention kernels, by architecture, precision and head size.

Each row is a large tile that the compile gate compiles without spilling registers (of float32 more
than a few bytes) and within the card's shared memory. None was timed on a card: `unimodal bench
--op attention --tune` measures one's own.
"""

from collections.abc import Mapping

import torch

from unimodal.kernels.dispatch import tables

_Tiles = tuple[int, int, int, int]
"""Queries and keys of a tile, warps, stages."""

_DTYPES = {"half": (torch.float16, torch.bfloat16), "float": (torch.float32,)}

_SMALL: _Tiles = (64, 32, 8, 1)
"""The default, which holds for 16 bits up to head size 128. NVIDIA cards need eight warps: with
four, head size 128 spills. gfx942, with 64 threads a warp, needs four: with eight, half the
registers are left."""

_ROWS: dict[str, dict[tuple[str, str], dict[int, _Tiles]]] = {
    "forward_dense": {
        # At head size 64, 64 x 64 tiles spill with triton 3.6.0.
        ("sm80", "half"): {64: (128, 64, 8, 2), 128: (64, 64, 8, 2), 256: _SMALL},
        ("sm90", "half"): {128: (128, 64, 8, 3), 256: (64, 32, 8, 2)},
        ("gfx942", "half"): {128: (128, 64, 4, 1), 256: (64, 64, 4, 1)},
        ("sm80", "float"): {64: _SMALL, 256: (32, 32, 8, 1)},
        ("sm90", "float"): {64: _SMALL, 128: (32, 16, 8, 1), 256: (16, 32, 8, 1)},
        ("gfx942", "float"): {64: (64, 32, 4, 1), 256: (32, 16, 4, 1)},
    },
    "forward_sparse": {
        ("sm80", "half"): {32: (32, 64, 8, 1), 128: _SMALL, 256: (32, 64, 8, 1)},
        ("sm90", "half"): {128: _SMALL, 256: (32, 64, 8, 1)},
        ("gfx942", "half"): {192: (64, 32, 4, 1), 256: (32, 32, 4, 1)},
        ("sm80", "float"): {64: (64, 16, 8, 1), 128: (32, 64, 8, 1), 256: (32, 32, 8, 1)},
        ("sm90", "float"): {64: (32, 32, 8, 1), 128: (32, 64, 8, 1), 256: (16, 32, 8, 1)},
        ("gfx942", "float"): {64: (64, 32, 4, 1), 256: (16, 16, 4, 1)},
    },
    "backward_q_dense": {
        ("sm80", "half"): {128: _SMALL, 192: (32, 32, 8, 1), 256: _SMALL},
        ("sm90", "half"): {128: _SMALL, 256: (32, 32, 8, 1)},
        ("gfx942", "half"): {64: (64, 64, 4, 1), 128: (64, 32, 4, 1), 256: (32, 32, 4, 1)},
        ("sm80", "float"): {64: (32, 64, 8, 1), 128: _SMALL, 256: (32, 32, 8, 1)},
        ("sm90", "float"): {64: (32, 64, 8, 1), 128: (16, 64, 8, 1), 256: (32, 32, 8, 1)},
        ("gfx942", "float"): {64: (64, 32, 4, 1), 256: (16, 16, 4, 1)},
    },
    "backward_q_sparse": {
        ("sm80", "half"): {32: (32, 64, 8, 1), 128: _SMALL, 256: (32, 32, 8, 1)},
        ("sm90", "half"): {128: _SMALL, 256: (32, 32, 8, 1)},
        ("gfx942", "half"): {128: (64, 32, 4, 1), 256: (32, 16, 4, 1)},
        ("sm80", "float"): {64: (32, 32, 8, 1), 128: _SMALL, 256: (32, 32, 8, 1)},
        ("sm90", "float"): {64: _SMALL, 128: (32, 64, 8, 1), 256: (32, 32, 8, 1)},
        ("gfx942", "float"): {64: (64, 32, 4, 1), 256: (16, 16, 4, 1)},
    },
    "backward_kv_dense": {
        ("sm80", "half"): {256: _SMALL},
        ("sm90", "half"): {64: (64, 64, 8, 2), 256: _SMALL},
        ("gfx942", "half"): {
            64: (32, 64, 4, 1), 96: (32, 32, 4, 1), 128: (32, 64, 4, 1), 256: (16, 32, 4, 1),
        },
        ("sm80", "float"): {128: _SMALL, 256: (32, 32, 8, 1)},
        ("sm90", "float"): {128: (32, 32, 8, 1), 192: (16, 32, 8, 1), 256: (32, 32, 8, 1)},
        ("gfx942", "float"): {64: (64, 32, 4, 1), 256: (16, 16, 4, 1)},
    },
    "backward_kv_sparse": {
        ("sm80", "half"): {32: (32, 64, 8, 1), 128: _SMALL, 256: (32, 32, 8, 1)},
        ("sm90", "half"): {32: (32, 64, 8, 1), 128: _SMALL, 256: (32, 32, 8, 1)},
        ("gfx942", "half"): {
            64: (32, 64, 4, 1), 96: (32, 32, 4, 1), 128: (16, 64, 4, 1), 256: (16, 32, 4, 1),
        },
        ("sm80", "float"): {64: _SMALL, 128: (32, 32, 8, 1), 256: (16, 32, 8, 1)},
        ("sm90", "float"): {128: (32, 32, 8, 1), 256: (16, 32, 8, 1)},
        ("gfx942", "float"): {64: (32, 64, 4, 1), 256: (16, 16, 4, 1)},
    },
}  # fmt: skip

_TMA = {("forward_dense", "sm90", "half")}
"""Rows whose kernel loads by tensor descriptors."""

_DECODE = {"half": {128: 64, 256: 32}, "float": {64: 32, 256: 16}}
"""Keys of a tile in decoding, by precision and head size, on every card."""

_DELTA = {kind: {192: 32, 256: 16} for kind in _DTYPES}
"""Rows of a program that sums gradient times result."""


def _config(tiles: _Tiles, tma: bool | None) -> tables.Config:
    m, n, warps, stages = tiles
    config = {"BLOCK_M": m, "BLOCK_N": n, "num_warps": warps, "num_stages": stages}
    return config if tma is None else config | {"TMA": int(tma)}


def _rows(kernel: str, has_tma: bool) -> Mapping[tables.Row, tables.Config]:
    return {
        (arch, size, dtype): _config(tiles, (kernel, arch, kind) in _TMA if has_tma else None)
        for (arch, kind), by_size in _ROWS[kernel].items()
        for size, tiles in by_size.items()
        for dtype in _DTYPES[kind]
    }


def _everywhere(
    by_kind: Mapping[str, Mapping[int, int]], name: str, rest: tables.Config
) -> Mapping[tables.Row, tables.Config]:
    return {
        (arch, size, dtype): {name: value, **rest}
        for arch in tables.OLDEST.values()
        for kind, by_size in by_kind.items()
        for size, value in by_size.items()
        for dtype in _DTYPES[kind]
    }


def _declare() -> None:
    for kernel in _ROWS:
        forward = kernel.startswith("forward")
        queries = (64, 128) if forward else (32, 64, 128)
        tried = {"BLOCK_M": queries, "BLOCK_N": (32, 64, 128), "num_warps": (4, 8)}
        tried |= {"num_stages": (1, 2, 3), "TMA": (0, 1)} if forward else {"num_stages": (1, 2)}
        small = _config(_SMALL, False if forward else None)
        tables.declare(f"attention.{kernel}", small, _rows(kernel, forward), tables.grid(**tried))
    few = {"num_warps": 4, "num_stages": 1}
    rows = _everywhere(_DELTA, "BLOCK", few)
    tables.declare("attention.delta", {"BLOCK": 32, **few}, rows)
    two = {"num_warps": 4, "num_stages": 2}
    tried = {"BLOCK_N": (32, 64, 128), "num_warps": (2, 4, 8), "num_stages": (1, 2, 3)}
    rows = _everywhere(_DECODE, "BLOCK_N", two)
    tables.declare("attention.decode", {"BLOCK_N": 64, **two}, rows, tables.grid(**tried))
    tables.declare("attention.join", {"CHUNK": 32, "num_warps": 2, "num_stages": 1})


_declare()


def tiles_of(kernel: str, head_dim: int, dtype: torch.dtype) -> dict[str, int]:
    """The config of one of attention's kernels; see `tables.lookup`."""
    return tables.lookup(f"attention.{kernel}", head_dim, dtype)
