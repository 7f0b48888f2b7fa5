"""Tile sizes, warps and stages of Triton kernels: one small dict for each case, no search at run.

Every `kernels/<op>/triton*.py` declares its kernels' configs with `declare`, and reads them with
`lookup` wherever it launches or describes one. For a case `lookup` takes, in this order: what
`overriding` sets; the row that `unimodal bench --tune` measured on this card and left in the user's
cache; the declared row of (architecture, head size, dtype), where a size takes the row of the next
larger one and an architecture without one that of its family's oldest; the declared default.

A tuned table holds the hash of the kernels that it was measured with; another hash is refused, and
the log says so. Not here: which implementation runs (`choice`), measuring (`kernels/bench`).
Tested in `tests/kernels/test_tables.py`.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch

from unimodal.errors import ConfigError

Config = Mapping[str, int]
"""Argument names of a kernel, `num_warps` and `num_stages`, to their values."""

Row = tuple[str, int, torch.dtype]
"""Architecture (`sm80`, `sm90`, `gfx942`), head size (or the size an operator turns on) up to which
it holds, dtype."""

OLDEST = {"sm": "sm80", "gfx": "gfx942"}
"""The architecture of each family whose rows the others take."""

_log = logging.getLogger(__name__)
_declared: dict[str, "Declaration"] = {}
_overridden: dict[str, Config] = {}
_pretended: list[str] = []
_recorded: list[set[tuple[str, int, torch.dtype]]] = []


@dataclass(frozen=True)
class Declaration:
    """The configs of one kernel.

    Attributes:
        default: Where no row fits.
        rows: The cases that differ.
        candidates: What `unimodal bench --tune` tries.
    """

    default: Config
    rows: Mapping[Row, Config]
    candidates: Sequence[Config]


def declare(
    kernel: str,
    default: Config,
    rows: Mapping[Row, Config] | None = None,
    candidates: Sequence[Config] = (),
) -> None:
    """Say how a kernel is launched.

    Args:
        kernel: `op.kernel`, such as `attention.forward`; the part before the dot names the folder.
        default, rows, candidates: See `Declaration`. All have the same names.

    Raises:
        ConfigError: if a config has other names than the default.
    """
    for config in (*(rows or {}).values(), *candidates):
        if set(config) != set(default):
            raise ConfigError(
                f"Configs of {kernel} must have the names {sorted(default)}, "
                f"but one has {sorted(config)}."
            )
    _declared[kernel] = Declaration(default, dict(rows or {}), tuple(candidates))
    _row.cache_clear()


def grid(**values: Sequence[int]) -> list[dict[str, int]]:
    """Every combination of values, as candidates."""
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def lookup(kernel: str, head_dim: int, dtype: torch.dtype) -> dict[str, int]:
    """The config of a kernel for the card at hand (or the one that `pretending` names)."""
    for seen in _recorded:
        seen.add((kernel, head_dim, dtype))
    if kernel in _overridden:
        return dict(_overridden[kernel])
    arch = architecture()
    declared = _declared[kernel]
    if not _pretended and arch != "cpu":
        tuned = _tuned(card_name()).get((kernel, head_dim, _dtype_name(dtype)))
        if tuned is not None and set(tuned) == set(declared.default):
            return dict(tuned)
    return dict(_row(kernel, arch, head_dim, dtype))


@cache
def _row(kernel: str, arch: str, head_dim: int, dtype: torch.dtype) -> Config:
    """The declared config; kept, as every launch asks for one."""
    declared = _declared[kernel]
    for name in (arch, OLDEST.get(arch.rstrip("0123456789abcdef"))):
        sizes = [s for a, s, d in declared.rows if (a, d) == (name, dtype) and s >= head_dim]
        if name is not None and sizes:
            return declared.rows[name, min(sizes), dtype]
    return declared.default


def candidates(kernel: str) -> Sequence[Config]:
    """What a search may try for a kernel."""
    return _declared[kernel].candidates


def declared() -> list[str]:
    """Names of all kernels whose operators were imported."""
    return sorted(_declared)


def architecture() -> str:
    """`sm90`, `gfx942` and the like of the current device; `cpu` without one."""
    return _pretended[-1] if _pretended else _current_architecture()


@cache
def _current_architecture() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    if torch.version.hip:
        return str(facts.gcnArchName).partition(":")[0]
    return f"sm{facts.major}{facts.minor}"


@cache
def card_name() -> str:
    """Name of the current device as a file name, such as `nvidia-h100-80gb-hbm3`."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@contextmanager
