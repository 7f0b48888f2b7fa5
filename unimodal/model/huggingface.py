"""Qwen3 folders of Hugging Face: text weights come in and go out.

A folder holds `config.json` and safetensors; transformers itself is not needed. Import copies the
matrices, and the rows of its vocabulary into the span of one modality, whose ids must be the
folder's. Export writes that modality's ids first and every other id after them, suppressed in
`generation_config.json` except for the end; so the softmax of generation is that of the head set.
`open_huggingface` needs nothing but the folder: it takes the tokenizer that lies there.

What Qwen3 cannot express is refused by name. Continuous modalities are left out, and listed.
Tested against transformers' Qwen3ForCausalLM: logits equal for causal one-dimensional documents.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimodal.blocks import Block
from unimodal.errors import CheckpointError, ConfigError, VocabularyError
from unimodal.grammar import Open
from unimodal.modality import Modality, build_modality, modalities
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder, parameter_key
from unimodal.model.durable import read_tensors, write_bytes, write_json, write_tensors
from unimodal.vocabulary import Span, Vocabulary

log = logging.getLogger(__name__)
ARCHITECTURE = "Qwen3ForCausalLM"
MODEL_TYPE = "qwen3"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SPANS = "unimodal_spans"
"""Key of our own in `config.json`: names and sizes of the spans, in the order of the rows."""
MAX_POSITIONS = 32_768
"""What an export states as `max_position_embeddings`; RoPE itself has no such bound."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        first_id: Row of each span.
        left_out: Modalities and their embedders that Qwen3 has no place for.
    """

    first_id: dict[str, int]
    left_out: list[str]


def read_huggingface(folder: Path | str) -> tuple[DecoderConfig, dict[str, Tensor], dict[str, Any]]:
    """Config, weights and `config.json` of a Qwen3 folder.

    Raises:
        CheckpointError: if files are missing or incomplete, or it is not safetensors.
        ConfigError: naming the option that this decoder does not have.
    """
    folder = Path(folder)
    path = folder / CONFIG
    try:
        written = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"It cannot be read as JSON ({error}).",
            subject=str(path),
            remedy="Fetch the folder again.",
        ) from None
    config = config_of(written, str(path))
    if (folder / INDEX).is_file():
        try:
            index = json.loads((folder / INDEX).read_text("utf-8"))
            names = sorted({Path(str(name)).name for name in index["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"It must hold a `weight_map` of names to files ({type(error).__name__}: {error}).",
                subject=str(folder / INDEX),
                remedy="Fetch the folder again.",
            ) from None
    else:
        names = [WEIGHTS]
    state: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(
                f"`{name}` is missing.",
                subject=str(folder),
                remedy="Save the weights as safetensors; pickled ones are not read.",
            )
        state |= read_tensors(folder / name)
    return config, state, written


def config_of(written: Mapping[str, Any], subject: str = "config.json") -> DecoderConfig:
    """The decoder's config that says what a Qwen3 config says.

    Raises:
        CheckpointError: naming a key that is missing or of another type.
        ConfigError: naming an option that this decoder does not have.
    """
    try:
        _refuse_foreign(written, subject)
        return _config_of(written)
    except KeyError as error:
        raise CheckpointError(
            f"The key {error} is missing.",
            subject=subject,
            remedy="Give the folder of a Qwen3 model, as transformers saves it.",
        ) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"It is not a Qwen3 config ({error}).",
            subject=subject,
            remedy="Give the folder of a Qwen3 model, as transformers saves it.",
        ) from None


def _config_of(written: Mapping[str, Any]) -> DecoderConfig:
    rope = written.get("rope_parameters") or {}
    hidden, heads = int(written["hidden_size"]), int(written["num_attention_heads"])
    return DecoderConfig(
        width=hidden,
        num_layers=int(written["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=int(written.get("num_key_value_heads") or heads),
        head_dim=int(written.get("head_dim") or hidden // heads),
        mlp_width=int(written["intermediate_size"]),
        norm_eps=float(written.get("rms_norm_eps", 1e-6)),
        rope_theta=float(rope.get("rope_theta", written.get("rope_theta", 10_000.0))),
        tie_embeddings=bool(written.get("tie_word_embeddings", False)),
    )


def from_huggingface(
    folder: Path | str, vocabulary: Vocabulary, name: str | None = None
) -> Decoder:
    """A decoder with the weights of a Qwen3 folder.

    Args:
        folder: `config.json` and safetensors.
        vocabulary: Its modality `name` has the folder's ids in one span (a text modality over the
            folder's `tokenizer.json`). Rows that the folder lacks keep their initial weights.
        name: The modality; by default the only one of strings.

    Raises:
        CheckpointError: if weights are missing or do not fit.
        ConfigError: naming an option that this decoder does not have.
    """
    config, state, written = read_huggingface(folder)
    decoder = Decoder(config, vocabulary)
    load_huggingface(decoder, state, name, written.get(SPANS))
    return decoder


def is_huggingface(folder: Path) -> bool:
    """Whether a folder is one of Hugging Face: its `config.json` says which `model_type` it is."""
    try:
        written = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(written, dict) and ("model_type" in written or "architectures" in written)


def open_huggingface(folder: Path) -> Decoder:
    """The decoder of a Qwen3 folder, its ids those of the tokenizer in the folder.

    The folder's begin and end of a text are taken for the opener and the end of a segment.

    Raises:
        CheckpointError: if weights or the tokenizer are missing or do not fit.
        ConfigError: naming an option that this decoder does not have.
    """
    config, state, written = read_huggingface(folder)
    spans = written.get(SPANS)
    name, modality = _folder_tokenizer(folder, str(spans[0][0]).split(".")[0] if spans else None)
    decoder = Decoder(config, Vocabulary.of({name: modality}))
    load_huggingface(decoder, state, name, spans)
    if not spans:
        vocabulary = decoder.vocabulary
        _take_row(decoder, state, written.get("bos_token_id"), vocabulary.opener(name))
        _take_row(decoder, state, written.get("eos_token_id"), vocabulary.control("end"))
    return decoder.eval()


@torch.no_grad()
def _take_row(decoder: Decoder, state: Mapping[str, Tensor], theirs: Any, ours: int) -> None:
    """Copy the row of an id of a folder to an id of ours, where the folder names one."""
    row = theirs[0] if isinstance(theirs, list) and theirs else theirs
    span = next(s for s in decoder.vocabulary.spans if s.start <= ours < s.stop)
    tables = {"model.embed_tokens.weight": decoder.embeddings, "lm_head.weight": decoder.outputs}
    for key, own in tables.items():
        if parameter_key(span.name) in own and isinstance(row, int) and row < len(state[key]):
            own[parameter_key(span.name)][ours - span.start] = state[key][row]


def _folder_tokenizer(folder: Path, owner: str | None) -> tuple[str, Modality[Any, Any]]:
    """The modality of strings that takes over a tokenizer file of the folder, and its name."""
    files = {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in (".safetensors", ".bin", ".pt")
    }
    for name in modalities.names() if owner is None else [owner]:
        kind = modalities.get(name)
        if kind.value_type is str and (modality := build_modality(name)).needs_fit:
            try:
                modality.load_state(files)
            except VocabularyError as error:
                log.info("`%s` takes no tokenizer of %s: %s", name, folder, error)
            if not modality.needs_fit:
                return name, modality
    raise CheckpointError(
        "It has no tokenizer that can be read.",
        subject=str(folder),
        remedy="Put the model's `tokenizer.json` beside its weights.",
    )


@torch.no_grad()
def load_huggingface(
    decoder: Decoder,
    state: Mapping[str, Tensor],
    name: str | None = None,
    spans: list[list[Any]] | None = None,
) -> None:
    """Copy a Qwen3 state dict into a decoder of the same shape.

    Args:
        decoder: Changed in place.
        state: Names as in `Qwen3ForCausalLM.state_dict()`.
        name: The modality whose span has the ids; by default the only one of strings.
        spans: Names and sizes of the rows' spans, as an export of ours states them.

    Raises:
        CheckpointError: naming the weight that is missing or does not fit.
    """
    for number, block in enumerate(decoder.blocks):
        assert isinstance(block, Block)
        for own, parts in _parts(block, number):
            _copy(own, torch.cat([_get(state, part) for part in parts]), next(iter(parts)))
    _copy(decoder.norm.weight, _get(state, "model.norm.weight"), "model.norm.weight")
    tables = {"model.embed_tokens.weight": decoder.embeddings}
    if not decoder.config.tie_embeddings:
        tables["lm_head.weight"] = decoder.outputs
    wanted = _content(decoder.vocabulary, name)
    for key, own_tables in tables.items():
        rows, start = _get(state, key), 0
        for span_name, size in spans or [[wanted.name, wanted.size]]:
            if parameter_key(span_name) in own_tables:
                table = own_tables[parameter_key(span_name)]
                if len(table) != size or start + size > len(rows):
                    raise CheckpointError(
                        f"Span `{span_name}` has {len(table)} ids, but the weights have "
                        f"{min(size, len(rows) - start)} rows for it.",
                        subject=key,
                        remedy="Build the vocabulary over the folder's own tokenizer.",
                    )
                table.copy_(rows[start : start + size])
            start += size


@torch.no_grad()
def to_huggingface(decoder: Decoder, folder: Path | str, name: str | None = None) -> Exported:
    """Write a Qwen3 folder that transformers loads.

    Args:
        decoder: The model.
        folder: Must not exist, or be empty.
        name: The modality whose ids come first; by default the only one of strings.

    Returns:
        Where each span stands, and what was left out.

    Raises:
        ConfigError: naming an option that Qwen3 cannot express.
        CheckpointError: if the folder is not empty.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(
            "The folder is not empty.", subject=str(folder), remedy="Choose a new one."
        )
    content = _content(decoder.vocabulary, name)
    _refuse_own(decoder, content.owner)
    others = [span for span in decoder.vocabulary.spans if span.name != content.name]
    order = [content, *others]
    first_id, start = {}, 0
    for span in order:
        first_id[span.name] = start
        start += span.size
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, qwen3_state(decoder, order))
    ids = {span.start + i: first_id[span.name] + i for span in order for i in range(span.size)}
    bos = ids[decoder.vocabulary.opener(content.owner)]
    eos, pad = (ids[decoder.vocabulary.control(x)] for x in ("end", "pad"))
    suppressed = [i for i in range(content.size, start) if i != eos]
    generation = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    write_json(folder / CONFIG, qwen3_config(decoder, order) | generation)
    write_json(folder / "generation_config.json", generation | {"suppress_tokens": suppressed})
    for file, data in decoder.vocabulary.modality(content.owner).state().items():
        write_bytes(folder / file, data)
    left_out = [
        f"{other}: its embedder of features"
        for other, modality in decoder.vocabulary.modalities.items()
        if modality.is_continuous
    ]
    return Exported(first_id, left_out)


