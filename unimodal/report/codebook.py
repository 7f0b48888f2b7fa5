"""The health of a codebook: how its codes are used, at which rate, and what comes back.

`measure_codes` looks at a modality and held-out values, `codes_section` shows what it found.
Nothing here knows what a value is: fidelity and rivals are the modality's own (`Modality.fidelity`,
`Modality.rivals`).
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.grammar import header_axes
from unimodal.modality import Modality
from unimodal.report.figures import has_matplotlib, usage_svg
from unimodal.types import Tokens


@dataclass
class CodeUse:
    """How often the codes of one span were written.

    Attributes:
        counts: By code.
    """

    counts: NDArray[np.int64]

    @property
    def used(self) -> int:
        """Codes that were written at least once."""
        return int((self.counts > 0).sum())

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the codes: how many of equal use there would be."""
        share = self.counts[self.counts > 0] / max(1, self.counts.sum())
        return float(np.exp(-(share * np.log(share)).sum()))


@dataclass
class CodecHealth:
    """What held-out values say of a tokenizer.

    Attributes:
        use: By span.
        fidelity: Numbers of every value and which way is better, by metric.
        bits: Of all values: log2 of the choices of each id, header included.
        units: Raw units of all values.
        rivals: By name: numbers of every value by metric, and bits.
        shown: Some values: HTML of the original, of what came back, and of each rival, by name.
    """

    use: dict[str, CodeUse]
    fidelity: dict[str, tuple[list[float], str]]
    bits: float
    units: float
    rivals: dict[str, tuple[dict[str, list[float]], float]] = field(default_factory=dict)
    shown: list[dict[str, str]] = field(default_factory=list)


def measure_codes(
    modality: Modality[Any, Any], values: Sequence[Any], *, num_shown: int = 0, rivals: bool = True
) -> CodecHealth:
    """Encode and decode values, and let the rivals do the same at the same rate.

    Args:
        modality: The tokenizer.
        values: Held-out values, at least one.
        num_shown: Values that are shown, spread over all.
        rivals: Whether to ask for them.
    """
    encoded = modality.encode_batch(values)
    decoded = modality.decode_batch(encoded)
    found = CodecHealth(
        use=code_use(modality, encoded),
        fidelity=_fidelity(modality, values, decoded),
        bits=sum(bits_of(modality, tokens) for tokens in encoded),
        units=sum(modality.raw_units(value) for value in values),
    )
    count = min(num_shown, len(values))
    places = [i * len(values) // count for i in range(count)]
    shown = [
        {"original": modality.show(values[i]), "reconstruction": modality.show(decoded[i])}
        for i in places
    ]
    if rivals:
        for name, (others, bits) in modality.rivals(values, found.bits).items():
            numbers = {k: n for k, (n, _) in _fidelity(modality, values, others).items()}
            found.rivals[name] = (numbers, bits)
            for row, i in zip(shown, places, strict=True):
                row[name] = modality.show(others[i])
    found.shown = shown
    return found


def code_use(modality: Modality[Any, Any], encoded: Sequence[Tokens]) -> dict[str, CodeUse]:
    """Counts of every code, by span."""
    counts = [np.zeros(size, np.int64) for size in modality.spans.values()]
    for tokens in encoded:
        assert tokens.ids is not None
        ids, spans = tokens.ids.numpy(), tokens.spans().numpy()
        for number, own in enumerate(counts):
            np.add.at(own, ids[spans == number], 1)
    return {name: CodeUse(own) for name, own in zip(modality.spans, counts, strict=True)}


def bits_of(modality: Modality[Any, Any], tokens: Tokens) -> float:
    """Bits of a value's ids if every choice were equally likely, header included."""
    sizes = np.array(list(modality.spans.values()), np.float64)
    bits = float(np.log2(sizes[tokens.spans().numpy()]).sum())
    if modality.layout is not None:
        for low, high in header_axes(modality.layout).values():
            bits += math.log2(high - low + 1)
    return bits


def codes_section(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """The section of the page: use of the codes, and a grid of what came back, by task."""
    parts = []
    for name, about in tasks.items():
        facts = "".join(
            f"<div><span>{html.escape(key)}</span>{html.escape(text)}</div>"
            for key, text in about["facts"].items()
        )
        figure = (
            f'<figure><img alt="use of the codes by rank" src="{about["use_svg"]}"></figure>'
            if about.get("use_svg")
            else ""
        )
        parts.append(
            f'<div class="card"><h3>{html.escape(name)}</h3><div class="facts">{facts}</div>'
            f"{figure}{_grid(about['shown'])}</div>"
        )
    return "".join(parts)


def describe_codes(found: CodecHealth, unit: str) -> dict[str, Any]:
    """What the page shows of a task, JSON-ready."""
    facts = {f"bits a {unit}": f"{found.bits / max(found.units, 1e-9):.3f}"}
    for name, use in found.use.items():
        size = len(use.counts)
        facts[f"{name}: codes used"] = f"{use.used:,} of {size:,} ({100 * use.used / size:.1f} %)"
        facts[f"{name}: dead codes"] = f"{size - use.used:,}"
        facts[f"{name}: perplexity"] = f"{use.perplexity:,.0f}"
        facts[f"{name}: codes written"] = f"{int(use.counts.sum()):,}"
    for metric, (numbers, _) in found.fidelity.items():
        facts[metric.replace("_", " ")] = f"{np.mean(numbers):.2f}"
    for name, (metrics, bits) in found.rivals.items():
        for metric, numbers in metrics.items():
            label = f"{name}: {metric.replace('_', ' ')}"
            rate = bits / max(found.units, 1e-9)
            facts[label] = f"{np.mean(numbers):.2f} at {rate:.3f} bits a {unit}"
    svg = usage_svg({n: u.counts for n, u in found.use.items()}) if has_matplotlib() else None
    return {"facts": facts, "use_svg": svg, "shown": found.shown}


def _fidelity(
    modality: Modality[Any, Any], values: Sequence[Any], decoded: Sequence[Any]
) -> dict[str, tuple[list[float], str]]:
    found: dict[str, tuple[list[float], str]] = {}
    for value, again in zip(values, decoded, strict=True):
        for metric, (number, better) in modality.fidelity(value, again).items():
            found.setdefault(metric, ([], better))[0].append(number)
    return found


def _grid(shown: Sequence[Mapping[str, str]]) -> str:
    """Originals and what came back, in columns by value."""
    if not shown:
        return ""
    cells = []
    for name in shown[0]:
        cells.append(f'<div class="soft">{html.escape(name)}</div>')
        cells += [f"<div>{row.get(name, '')}</div>" for row in shown]
    columns = f"grid-template-columns:100px repeat({len(shown)},minmax(48px,1fr))"
    return f'<div class="codes" style="{columns}">{"".join(cells)}</div>'