def pretending(arch: str) -> Iterator[None]:
    """Look configs up as if `arch` were the card at hand, for the compile gate."""
    _pretended.append(arch)
    try:
        yield
    finally:
        _pretended.pop()


@contextmanager
def overriding(kernel: str, config: Config) -> Iterator[None]:
    """Launch a kernel with this config, for searches and tests."""
    before = dict(_overridden)
    _overridden[kernel] = config
    try:
        yield
    finally:
        _overridden.clear()
        _overridden.update(before)


@contextmanager
def recording() -> Iterator[set[tuple[str, int, torch.dtype]]]:
    """A set that fills with the (kernel, size, dtype) of every lookup inside."""
    seen: set[tuple[str, int, torch.dtype]] = set()
    _recorded.append(seen)
    try:
        yield seen
    finally:
        _recorded[:] = [other for other in _recorded if other is not seen]


def source_hashes() -> dict[str, str]:
    """SHA-256 of each operator's Triton files, which hold its kernels and its configs."""
    kernels = Path(__file__).resolve().parents[1]
    hashes: dict[str, Any] = {}
    for path in sorted(kernels.glob("*/triton*.py")):
        if path.parent.name not in ("compile_gate", "bench", "dispatch", "interpreter"):
            digest = hashes.setdefault(path.parent.name, hashlib.sha256())
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return {op: digest.hexdigest() for op, digest in hashes.items()}


def tuned_path(card: str) -> Path:
    """Where the tuned table of a card lies: under `$UNIMODAL_CACHE`, else `~/.cache/unimodal`."""
    given = os.environ.get("UNIMODAL_CACHE")
    root = Path(given) if given else Path.home() / ".cache" / "unimodal"
    return root / "kernels" / f"{card}.json"


def write_tuned(card: str, rows: Mapping[tuple[str, int, str], Config]) -> Path:
    """Keep the measured configs of a card; rows of other operators' kernels that still fit stay.

    Args:
        card: As `card_name` has it.
        rows: (kernel, head size, dtype's name) to config.

    Returns:
        The path of the table, which is used from now on.
    """
    path = tuned_path(card)
    merged = {**_tuned(card), **rows}
    hashes = source_hashes()
    table = {
        "card": card,
        "sources": {op: hashes[op] for op in sorted({k.partition(".")[0] for k, _, _ in merged})},
        "rows": [
            {"kernel": kernel, "head_dim": size, "dtype": dtype, "config": dict(config)}
            for (kernel, size, dtype), config in sorted(merged.items())
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_suffix(".tmp")
    work.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    work.replace(path)
    _tuned.cache_clear()
    return path


@cache
def _tuned(card: str) -> dict[tuple[str, int, str], Config]:
    """The tuned rows of a card that were measured with today's kernels."""
    path = tuned_path(card)
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        measured, rows = dict(table["sources"]), list(table["rows"])
        found = {
            (str(r["kernel"]), int(r["head_dim"]), str(r["dtype"])): dict(r["config"]) for r in rows
        }
    except (ValueError, KeyError, TypeError) as error:
        _log.warning(
            "%s is refused: it cannot be read (%s). Delete it, or tune again.", path, error
        )
        return {}
    hashes = source_hashes()
    changed = sorted(op for op, digest in measured.items() if hashes.get(op) != digest)
    if changed:
        _log.warning(
            "%s is refused for %s: it was tuned for other sources. "
            "Run `unimodal bench --op OP --tune` again.",
            path,
            ", ".join(changed),
        )
    return {key: config for key, config in found.items() if key[0].partition(".")[0] not in changed}


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
