"""The vocabulary: a ledger of named spans, and the only source of ids.

Spans are appended and never moved, so ids keep their meaning for the life of a checkpoint. Each
modality owns an opener, one span for each header axis, and its content spans; tasks may own spans
too. The ledger records the fingerprint of every modality: a checkpoint whose tokenizer changed is
refused by name.

Head sets are derived from the ledger: for each position class of a grammar, the ids that normalise
the softmax, in training and in generation alike.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from unimodal.errors import VocabularyError
from unimodal.grammar import (
    IdRange,
    SegmentGrammar,
    Switch,
    compile_segment,
    cycle_of,
    header_axes,
    size_span,
)
from unimodal.modality import Modality, build_modality, config_to_dict, freeze
from unimodal.registry import did_you_mean

log = logging.getLogger(__name__)

LEDGER_VERSION = 1
CONTROL_SPAN = "special"
CONTROLS = ("pad", "mask", "end", "stop")
CONTROL_SIZE = 8
"""Ids of the control span; those after `CONTROLS` are reserved."""
SWITCH = "switch"
"""Name of the head set of free switching."""


@dataclass(frozen=True)
class Span:
    """A named run of ids.

    Attributes:
        name: `owner.part`, unique.
        start: First id.
        size: Number of ids.
        owner: The modality or task that owns it.
    """

    name: str
    start: int
    size: int
    owner: str

    @property
    def stop(self) -> int:
        """One past the last id."""
        return self.start + self.size


@dataclass(frozen=True)
class HeadSet:
    """Ids that normalise the softmax at one class of positions.

    Attributes:
        name: Unique name.
        pieces: (span name, first row, one past the last row) of each run, in column order.
        ids: Global id of each column, int64.
    """

    name: str
    pieces: tuple[tuple[str, int, int], ...]
    ids: Int[Tensor, " C"]

    def columns(self, tokens: Int[Tensor, " P"]) -> Int[Tensor, " P"]:
        """Column of each global id.

        Raises:
            VocabularyError: if an id is not in the set.
        """
        order = self._order
        place = torch.searchsorted(order[0], tokens).clamp(max=len(order[0]) - 1)
        if not torch.equal(order[0][place], tokens):
            bad = tokens[order[0][place] != tokens][0].item()
            raise VocabularyError(f"Id {bad} is not in head set `{self.name}`.")
        return order[1][place]

    @cached_property
    def _order(self) -> tuple[Tensor, Tensor]:
        ids, columns = self.ids.sort()
        return ids, columns


@dataclass
class Entry:
    """What the ledger records of a modality."""

    config: dict[str, Any]
    fingerprint: str
    decoder_hash: str
    spans: dict[str, int]

    def check_same(self, found: "Entry", name: str) -> None:
        """Check that the tokenizer `found` means the same by its ids.

        Raises:
            VocabularyError: naming the span, both fingerprints and the remedy.
        """
        if found.fingerprint != self.fingerprint or found.spans != self.spans:
            raise VocabularyError(
                f"Modality `{name}` has fingerprint {found.fingerprint}, but the ledger was "
                f"written with {self.fingerprint}: its ids no longer mean the same.",
                subject=f"span `{name}.{next(iter(self.spans), 'open')}`",
                remedy="Restore the tokenizer that the checkpoint was trained with, or add "
                f"this one as `{name.partition('@')[0]}@2` and train its span.",
            )


@dataclass
class Vocabulary:
    """The ledger, with the modalities whose ids it hands out.

    Build one with `Vocabulary.of`, grow it with `add` and `list_opener`, save it with `to_json`.
    """

    spans: list[Span] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    modalities: dict[str, Modality[Any, Any]] = field(default_factory=dict)
    openers_listed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.spans:
            self.spans.append(Span(CONTROL_SPAN, 0, CONTROL_SIZE, CONTROL_SPAN))

    @classmethod
    def of(
        cls,
        chosen: Mapping[str, Modality[Any, Any]] | Iterable[str],
        openers: Iterable[str] = (),
    ) -> "Vocabulary":
        """A vocabulary over modalities, given by name or as instances.

        Args:
            chosen: Modalities by ledger name (`image_codes@2` for a retrained one).
            openers: Modalities that free switching may open, in this checkpoint.
        """
        if not isinstance(chosen, Mapping):
            chosen = {name: build_modality(name) for name in chosen}
        vocabulary = cls()
        for name, modality in chosen.items():
            vocabulary.add(name, modality)
        for name in openers:
            vocabulary.list_opener(name)
        return vocabulary

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.spans[-1].stop

    def control(self, name: str) -> int:
        """Id of a control token: one of `CONTROLS`."""
        return CONTROLS.index(name)

    def add(self, name: str, modality: Modality[Any, Any]) -> None:
        """Append a modality's spans and freeze it: all of it, or nothing. Old ids stay as they are.

        Raises:
            VocabularyError: if the name is taken, a span is empty, or the modality is not ready.
            ConfigError: if its layout contradicts itself or its spans.
        """
        if name in self.entries:
            raise VocabularyError(
                f"`{name}` is in the ledger already.",
                remedy=f"Add a retrained tokenizer as `{name.partition('@')[0]}@2`.",
            )
        if modality.needs_fit:
            raise VocabularyError(
                f"`{name}` must be fitted before it enters a ledger.",
                remedy="Call `unimodal.modality.fit(modality, values)` first.",
            )
        if not (modality.is_discrete or modality.is_continuous):
            raise VocabularyError(f"`{name}` declares neither `spans` nor `feature_shape`.")
        sizes = {"open": 1}
        if modality.is_discrete:
            if modality.layout is None:
                raise VocabularyError(f"`{name}` has spans, but no `layout`.")
            cycle_of(modality.layout, list(modality.spans))
            for axis, (low, high) in header_axes(modality.layout).items():
                sizes[size_span(axis)] = high - low + 1
            for span in modality.spans.keys() & sizes.keys():
                raise VocabularyError(f"Span `{name}.{span}` is the ledger's own: rename it.")
            sizes |= modality.spans
        spans = self._following({f"{name}.{span}": size for span, size in sizes.items()}, name)
        freeze(modality)
        entry = _entry(modality)
        self.spans += spans
        self.modalities[name] = modality
        self.entries[name] = entry
        self._forget()

    def add_span(self, name: str, size: int, owner: str) -> Span:
        """Append a span of `size` ids.

        Raises:
            VocabularyError: if the name is taken or the size is below 1.
        """
        self.spans += self._following({name: size}, owner)
        self._forget()
        return self.spans[-1]

    def list_opener(self, name: str) -> None:
        """Let free switching open segments of modality `name`; once is enough.

        Raises:
            VocabularyError: if the modality is unknown or input only.
        """
        self.grammar(name)
        if name not in self.openers_listed:
            self.openers_listed += (name,)
            self._forget()

    def _following(self, sizes: Mapping[str, int], owner: str) -> list[Span]:
        """The spans that would come next, checked."""
        taken, start, spans = {span.name for span in self.spans}, self.size, []
        for name, size in sizes.items():
            if name in taken:
                raise VocabularyError(f"Span `{name}` is in the ledger already.")
            if size < 1:
                raise VocabularyError(f"Span `{name}` must have at least 1 id, but has {size}.")
            spans.append(Span(name, start, size, owner))
            start += size
        return spans

    def span(self, name: str) -> Span:
        """The span called `name`."""
        for span in self.spans:
            if span.name == name:
                return span
        remedy = did_you_mean(name, [s.name for s in self.spans])
        raise VocabularyError(f"No span `{name}` in the ledger.", remedy=remedy)

    def modality(self, name: str) -> Modality[Any, Any]:
        """The modality called `name`.

        Raises:
            VocabularyError: if this vocabulary lacks it.
        """
        try:
            return self.modalities[name]
        except KeyError:
            remedy = did_you_mean(name, self.modalities)
            raise VocabularyError(f"This model has no modality `{name}`.", remedy=remedy) from None

    def kind(self, name: str) -> int:
        """Number of a modality: the order in which it was added."""
        self.modality(name)
        return self._openers[name][0]

    def opener(self, name: str) -> int:
        """Id that begins a segment of modality `name`."""
        self.modality(name)
        return self._openers[name][1]

    def content_ids(self, name: str, ids: Tensor, span: Tensor | int) -> NDArray[np.int64]:
        """Global ids of ids local to the modality's spans.

        Args:
            name: The modality.
            ids: Local ids, (T,).
            span: Which span each belongs to, in the order of `Modality.spans`: (T,) or one int.

        Raises:
            VocabularyError: if there is no such span, or an id leaves its span.
        """
        starts, sizes = self._offsets[name]
        local = ids.numpy().astype(np.int64)
        of = np.asarray(span.numpy() if isinstance(span, Tensor) else span)
        if of.size and not 0 <= of.min() <= of.max() < len(sizes):
            bad = of.min() if of.min() < 0 else of.max()
            raise VocabularyError(
                f"`{name}` encoded span {bad}, but has spans 0 to {len(sizes) - 1}."
            )
        outside = (local < 0) | (local >= sizes[of])
        if outside.any():
            bad = local[outside][0]
            raise VocabularyError(f"`{name}` encoded id {bad}, which is outside its span.")
        result: NDArray[np.int64] = local + starts[of]
        return result

    def local_ids(self, name: str, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of `content_ids`: (local ids, span numbers)."""
        starts, sizes = map(torch.from_numpy, self._offsets[name])
        inside = (tokens[:, None] >= starts) & (tokens[:, None] < starts + sizes)
        if not bool(inside.any(dim=1).all()):
            bad = int(tokens[~inside.any(dim=1)][0])
            raise VocabularyError(f"Id {bad} is not content of `{name}`.")
        spans = inside.int().argmax(dim=1)
        return tokens - starts[spans], spans

    @cached_property
    def grammars(self) -> dict[str, SegmentGrammar]:
        """Compiled grammar of each discrete modality."""
        compiled = {}
        for name, modality in self.modalities.items():
            if modality.layout is None or not modality.is_discrete:
                continue
            prefix = f"{name}."
            ranges: dict[str, IdRange] = {
                s.name.removeprefix(prefix): (s.start, s.stop)
                for s in self.spans
                if s.owner == name
            }
            compiled[name] = compile_segment(
                name,
                modality.layout,
                list(modality.spans),
                self.opener(name),
                self.control("end"),
                ranges,
            )
        return compiled

    def grammar(self, name: str) -> SegmentGrammar:
        """Compiled grammar of a discrete modality.

        Raises:
            VocabularyError: if the modality is unknown or input only.
        """
        modality = self.modality(name)
        if name not in self.grammars:
            partner = modality.decoded_by
            written = [partner] if partner in self.grammars else list(self.grammars)
            remedy = f"Ask for {' or '.join(f'`{each}`' for each in written)}." if written else None
            raise VocabularyError(f"`{name}` is input only: it cannot be generated.", remedy=remedy)
        return self.grammars[name]

    @property
    def switch(self) -> Switch | None:
        """Openers and stop of free switching, if the checkpoint lists any."""
        if not self.openers_listed:
            return None
        openers = {name: self.opener(name) for name in self.openers_listed}
        return Switch(SWITCH, openers, self.control("stop"))

    @cached_property
    def head_sets(self) -> list[HeadSet]:
        """All head sets; a position stores its place in this list."""
        ranges: dict[str, list[IdRange]] = {}
        end = self.control("end")
        for grammar in self.grammars.values():
            for header in grammar.headers:
                last = header.first_id + header.high - header.low
                ranges[header.head_set] = [(header.first_id, last + 1)]
            for number, slot in enumerate(grammar.slots):
                tail = [(end, end + 1)] if number == 0 and grammar.end is not None else []
                ranges[slot.head_set] = [*slot.ranges, *tail]
        if self.switch:
            openers = [(o, o + 1) for o in self.switch.openers.values()]
            ranges[SWITCH] = [*openers, (self.switch.stop, self.switch.stop + 1)]
        return [self._head_set(name, runs) for name, runs in ranges.items()]

    @cached_property
    def head_numbers(self) -> dict[str, int]:
        """Head-set names to their place in `head_sets`."""
        return {head.name: number for number, head in enumerate(self.head_sets)}

    @cached_property
    def _offsets(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
        table = {}
        for name, modality in self.modalities.items():
            spans = [self.span(f"{name}.{span}") for span in modality.spans]
            starts = np.array([s.start for s in spans], dtype=np.int64)
            table[name] = starts, np.array([s.size for s in spans], dtype=np.int64)
        return table

    @cached_property
    def _openers(self) -> dict[str, tuple[int, int]]:
        """Kind and opener of each modality."""
        names = enumerate(self.modalities)
        return {name: (kind, self.span(f"{name}.open").start) for kind, name in names}

    def _head_set(self, name: str, runs: Sequence[IdRange]) -> HeadSet:
        pieces = []
        for start, stop in runs:
            span = next(s for s in self.spans if s.start <= start and stop <= s.stop)
            pieces.append((span.name, start - span.start, stop - span.start))
        return HeadSet(name, tuple(pieces), torch.cat([torch.arange(*run) for run in runs]))

    def _forget(self) -> None:
        for name in ("grammars", "head_sets", "head_numbers", "_offsets", "_openers"):
            self.__dict__.pop(name, None)

    def to_json(self) -> str:
        """The ledger as JSON text.

        Raises:
            VocabularyError: if a tokenizer changed since it was added: its own ledger would refuse
                it at load.
        """
        entries = {name: _entry(modality) for name, modality in self.modalities.items()}
        for name, entry in entries.items():
            self.entries[name].check_same(entry, name)
        return json.dumps(
            {
                "version": LEDGER_VERSION,
                "spans": [asdict(span) for span in self.spans],
                "modalities": {name: asdict(entry) for name, entry in entries.items()},
                "openers": list(self.openers_listed),
            },
            indent=1,
        )

    @classmethod
    def from_json(
        cls, text: str, states: Mapping[str, Mapping[str, bytes]] | None = None
    ) -> "Vocabulary":
        """The vocabulary of a ledger. Modalities are looked up by registered name.

        Args:
            text: What `to_json` wrote.
            states: `Modality.state()` of each modality that has one, by ledger name.

        Raises:
            VocabularyError: if a modality's fingerprint differs from the ledger's.
        """
        ledger = json.loads(text)
        if ledger.get("version") != LEDGER_VERSION:
            raise VocabularyError(
                f"The ledger has version {ledger.get('version')}, but {LEDGER_VERSION} is needed.",
                remedy="Open it with the version of the package that wrote it.",
            )
        vocabulary = cls([Span(**span) for span in ledger["spans"]])
        for name, recorded in ledger["modalities"].items():
            entry = Entry(**recorded)
            modality = build_modality(name, entry.config)
            if states and name in states:
                modality.load_state(states[name])
            freeze(modality)
            found = _entry(modality)
            entry.check_same(found, name)
            if found.decoder_hash != entry.decoder_hash:
                log.warning("The decoder of `%s` is not the one that the ledger names.", name)
            vocabulary.modalities[name] = modality
            vocabulary.entries[name] = found
        vocabulary.openers_listed = tuple(ledger["openers"])
        return vocabulary

    def check_extends(self, old: "Vocabulary") -> None:
        """Check that this vocabulary keeps every id of `old`, and its openers.

        Raises:
            VocabularyError: naming the span, both fingerprints and the remedy.
        """
        kept = self.openers_listed[: len(old.openers_listed)]
        if kept != old.openers_listed:
            raise VocabularyError(
                f"The checkpoint lists the openers {old.openers_listed}, but the first here are "
                f"{kept}: its probabilities of free switching would change.",
                remedy="List the checkpoint's openers first, in their order.",
            )
        if added := self.openers_listed[len(kept) :]:
            log.warning("Openers %s are added: free switching shares its weight with them.", added)
        for mine, theirs in zip(self.spans, old.spans, strict=False):
            if mine != theirs:
                raise VocabularyError(
                    f"Span {theirs.name} [{theirs.start}, {theirs.stop}) of the checkpoint became "
                    f"{mine.name} [{mine.start}, {mine.stop}).",
                    remedy="Spans are only appended: first list the checkpoint's, in their order.",
                )
        if len(self.spans) < len(old.spans):
            missing = old.spans[len(self.spans)].name
            raise VocabularyError(f"Span `{missing}` of the checkpoint is missing: list it, too.")
        for name, entry in old.entries.items():
            mine_print = self.entries[name].fingerprint
            if mine_print != entry.fingerprint:
                raise VocabularyError(
                    f"Its fingerprint is {mine_print}, but the checkpoint has {entry.fingerprint}.",
                    subject=f"modality `{name}`",
                    remedy=f"Use the checkpoint's tokenizer, or add this one as `{name}@2`.",
                )


def _entry(modality: Modality[Any, Any]) -> Entry:
    return Entry(
        config=config_to_dict(modality.config),
        fingerprint=modality.fingerprint(),
        decoder_hash=modality.decoder_hash(),
        spans=dict(modality.spans),
    )