def qwen3_config(decoder: Decoder, order: Sequence[Span]) -> dict[str, Any]:
    """`config.json` of a decoder whose rows are the spans in this order."""
    c = decoder.config
    return {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "hidden_size": c.width,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.mlp_width,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": c.tie_embeddings,
        "max_position_embeddings": MAX_POSITIONS,
        "initializer_range": c.init_std,
        "vocab_size": sum(span.size for span in order),
        "torch_dtype": str(decoder.norm.weight.dtype).removeprefix("torch."),
        SPANS: [[span.name, span.size] for span in order],
    }


@torch.no_grad()
def qwen3_state(decoder: Decoder, order: Sequence[Span]) -> dict[str, Tensor]:
    """Weights under Qwen3's names, the rows of the spans in this order."""
    state: dict[str, Tensor] = {}
    for number, block in enumerate(decoder.blocks):
        assert isinstance(block, Block)
        for own, parts in _parts(block, number):
            for part, piece in zip(parts, own.split(list(parts.values())), strict=True):
                state[part] = piece.contiguous().clone()
    state["model.norm.weight"] = decoder.norm.weight.clone()
    tables = [("model.embed_tokens.weight", decoder.embeddings)]
    if not decoder.config.tie_embeddings:
        tables.append(("lm_head.weight", decoder.outputs))
    for key, table in tables:
        state[key] = torch.cat([table[parameter_key(span.name)] for span in order])
    return state


