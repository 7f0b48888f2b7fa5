"""Qwen3 folders: logits equal to transformers' in both directions, and refusals by name."""

import json

import pytest
import torch

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.errors import CheckpointError, ConfigError
from unimodal.media import torchaudio_adapter
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.model.folder import load_model
from unimodal.model.huggingface import (
    config_of,
    from_huggingface,
    load_huggingface,
    read_huggingface,
    to_huggingface,
)
from unimodal.stream import Document, Segment, collate, encode_document
from unimodal.testing.certificates import sharpen
from unimodal.vocabulary import Vocabulary

NUM_LETTERS = 26
SHAPES = [
    {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "tie_embeddings": True},
    {"num_heads": 2, "num_kv_heads": 2, "head_dim": 128, "tie_embeddings": False},
    {"num_heads": 3, "num_kv_heads": 1, "head_dim": 64, "tie_embeddings": False},
]


@pytest.fixture(scope="module")
def transformers():
    torchaudio_adapter.load()  # a torchaudio that does not load takes transformers down with it
    return pytest.importorskip("transformers")


def make_qwen3(transformers, shape):
    config = transformers.Qwen3Config(
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=shape["num_heads"],
        num_key_value_heads=shape["num_kv_heads"],
        head_dim=shape["head_dim"],
        intermediate_size=128,
        vocab_size=NUM_LETTERS,
        tie_word_embeddings=shape["tie_embeddings"],
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        initializer_range=0.2,
    )
    model = transformers.Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 2.0)
    return model


def vocabulary(*others):
    return Vocabulary.of(["fake_line", *others])


def logits_of(decoder, ids):
    """Logits over all ids at each position of a causal document of global ids, uncached."""
    count = len(ids)
    letters = "".join("a" for _ in range(count))
    document = encode_document(
        Document([Segment("fake_line", letters, attend="causal")]),
        decoder.vocabulary,
        decoder.stream,
    )
    batch = collate([[document]], len(document), decoder.vocabulary)
    batch.ids[0, :count] = ids
    with torch.no_grad():
        hidden = decoder.eval()(batch)[0, :count]
        tables = decoder.embeddings if decoder.config.tie_embeddings else decoder.outputs
        return hidden @ torch.cat([tables[k] for k in tables]).t()


@pytest.mark.parametrize("shape", SHAPES, ids=["gqa_tied", "mha_128_untied", "mqa_untied"])
def test_imported_weights_give_the_logits_of_transformers(transformers, tmp_path, shape):
    qwen3 = make_qwen3(transformers, shape)
    qwen3.save_pretrained(tmp_path)
    decoder = from_huggingface(tmp_path, vocabulary("fake_grid"))
    span = decoder.vocabulary.span("fake_line.letter")
    ids = torch.randint(NUM_LETTERS, (40,))
    with torch.no_grad():
        expected = qwen3(input_ids=ids[None]).logits[0]
    found = logits_of(decoder, ids + span.start)[:, span.start : span.stop]
    assert float(expected.std()) > 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=["gqa_tied", "mha_128_untied", "mqa_untied"])
def test_exported_weights_give_our_logits_in_transformers(transformers, tmp_path, shape):
    config = DecoderConfig(width=96, mlp_width=128, num_layers=2, rope_theta=3000.0, **shape)
    decoder = sharpen(Decoder(config, vocabulary("fake_grid", "fake_continuous")))
    exported = to_huggingface(decoder, tmp_path / "out")
    assert exported.left_out == ["fake_continuous: its embedder of features"]
    assert exported.first_id["fake_line.letter"] == 0
    qwen3 = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(decoder.vocabulary.size, (40,))
    row = torch.empty(decoder.vocabulary.size, dtype=torch.int64)
    for span in decoder.vocabulary.spans:
        first = exported.first_id[span.name]
        row[span.start : span.stop] = torch.arange(first, first + span.size)
    with torch.no_grad():
        expected = qwen3(input_ids=row[ids][None]).logits[0][:, row]
    torch.testing.assert_close(logits_of(decoder, ids), expected, rtol=0, atol=1e-4)


def test_an_export_suppresses_all_but_the_content_and_the_end(transformers, tmp_path):
    config = DecoderConfig(width=32, mlp_width=48, num_layers=1, **SHAPES[0])
    decoder = Decoder(config, vocabulary("fake_grid"))
    to_huggingface(decoder, tmp_path / "out")
    written = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    allowed = set(range(decoder.vocabulary.size)) - set(written.suppress_tokens)
    assert allowed == {*range(NUM_LETTERS), written.eos_token_id}


