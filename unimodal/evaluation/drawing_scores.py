"""The scores of drawn pictures, in the one form of results; see `unimodal.evaluation.drawing`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unimodal.evaluation.drawing import (
    DrawingConfig,
    Drawn,
    Library,
    as_image,
    captions,
    reverse_of,
)
from unimodal.evaluation.encoder import Judge, Pixels
from unimodal.evaluation.evaluate import score_entry
from unimodal.evaluation.metrics import Metric, Pairs, metrics, ratio
from unimodal.evaluation.scene_reading import has_objects, shows_role
from unimodal.generation import Engine
from unimodal.kernels.nearest_code import nearest_code
from unimodal.tasks.base import Task

NEAR_PIXELS = 12.0
"""Root mean squared difference, of 255, below which two pictures are near-duplicates."""
NEAR_SHARE = 0.05
"""Share of the held-out true pictures that count as near a training picture in the encoder: it sets
the bound for drawn ones."""
Scores = dict[str, dict[str, Any]]
_Flags = Sequence[bool] | NDArray[np.bool_]


def retrieval(drawn: Drawn, copies: Pixels, judge: Judge | None, config: DrawingConfig) -> Scores:
    """Whether the true picture is the nearest, or among five, of all true ones: by encoder, pixels.

    Baselines: chance, and `copies`, training pictures of the same concepts in another style.
    """
    number = len(drawn.records)
    found: Scores = {}
    spaces: dict[str, Callable[[Pixels], NDArray[np.float32]]] = {"pixels": flat}
    if judge is not None:
        spaces = {"encoder": judge.vectors, **spaces}
    for space, look in spaces.items():
        gallery = look(drawn.truths)
        mine, copied, best = (
            ranks(look(pixels), gallery) for pixels in (drawn.pixels, copies, drawn.coded)
        )
        for top in (1, 5):
            others = {
                "chance": np.tile([min(1.0, top / number), 1.0], (number, 1)),
                "the concept in another style": shares(copied < top),
            }
            name = f"top{top}_{space}"
            entry = _share(name, mine < top, others, config)
            found[name] = {**entry, "ceiling": float(np.mean(best < top))}
    return found


def audit(drawn: Drawn, library: Library, judge: Judge, config: DrawingConfig) -> Scores:
    """Shares of drawn pictures that nearly are a training picture.

    Both are seen through the codec. Baseline: the same share of the held-out true pictures.
    """
    mine, true = (nearest_pixels(p, library.pixels) for p in (drawn.pixels, drawn.coded))
    known = judge.vectors(library.pixels)
    mine_like, true_like = (
        (judge.vectors(p) @ known.T).max(axis=1) for p in (drawn.pixels, drawn.coded)
    )
    bound = float(np.quantile(true_like, 1 - NEAR_SHARE))
    found = {}
    for name, near, held_out, limit in (
        ("near_duplicates_pixels", mine < NEAR_PIXELS, true < NEAR_PIXELS, NEAR_PIXELS),
        ("near_duplicates_encoder", mine_like > bound, true_like > bound, bound),
    ):
        others = {"held-out true pictures": shares(held_out)}
        found[name] = {**_share(name, near, others, config, better="lower"), "bound": limit}
    found["near_duplicates_pixels"]["median_difference"] = {
        "drawn": float(np.median(mine)),
        "held out": float(np.median(true)),
    }
    return found


def garments(drawn: Drawn, judge: Judge, config: DrawingConfig) -> Scores:
    """Whether a classifier sees the class that was asked for. Baseline: the commonest class."""
    labels = [_first(record["text"]) for record in drawn.records]
    right, best, real = (
        [a == b for a, b in zip(judge.classes(p), labels, strict=True)]
        for p in (drawn.pixels, drawn.coded, drawn.truths)
    )
    commonest = max(set(labels), key=labels.count)
    others = {"majority": shares([label == commonest for label in labels])}
    entry = _share("class_seen", right, others, config)
    ceiling = {"ceiling": float(np.mean(best)), "real_pictures": float(np.mean(real))}
    return {"class_seen": {**entry, **ceiling}}


def scenes(drawn: Drawn, judge: Judge, config: DrawingConfig) -> Scores:
    """Whether the objects, and their role, are read off the drawing as the caption says.

    Of all prompts, and apart of those with a held-out pair and with a held-out role. Baseline: the
    drawing for another prompt.
    """
    mine, best = judge.read(drawn.pixels), judge.read(drawn.coded)
    other = mine[1:] + mine[:1]
    found = {}
    wholes: dict[str, Sequence[int]] = {"": range(len(drawn.records))}
    for kind in ("pair", "role"):
        own = [i for i, r in enumerate(drawn.records) if r.get("held_out") == kind]
        if own:
            wholes[f"_held_out_{kind}"] = own
    for suffix, places in wholes.items():
        for name, holds in (("objects", has_objects), ("objects_and_role", shows_role)):
            right, shuffled, top = (
                [holds(seen[i], drawn.records[i]) for i in places] for seen in (mine, other, best)
            )
            others = {"drawing for another prompt": shares(shuffled)}
            entry = _share(name + suffix, right, others, config)
            found[name + suffix] = {**entry, "n": len(places), "ceiling": float(np.mean(top))}
    return found


def round_trip(
    drawn: Drawn, tasks: Mapping[str, Task], engine: Engine, config: DrawingConfig
) -> Scores:
    """Whether the model's own caption of its drawing is the caption that was drawn.

    Baseline: its caption of the drawing for another prompt. Empty without a reverse task.
    """
    texts = [
        name for name, m in engine.decoder.vocabulary.modalities.items() if m.value_type is str
    ]
    task = reverse_of(drawn.task, tasks, *texts[:1]) if texts else None
    if task is None or task.target_field not in drawn.records[0]:
        return {}
    mine, best = (captions(engine, task, drawn.records, p) for p in (drawn.pixels, drawn.coded))
    truths = [task.truth(record) for record in drawn.records]
    found = {}
    for name in ("exact_match", "character_error_rate"):
        metric = metrics.get(name)
        pairs = metric.pairs(mine, truths, task.target)
        shuffled = metric.pairs(mine[1:] + mine[:1], truths, task.target)
        others = {"drawing for another prompt": shuffled}
        entry = score_entry(metric, pairs, others, config.seed)
        ceiling = ratio(metric.pairs(best, truths, task.target))
        found[f"round_trip_{name}"] = {**entry, "ceiling": ceiling, "reverse_task": task.name}
    return found


def codec(drawn: Drawn, config: DrawingConfig) -> Scores:
    """What the codec keeps of the true pictures, beside well-known codecs at the same rate."""
    modality = drawn.task.target
    values = [as_image(pixels) for pixels in drawn.truths]
    tokens = modality.encode_batch(values)
    decoded = modality.decode_batch(tokens)
    bits = sum(map(len, tokens)) * float(np.log2(sum(modality.spans.values())))
    area = sum(value.height * value.width for value in values)
    mine = [modality.fidelity(a, b) for a, b in zip(values, decoded, strict=True)]
    rivals = modality.rivals(values, bits)
    found = {}
    for name, (_, better) in mine[0].items():
        metric = Metric(name, "higher" if better == "higher" else "lower", _unpaired)
        others = {
            rival: _numbers(
                [modality.fidelity(a, b)[name][0] for a, b in zip(values, made, strict=True)]
            )
            for rival, (made, _) in rivals.items()
        }
        entry = score_entry(metric, _numbers([f[name][0] for f in mine]), others, config.seed)
        rates = {rival: its / area for rival, (_, its) in rivals.items()}
        found[f"codec_{name}"] = {
            **entry, "bits_per_pixel": bits / area, "baseline_bits_per_pixel": rates,
        }  # fmt: skip
    return found


def described(scores: Scores, drawn: Drawn, config: DrawingConfig) -> Scores:
    """The scores with what every entry of results has; those over fewer pictures keep their n."""
    common = {"n": len(drawn.records), "split": drawn.split, "seed": config.seed}
    common |= {"limit": config.limit, "best_of": config.best_of, "command": config.command}
    return {name: {**common, **entry} for name, entry in scores.items()}


def ranks(queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many of the gallery are nearer to query i than item i is; equally near ones count half.

    Args:
        queries, gallery: (n, features).
    """
    distances = (
        (queries**2).sum(axis=1)[:, None] + (gallery**2).sum(axis=1)[None]
        - 2 * queries @ gallery.T
    )  # fmt: skip
    own = np.diagonal(distances)[:, None]
    nearer, equal = (distances < own).sum(axis=1), (distances == own).sum(axis=1) - 1
    return np.asarray(nearer + equal // 2, np.int64)


def nearest_pixels(pixels: Pixels, known: Pixels) -> NDArray[np.float64]:
    """Root mean squared difference, of 255, to the nearest of the known pictures."""
    mine, others = (torch.from_numpy(p.reshape(len(p), -1)).float() for p in (pixels, known))
    difference = mine - others[nearest_code(mine, others)]
    return np.asarray(difference.square().mean(dim=1).sqrt().numpy(), np.float64)


def flat(pixels: Pixels) -> NDArray[np.float32]:
    """Pixels in one row a picture, from 0 to 1."""
    return np.asarray(pixels.reshape(len(pixels), -1), np.float32) / 255.0


def shares(flags: _Flags) -> Pairs:
    """Yes and no as pairs of a share."""
    return np.stack([np.asarray(flags, np.float64), np.ones(len(flags))], axis=1)


def _share(
    name: str,
    flags: _Flags,
    others: Mapping[str, Pairs],
    config: DrawingConfig,
    better: Any = "higher",
) -> dict[str, Any]:
    metric = Metric(name, better, _unpaired, is_share=True)
    return score_entry(metric, shares(flags), others, config.seed)


def _numbers(values: Sequence[float]) -> Pairs:
    return np.stack([np.asarray(values, np.float64), np.ones(len(values))], axis=1)


def _unpaired(answer: Any, truth: Any, modality: Any) -> tuple[float, float]:
    raise AssertionError("scored over all pictures at once")


def _first(text: Any) -> str:
    return str(text if isinstance(text, str) else text[0])
