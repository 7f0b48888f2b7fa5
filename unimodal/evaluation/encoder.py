"""Judges of drawn pictures: small networks of ours, trained on true training pictures only.

- `pictures`: an encoder. Two variations of a picture lie close, other pictures far (contrastive);
  half of the time the second one is the same concept in another style. It says which of many
  pictures a drawing is nearest to.
- `classes`: a classifier of labelled pictures.
- `scenes`: where which object of a composed scene is, as one map an object.

A part of the true pictures passes the codec of the judged model first (`CODEC_SHARE`), so that a
judge knows what a codec does to them; of two codecs each has its own judges.

All three share one network and one loop of some minutes on a CPU, and are saved as safetensors with
a card beside them that says on what they were trained and how good they are on held-out pictures:

    python -m unimodal.evaluation.encoder pictures --data embedded/emoji --out runs/judges

What they are used for is in `unimodal.evaluation.drawing`.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from unimodal.data.sources import Source, open_source
from unimodal.errors import CheckpointError, ConfigError, run_module
from unimodal.evaluation.scene_reading import (
    heat_loss,
    map_names,
    read_scenes,
    scene_targets,
    share_read,
)

SIDE = 32
"""Height and width in pixels at which judges look."""
WIDTH = 128
EMBEDDING = 96
KINDS = ("pictures", "classes", "scenes")
STEPS = {"pictures": 1_200, "classes": 1_200, "scenes": 3_000}
BATCH = {"pictures": 128, "classes": 64, "scenes": 64}
CODEC_SHARE = {"pictures": 0.0, "classes": 0.25, "scenes": 0.25}
"""Share of a batch that a judge sees after a trip through the codec of what it will judge: what is
small in a picture suffers there. The encoder finds all pictures again without."""
LEARNING_RATE = 2e-3
TEMPERATURE = 0.1
CROSS_STYLE = 0.5
"""Share of the encoder's pairs that are one concept in two styles; the others are one picture."""
Pixels = UInt8[NDArray[np.uint8], "_n _h _w 3"]
"""uint8 (n, h, w, 3)."""
Progress = Callable[[str, int, int], None]
Through = Callable[[Pixels], Pixels]
"""What a codec leaves of pictures."""


class PictureNetwork(nn.Module):
    """Cells of 4 x 4 pixels by convolutions, pooled to a vector or left as maps.

    Args:
        outputs: Numbers of the vector, or maps.
        has_maps: Whether it gives maps of 8 x 8 cells.
    """

    def __init__(self, outputs: int, *, has_maps: bool):
        super().__init__()
        self.has_maps = has_maps
        self.enter = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, WIDTH // 2, 3, padding=1), nn.GELU()
        )
        self.down = nn.Sequential(
            nn.GroupNorm(8, WIDTH // 2), nn.Conv2d(WIDTH // 2, WIDTH, 3, stride=2, padding=1)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, WIDTH), nn.GELU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
            for _ in range(3)
        )
        self.norm = nn.GroupNorm(8, WIDTH)
        self.leave: nn.Module = (
            nn.Conv2d(WIDTH, outputs, 1) if has_maps else nn.Linear(2 * WIDTH, outputs)
        )
        if has_maps:
            nn.init.constant_(self.leave.bias, -4.0)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "n 3 32 32"]) -> Tensor:
        """(n, outputs), or (n, outputs, 8, 8)."""
        x = self.down(self.enter(x))
        for block in self.blocks:
            x = x + block(x)
        x = F.gelu(self.norm(x))
        if not self.has_maps:
            x = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        result: Tensor = self.leave(x)
        return result