def _parts(block: Block, number: int) -> list[tuple[Tensor, dict[str, int]]]:
    """Each weight of a block, and the Qwen3 weights in it with their rows, in order."""
    prefix = f"model.layers.{number}"
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    config, q_norm, k_norm = block.attention.config, block.attention.q_norm, block.attention.k_norm
    if q_norm is None or k_norm is None:
        raise ConfigError("Qwen3 normalises queries and keys, but `qk_norm` is off.")
    size = config.head_dim
    heads = {"q": config.num_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
    return [
        (block.attention_norm.weight, {f"{prefix}.input_layernorm.weight": config.width}),
        (
            block.attention.qkv.weight,
            {f"{attention}.{x}_proj.weight": count * size for x, count in heads.items()},
        ),
        (q_norm.weight, {f"{attention}.q_norm.weight": size}),
        (k_norm.weight, {f"{attention}.k_norm.weight": size}),
        (block.attention.out.weight, {f"{attention}.o_proj.weight": config.width}),
        (block.mlp_norm.weight, {f"{prefix}.post_attention_layernorm.weight": config.width}),
        (
            block.mlp.gate_up.weight,
            {f"{mlp}.{x}_proj.weight": config.mlp_width for x in ("gate", "up")},
        ),
        (block.mlp.down.weight, {f"{mlp}.down_proj.weight": config.width}),
    ]


def _get(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise CheckpointError(
            f"Weight `{key}` is missing.",
            subject=MODEL_TYPE,
            remedy="Its weights and its config are not of one model: fetch both again.",
        )
    return state[key]


def _copy(own: Tensor, given: Tensor, key: str) -> None:
    if own.shape != given.shape:
        raise CheckpointError(
            f"It has shape {tuple(given.shape)}, but must have {tuple(own.shape)}.",
            subject=key,
            remedy="Its weights and its config are not of one model: fetch both again.",
        )
    own.copy_(given)


def _content(vocabulary: Vocabulary, name: str | None) -> Span:
    """The one content span of the modality that is exchanged."""
    if name is None:
        names = [n for n, m in vocabulary.modalities.items() if m.value_type is str]
        names = [n for n in names if len(vocabulary.modality(n).spans) == 1]
        if len(names) != 1:
            raise ConfigError(
                f"The modality to exchange must be named: of strings there are {names}."
            )
        name = names[0]
    spans = list(vocabulary.modality(name).spans)
    if len(spans) != 1:
        raise ConfigError(f"`{name}` must have one span, but has {len(spans)}.")
    return vocabulary.span(f"{name}.{spans[0]}")


def _refuse_own(decoder: Decoder, name: str) -> None:
    modality, kind = decoder.vocabulary.modality(name), decoder.vocabulary.kind(name)
    reasons = {
        "qk_norm": not decoder.config.qk_norm,
        f"patterns.{name}": any(not by_kind[kind].is_dense for by_kind in decoder.patterns),
        f"{name}.attend": modality.attend != "causal",
        f"{name}.layout": not isinstance(modality.layout, Open),
        f"{name}.seconds_per_cell": modality.seconds_per_cell is not None,
    }
    for option, is_wrong in reasons.items():
        if is_wrong:
            raise ConfigError(
                f"Qwen3 cannot express `{option}` of this model.",
                subject="export to Hugging Face",
                remedy="Export a model trained without it.",
            )


def _refuse_foreign(written: Mapping[str, Any], subject: str) -> None:
    rope_key = "rope_parameters" if written.get("rope_parameters") else "rope_scaling"
    rope = written.get(rope_key) or {}
    reasons = {
        "model_type": written.get("model_type") != MODEL_TYPE,
        "hidden_act": written.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(written.get("attention_bias", False)),
        "use_sliding_window": bool(written.get("use_sliding_window", False)),
        rope_key: rope.get("rope_type", rope.get("type", "default")) != "default",
    }
    for option, is_wrong in reasons.items():
        if is_wrong:
            raise ConfigError(
                f"`{option}` is {written.get(option)!r}, which this decoder does not have.",
                subject=subject,
                remedy="Import a plain Qwen3 model.",
            )
