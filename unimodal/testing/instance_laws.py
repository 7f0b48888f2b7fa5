"""The laws about instances: embedders, saved state, fingerprints, workers, files, reports, configs.

They join `unimodal.testing.laws.LAWS` when this module is imported.
"""

import dataclasses
import html.parser
import json
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

from unimodal.errors import MediaError
from unimodal.modality import (
    DECODER_PREFIX,
    TRAINING_ONLY,
    Modality,
    config_from_dict,
    config_to_dict,
)
from unimodal.testing.laws import Subject, law, same_tokens


@law
def embedding(s: Subject) -> Iterator[str]:
    """The embedder keeps the length, passes gradients, and does not mix segments."""
    m = s.modality
    if not m.is_continuous:
        return
    rows = max((t.features for t in s.tokens() if t.features is not None), key=len)
    embedder = m.embedder(16).eval()
    segments = torch.stack([rows, rows.flip(0)]).requires_grad_()
    embedded = embedder(segments)
    expected = (2, len(rows), 16)
    if tuple(embedded.shape) != expected:
        yield f"the embedder must give {expected}, but gives {tuple(embedded.shape)}."
        return
    embedded.square().sum().backward()
    for name, parameter in embedder.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            yield f"no gradient reaches the embedder's `{name}`."
    with torch.no_grad():
        changed = segments.detach().clone()
        changed[1] += 1.0
        if not torch.equal(embedder(changed)[0], embedder(segments.detach())[0]):
            yield "a change in one segment changes the embedding of another."


@law
def state(s: Subject) -> Iterator[str]:
    """`load_state(state())` restores the modality."""
    m = s.modality
    files = m.state()
    for name, data in files.items():
        if not isinstance(name, str) or not isinstance(data, bytes):
            yield f"`state` must map names to bytes, but `{name}` is a {type(data).__name__}."
            return
    other = s.rebuilt()
    if other.fingerprint() != m.fingerprint() or other.decoder_hash() != m.decoder_hash():
        yield "an instance that was restored from `state` has another fingerprint."
    if not all(map(same_tokens, s.tokens(), [other.encode(v) for v in s.examples])):
        yield "an instance that was restored from `state` encodes differently."


@law
def fingerprint(s: Subject) -> Iterator[str]:
    """Equal instances share a fingerprint; another config or encoder has another one."""
    m = s.modality
    before = m.fingerprint()
    s.tokens()
    if m.fingerprint() != before or s.rebuilt().fingerprint() != before:
        yield "equal instances must have equal fingerprints."
    for item in dataclasses.fields(m.config):
        changed = _changed(m.config, item.name)
        if changed is None:
            continue
        is_same = type(m)(changed).fingerprint() == type(m)(m.config).fingerprint()
        if is_same and TRAINING_ONLY not in item.metadata:
            yield f"a change of `config.{item.name}` does not change the fingerprint."
    if m.network is None:
        return
    for key in m.network.state_dict():
        other = s.rebuilt()
        assert other.network is not None
        with torch.no_grad():
            other.network.state_dict()[key].add_(1)
        if (other.fingerprint() != before) == key.startswith(DECODER_PREFIX):
            yield f"the fingerprint must cover the encoder and not the decoder: see `{key}`."


@law
def workers(s: Subject) -> Iterator[str]:
    """An instance travels to worker processes and encodes the same there."""
    try:
        other = ForkingPickler.loads(bytes(ForkingPickler.dumps(s.modality)))
    except Exception as error:
        yield f"an instance does not travel to workers ({type(error).__name__}: {error})."
        return
    if not all(map(same_tokens, s.tokens(), [other.encode(v) for v in s.examples])):
        yield "a copy in a worker encodes differently."


@law
def files(s: Subject) -> Iterator[str]:
    """What `write` writes, `read` reads, where both are offered."""
    m = s.modality
    if type(m).read is Modality.read or (
        type(m).write is Modality.write and m.value_type is not str
    ):
        return
    value = next((v for v, t in zip(s.examples, s.tokens(), strict=True) if len(t)), None)
    if value is None:
        return
    for suffix in _SUFFIXES:
        path = s.folder / f"value{suffix}"
        try:
            m.write(value, path)
        except MediaError:
            continue
        if not path.is_file():
            made = ", ".join(sorted(p.name for p in s.folder.glob("value*"))) or "nothing"
            yield (
                f"`write` made no file at {path.name}, but {made}: it must write to the very path "
                "that it is given (`np.save` to an open file adds no ending)."
            )
            return
        again = m.read(path)
        if not isinstance(again, m.value_type):
            yield f"`read` gave a {type(again).__name__} instead of a {m.value_type.__name__}."
        elif m.length(again) != m.length(value):
            yield f"a written {suffix} file reads with {m.length(again)} positions, not the same."
        return
    yield f"`write` refuses every extension tried ({', '.join(_SUFFIXES)})."


@law
def showing(s: Subject) -> Iterator[str]:
    """`show` gives HTML that needs nothing from outside and runs no script."""
    for value in s.examples:
        fragment = s.modality.show(value)
        if not isinstance(fragment, str):
            yield f"`show` must give a str, but gives a {type(fragment).__name__}."
            return
        reader = _References()
        reader.feed(fragment)
        yield from reader.found


@law
def config(s: Subject) -> Iterator[str]:
    """The config survives JSON."""
    c = s.modality.config
    again = config_from_dict(type(c), json.loads(json.dumps(config_to_dict(c))), "config")
    if again != c:
        yield f"{c} comes back from JSON as {again}."


_SUFFIXES = (".png", ".wav", ".mkv", ".fa", ".txt", ".npy", ".json", ".csv", ".bin")


class _References(html.parser.HTMLParser):
    """Collects what a fragment loads from elsewhere or runs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "object", "embed"):
            self.found.append(f"`show` must be plain HTML, but holds <{tag}>.")
        for name, value in attrs:
            if name in ("src", "href", "data", "poster") and not (value or "").startswith(
                ("data:", "#")
            ):
                self.found.append(f"`show` must need nothing from outside, but {name}={value!r}.")
            if name.startswith("on"):
                self.found.append(f"`show` must run no script, but has `{name}`.")


def _changed(config: Any, name: str) -> Any:
    """The config with one field changed, or None if no change that we know of is valid."""
    value = getattr(config, name)
    candidates: list[Any] = []
    if isinstance(value, bool):
        candidates = [not value]
    elif isinstance(value, int | float):
        candidates = [value + 1, value * 2, value - 1, value / 2]
        candidates = [c for c in candidates if isinstance(value, float) or c == int(c)]
        candidates = [type(value)(c) for c in candidates]
    for candidate in candidates:
        if candidate != value:
            try:
                return dataclasses.replace(config, **{name: candidate})
            except Exception:
                continue
    return None