@pytest.mark.parametrize("shape", SHAPES[:2], ids=["tied", "untied"])
def test_a_folder_round_trips_bit_for_bit(tmp_path, shape):
    config = DecoderConfig(width=32, mlp_width=48, num_layers=2, **shape)
    decoder = Decoder(config, vocabulary("fake_grid", "fake_residual"))
    to_huggingface(decoder, tmp_path / "one")
    back = from_huggingface(tmp_path / "one", vocabulary("fake_grid", "fake_residual"))
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name
    to_huggingface(back, tmp_path / "two")
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def save_with_tokenizer(transformers, folder, **changes):
    """A Qwen3 folder whose tokenizer has the 256 bytes and two tokens that begin and end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    model = make_qwen3(transformers, SHAPES[2])
    model.resize_token_embeddings(264)
    model.config.bos_token_id, model.config.eos_token_id = 256, [257, 256]
    for key, value in changes.items():
        setattr(model.config, key, value)
    model.save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<begin>", "<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return model.eval()


def test_a_folder_opens_with_its_own_tokenizer(transformers, tmp_path):
    qwen3 = save_with_tokenizer(transformers, tmp_path)
    decoder = load_model(tmp_path)
    assert list(decoder.vocabulary.modalities) == ["text"]
    text = decoder.vocabulary.modality("text")
    assert text.decode(text.encode("a b \u00e9")) == "a b \u00e9"
    document = encode_document(
        Document([Segment("text", "a red apple", objective="next")]),
        decoder.vocabulary,
        decoder.stream,
    )
    batch = collate([[document]], len(document), decoder.vocabulary)
    span = decoder.vocabulary.span("text.text")
    ids = batch.ids[0] - span.start
    ids[0], ids[-1] = 256, 257  # our opener and end have the rows of theirs
    with torch.no_grad():
        hidden = decoder(batch)[0]
        expected = qwen3(input_ids=ids[None]).logits[0]
        head = torch.cat([decoder.outputs[k] for k in decoder.outputs])
    found = hidden @ head.t()
    torch.testing.assert_close(
        found[:, span.start : span.stop], expected[:, : span.size], rtol=0, atol=1e-4
    )
    end = decoder.vocabulary.control("end")
    torch.testing.assert_close(found[:, end], expected[:, 257], rtol=0, atol=1e-4)


def test_a_folder_that_is_no_qwen3_or_lacks_its_tokenizer_is_refused(transformers, tmp_path):
    for name, changes, match in (
        ("llama", {"model_type": "llama"}, "`model_type` is 'llama'"),
        ("biased", {"attention_bias": True}, "`attention_bias` is True"),
    ):
        folder = tmp_path / name
        save_with_tokenizer(transformers, folder)
        written = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**written, **changes}))
        with pytest.raises(ConfigError, match=match):
            load_model(folder)
    (folder / "config.json").write_text(json.dumps(written))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no tokenizer .* Put the model's `tokenizer\.json`"):
        load_model(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled ones are not read"):
        load_model(folder)


def test_sharded_folders_are_read(transformers, tmp_path):
    qwen3 = make_qwen3(transformers, SHAPES[0])
    qwen3.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    _, state, _ = read_huggingface(tmp_path)
    expected = {k for k in qwen3.state_dict() if k != "lm_head.weight"}
    assert set(state) - {"lm_head.weight"} == expected


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model_type", "llama"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("use_sliding_window", True),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1.0}),
        ("rope_scaling", {"type": "yarn", "factor": 4.0}),
    ],
)
def test_foreign_options_are_refused_by_name(transformers, option, value):
    written = transformers.Qwen3Config().to_dict() | {"rope_parameters": None, option: value}
    with pytest.raises(ConfigError, match=option):
        config_of(written)


@pytest.mark.parametrize(
    ("options", "name", "match"),
    [
        ({"qk_norm": False}, "fake_line", "qk_norm"),
        ({"patterns": {"fake_line": ["window(size=4)"]}}, "fake_line", "patterns.fake_line"),
        ({}, "fake_grid", "fake_grid.layout"),
    ],
)
def test_own_options_that_qwen3_lacks_are_refused_by_name(tmp_path, options, name, match):
    config = DecoderConfig(width=32, mlp_width=48, num_layers=1, **SHAPES[0], **options)
    decoder = Decoder(config, vocabulary("fake_grid"))
    with pytest.raises(ConfigError, match=match):
        to_huggingface(decoder, tmp_path / "out", name)


def test_wrong_folders_are_refused(transformers, tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_huggingface(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(transformers.Qwen3Config().to_dict()))
    with pytest.raises(CheckpointError, match="safetensors"):
        read_huggingface(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="pickled"):
        read_huggingface(tmp_path)
    decoder = Decoder(DecoderConfig(width=32, num_layers=1, **SHAPES[0]), vocabulary())
    with pytest.raises(CheckpointError, match="not empty"):
        to_huggingface(decoder, tmp_path)


def test_weights_that_do_not_fit_are_named(tmp_path):
    decoder = Decoder(DecoderConfig(width=32, num_layers=1, **SHAPES[0]), vocabulary())
    with pytest.raises(CheckpointError, match=r"input_layernorm.*missing"):
        load_huggingface(decoder, {})


@pytest.mark.parametrize(
    ("written", "match"),
    [
        ({"model_type": "qwen3"}, "key 'hidden_size' is missing"),
        ({"model_type": "qwen3", "hidden_size": "wide", "num_attention_heads": 2}, "not a Qwen3"),
        ([1], "not a Qwen3"),
    ],
)
def test_incomplete_configs_name_the_key(tmp_path, written, match):
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(CheckpointError, match=match) as caught:
        read_huggingface(tmp_path)
    assert caught.value.subject == str(tmp_path / "config.json")


@pytest.mark.parametrize("index", ["{", "{}", "[]", '{"weight_map": []}'])
def test_a_bad_index_is_named(tmp_path, index):
    config = DecoderConfig(width=32, mlp_width=48, num_layers=1, **SHAPES[0])
    to_huggingface(Decoder(config, vocabulary()), tmp_path / "out")
    (tmp_path / "out" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="weight_map"):
        read_huggingface(tmp_path / "out")