@dataclass
class Judge:
    """A trained judge.

    Attributes:
        kind: One of `KINDS`.
        network: In evaluation mode.
        card: What it is, as plain values; `names` are its classes or objects.
    """

    kind: str
    network: PictureNetwork
    card: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """Its classes or objects, in the order of its outputs."""
        return list(self.card["names"])

    @torch.no_grad()
    def outputs(self, pixels: Pixels) -> Tensor:
        """The network's outputs of many pictures, in batches."""
        parts = [pixels[i : i + 256] for i in range(0, len(pixels), 256)]
        return torch.cat([self.network(to_input(part)) for part in parts])

    def vectors(self, pixels: Pixels) -> NDArray[np.float32]:
        """Unit vectors (n, EMBEDDING) of an encoder."""
        return np.asarray(F.normalize(self.outputs(pixels), dim=1).numpy(), np.float32)

    def classes(self, pixels: Pixels) -> list[str]:
        """The likeliest class of each picture."""
        names = self.names
        return [names[i] for i in self.outputs(pixels).argmax(dim=1).tolist()]

    def read(self, pixels: Pixels) -> list[Any]:
        """The objects of each scene; see `read_scenes`."""
        return read_scenes(self.outputs(pixels), self.names)

    def save(self, path: Path) -> None:
        """Write `path` (safetensors) and its card beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        card = path.with_suffix(".json")
        card.write_text(json.dumps(self.card, indent=1, ensure_ascii=False) + "\n", "utf-8")
        save_file(self.network.state_dict(), path)


def load_judge(path: Path) -> Judge:
    """A judge that `Judge.save` wrote.

    Raises:
        CheckpointError: if a file is missing or is not one of ours.
    """
    try:
        card = json.loads(path.with_suffix(".json").read_text("utf-8"))
        network = _network(card["kind"], card["names"])
        network.load_state_dict(load_file(path))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"It is no judge of pictures ({type(error).__name__}).",
            subject=str(path),
            remedy="Delete it: it is trained again when it is needed.",
        ) from None
    return Judge(card["kind"], network.eval(), card)


def train_judge(
    kind: str,
    train: Source,
    held_out: Source,
    *,
    steps: int | None = None,
    seed: int = 0,
    through: Through | None = None,
    progress: Progress | None = None,
) -> Judge:
    """Train a judge.

    Args:
        kind: One of `KINDS`.
        train: Records with `image`, and `concept` (`pictures`), `text` (`classes`) or `objects`
            (`scenes`).
        held_out: The same, on which its card's score is measured: at most 500 of them.
        steps: Of its loop; by default some minutes on a CPU.
        seed: Of weights, order and variations.
        through: The codec that `CODEC_SHARE` of its pictures pass.
        progress: Called with (kind, steps done, steps in all).

    Raises:
        ConfigError: if the kind is unknown.
    """
    if kind not in KINDS:
        raise ConfigError(f"`kind` must be one of {KINDS}, but is {kind!r}.")
    steps = STEPS[kind] if steps is None else steps
    names = _names(kind, train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(kind, names)
        share = CODEC_SHARE[kind] if through is not None else 0.0
        source = {"pictures": _pairs, "classes": _labelled, "scenes": _composed}[kind]
        draw = source(train, names, _shown(share, through))
        _fit(kind, network, draw, steps, seed, progress)
        card = {
            "kind": kind,
            "data": train.name,
            "license": train.license,
            "split": train.split,
            "steps": steps,
            "batch": BATCH[kind],
            "codec_share": share,
            "seed": seed,
            "parameters": sum(p.numel() for p in network.parameters()),
            "names": names,
        }
        judge = Judge(kind, network.eval(), card)
        card["held_out"] = {"split": held_out.split, **_card_score(judge, held_out)}
    return judge


def stack(source: Source, limit: int = 0) -> tuple[Pixels, list[dict[str, Any]]]:
    """Pictures (n, h, w, 3) of a source at `SIDE`, and the records without them."""
    count = min(limit, len(source)) if limit else len(source)
    pictures, records = [], []
    for index in range(count):
        record = dict(source[index])
        pictures.append(at_side(record.pop("image").pixels.numpy()))
        records.append(record)
    return np.stack(pictures), records


def at_side(pixels: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """A picture resized to a square, if it is of another size."""
    if pixels.shape[:2] == (side, side):
        return pixels
    from PIL import Image as Picture

    resized = Picture.fromarray(pixels).resize((side, side), Picture.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8)


def to_input(pixels: Pixels) -> Float[Tensor, "n 3 h w"]:
    """Colours from -1 to 1, channels first."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def vary(
    x: Float[Tensor, "n 3 h w"], rng: torch.Generator, *, moves: float = 0.12, flips: bool = True
) -> Float[Tensor, "n 3 h w"]:
    """Each picture shifted, scaled, turned, flipped, recoloured, blurred and with noise.

    Blur and noise are what codecs do to pictures, so judges learn to look past them.
    """
    n = len(x)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng) * 2 - 1

    if moves:
        angle, scale = uniform(n) * 0.2, 1 + uniform(n) * moves
        flip = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0) if flips else 1.0
        cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
        shift = uniform(n, 2) * moves
        theta = torch.stack(
            [cos * flip, -sin, shift[:, 0], sin * flip, cos, shift[:, 1]], dim=1
        ).view(n, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    x = x * (1 + 0.15 * uniform(n, 3, 1, 1)) + 0.1 * uniform(n, 3, 1, 1)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blend = torch.rand(n, 1, 1, 1, generator=rng)
    noise = torch.randn(x.shape, generator=rng) * 0.15 * torch.rand(n, 1, 1, 1, generator=rng)
    return (x + blend * (soft - x) + noise).clamp(-1, 1)


# Training

_Show = Callable[[Pixels], Tensor]
"""Makes a batch the input of a network."""
_Draw = Callable[[np.random.Generator, torch.Generator, PictureNetwork], Tensor]
"""Draws a batch and returns the network's loss on it."""


def _network(kind: str, names: Sequence[str]) -> PictureNetwork:
    outputs = {"pictures": EMBEDDING, "classes": len(names), "scenes": len(names) + 1}[kind]
    return PictureNetwork(outputs, has_maps=kind == "scenes")


def _names(kind: str, train: Source) -> list[str]:
    if kind == "scenes":
        return map_names(getattr(train, "names", ()))
    if kind == "pictures":
        return []
    return sorted({str(train[index]["text"]) for index in range(len(train))})


def _fit(
    kind: str,
    network: PictureNetwork,
    draw: _Draw,
    steps: int,
    seed: int,
    progress: Progress | None,
) -> None:
    """AdamW with warm-up and a cosine to zero."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=max(2, steps), pct_start=0.1
    )
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    network.train()
    for step in range(steps):
        if progress is not None and step % 10 == 0:
            progress(kind, step, steps)
        loss = draw(rng, noise, network)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    if progress is not None:
        progress(kind, steps, steps)


def _shown(share: float, through: Through | None) -> _Show:
    """`to_input`, with the first pictures of a batch as the codec leaves them."""

    def show(pixels: Pixels) -> Tensor:
        count = round(share * len(pixels))
        if through is not None and count:
            pixels = np.concatenate([through(pixels[:count]), pixels[count:]])
        return to_input(pixels)

    return show


def _pairs(train: Source, names: Sequence[str], show: _Show) -> _Draw:
    pixels, records = stack(train)
    concepts: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        concepts.setdefault(str(record["concept"]), []).append(index)
    numbers = {concept: number for number, concept in enumerate(concepts)}
    concept_of = np.array([numbers[str(record["concept"])] for record in records])
    members = list(concepts.values())

    def draw(rng: np.random.Generator, noise: torch.Generator, network: PictureNetwork) -> Tensor:
        first = rng.choice(len(pixels), min(BATCH["pictures"], len(pixels)), replace=False)
        crossed = rng.random(len(first)) < CROSS_STYLE
        second = np.array(
            [
                rng.choice(members[concept_of[i]]) if c else i
                for i, c in zip(first, crossed, strict=True)
            ]
        )
        ones, others = (
            F.normalize(network(vary(show(pixels[i]), noise)), dim=1) for i in (first, second)
        )
        logits = ones @ others.T / TEMPERATURE
        same = torch.from_numpy(concept_of[first][:, None] == concept_of[second][None])
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, -1e4)
        right = torch.arange(len(first))
        return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2

    return draw


def _labelled(train: Source, names: Sequence[str], show: _Show) -> _Draw:
    pixels, records = stack(train)
    labels = np.array([names.index(str(record["text"])) for record in records])

    def draw(rng: np.random.Generator, noise: torch.Generator, network: PictureNetwork) -> Tensor:
        chosen = rng.integers(len(pixels), size=BATCH["classes"])
        varied = vary(show(pixels[chosen]), noise, moves=0.06)
        return F.cross_entropy(network(varied), torch.from_numpy(labels[chosen]))

    return draw


def _composed(train: Source, names: Sequence[str], show: _Show) -> _Draw:
    def draw(rng: np.random.Generator, noise: torch.Generator, network: PictureNetwork) -> Tensor:
        records = [train[int(i)] for i in rng.integers(len(train), size=BATCH["scenes"])]
        pixels = np.stack([at_side(record["image"].pixels.numpy()) for record in records])
        scale = SIDE / records[0]["image"].height
        heat, sizes = scene_targets(records, names, SIDE, scale)
        return heat_loss(network(vary(show(pixels), noise, moves=0.0)), heat, sizes)

    return draw


def _card_score(judge: Judge, held_out: Source) -> dict[str, Any]:
    """How good a judge is on held-out pictures, softened as a codec would."""
    pixels, records = stack(held_out, 500)
    rng = torch.Generator().manual_seed(1)
    soft = vary(to_input(pixels), rng, moves=0.0)
    varied = ((soft + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    if judge.kind == "classes":
        right = np.mean(
            [r["text"] == c for r, c in zip(records, judge.classes(varied), strict=True)]
        )
        return {"n": len(records), "accuracy": float(right)}
    if judge.kind == "scenes":
        return {"n": len(records), **share_read(judge.read(varied), records)}
    found = (judge.vectors(varied) @ judge.vectors(pixels).T).argmax(axis=1)
    return {"n": len(records), "found_again": float(np.mean(found == np.arange(len(records))))}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the head of this module."""
    parser = argparse.ArgumentParser(prog="python -m unimodal.evaluation.encoder")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--data", required=True, help="a source, e.g. embedded/emoji or scenes")
    parser.add_argument("--out", type=Path, default=Path("runs/judges"), metavar="FOLDER")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    from unimodal.evaluation.progress import ProgressBar

    train, held_out = (open_source(given.data, split) for split in ("train", "validation"))
    with ProgressBar() as bar:
        judge = train_judge(
            given.kind, train, held_out, steps=given.steps, seed=given.seed, progress=bar
        )
    path = given.out / f"{given.kind}-{given.data.replace('/', '-')}.safetensors"
    judge.save(path)
    print(path, json.dumps(judge.card["held_out"]))
    return 0


if __name__ == "__main__":
    run_module(main)
