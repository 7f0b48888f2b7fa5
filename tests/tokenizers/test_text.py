"""Text: any string round-trips, what looks like a control id is text, fitting is deterministic."""

import logging
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from unimodal.errors import ConfigError, MediaError, VocabularyError
from unimodal.modality import build_modality
from unimodal.testing import check_modality
from unimodal.tokenizers.text import ESCAPE, SENTENCEPIECE_FILE, SPACE_SIGN, Text, TextConfig
from unimodal.types import Tokens, line_grid

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "a red apple, a green apple and a yellow one",
    "eine rote Katze und ein gr\u00fcner Hund",
    "def f(x):\n    return x + 1\n",
] * 20


def fitted(vocab_size: int = 300, algorithm: str = "unigram") -> Text:
    text = Text(TextConfig(vocab_size=vocab_size, algorithm=algorithm))
    text.fit(CORPUS)
    return text


@pytest.fixture(scope="module")
def text() -> Text:
    return fitted()


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_a_fitted_text_holds_the_contract(algorithm: str) -> None:
    modality = fitted(algorithm=algorithm)
    assert check_modality(modality).ok
    assert modality.is_lossless
    assert modality.spans == {"text": 300}


def test_ten_thousand_random_strings_come_back(text: Text) -> None:
    rng = random.Random(0)
    alphabet = [chr(c) for c in range(0, 0x110000, 7) if not 0xD800 <= c < 0xE000]
    signs = [*" \n\r\t\0<s>_01", SPACE_SIGN, ESCAPE, "\ufeff", "\u2585", "<0x41>", "e\u0301"]
    values = ["".join(rng.choices(alphabet, k=rng.randrange(12))) for _ in range(5000)]
    values += ["".join(rng.choices(signs, k=rng.randrange(12))) for _ in range(5000)]
    encoded = text.encode_batch(values)
    assert [text.decode(tokens) for tokens in encoded] == values


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=30))
def test_any_string_comes_back(value: str) -> None:
    text = _SHARED
    tokens = text.encode(value)
    assert text.decode(tokens) == value
    assert text.length(value) == len(tokens)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 299), max_size=20))
def test_any_ids_have_a_text_that_utf8_can_hold(ids: list[int]) -> None:
    tokens = Tokens(grid=line_grid(len(ids)), ids=torch.tensor(ids, dtype=torch.int64))
    _SHARED.decode(tokens).encode("utf-8")


_SHARED = fitted()


def test_a_space_is_a_space_even_where_the_corpus_had_none() -> None:
    text = Text(TextConfig(vocab_size=300))
    text.fit(["abc"] * 3)
    assert text.decode(text.encode("a b\u2581c")) == "a b\u2581c"
    assert text.is_lossless


@pytest.mark.parametrize("value", ["<s>", "</s>", "<unk>", "<0x41>", "<|endoftext|>", "[PAD]"])
def test_what_looks_like_a_control_id_is_spelt(text: Text, value: str) -> None:
    tokens = text.encode(value)
    assert len(tokens) > 1
    assert text.decode(tokens) == value


@pytest.mark.parametrize("value", ["\ud800", "abc\udfff"])
def test_a_lone_surrogate_is_refused(text: Text, value: str) -> None:
    with pytest.raises(MediaError, match="lone surrogate"):
        text.encode(value)


def test_training_is_deterministic() -> None:
    assert fitted().state() == fitted().state()
    assert fitted().fingerprint() == fitted().fingerprint()
    assert fitted().fingerprint() != fitted(290).fingerprint()


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
@pytest.mark.parametrize("corpus", [["hello"], [" "], ["\n"], ["\u65e5\u672c", "x" * 3000]])
def test_a_poor_corpus_makes_a_smaller_vocabulary_and_says_so(
    algorithm: str, corpus: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    text = Text(TextConfig(vocab_size=4000, algorithm=algorithm))
    with caplog.at_level(logging.WARNING):
        if corpus == ["\n"]:
            with pytest.raises(MediaError, match="nothing to fit"):
                text.fit(corpus)
            return
        text.fit(corpus)
    assert "text.vocab_size" in caplog.text
    assert 257 <= text.spans["text"] < 4000
    assert text.decode(text.encode("any \u2581 text\n\u65e5")) == "any \u2581 text\n\u65e5"


def test_more_characters_than_pieces_falls_back_to_bytes() -> None:
    text = Text(TextConfig(vocab_size=280))
    text.fit(["".join(chr(c) for c in range(0x4E00, 0x5000)), "the apple " * 20])
    assert text.spans["text"] <= 280
    assert text.decode(text.encode("\u4e00\u4e01 apple")) == "\u4e00\u4e01 apple"


def test_nothing_to_fit_is_refused() -> None:
    with pytest.raises(MediaError, match="nothing to fit"):
        Text(TextConfig()).fit(["", ""])


def test_an_unfitted_text_says_what_to_do() -> None:
    with pytest.raises(VocabularyError, match="Call `fit`"):
        Text(TextConfig()).encode("a")


@pytest.mark.parametrize(
    "values", [{"vocab_size": 100}, {"algorithm": "wordpiece"}, {"max_characters": 0}]
)
def test_a_config_out_of_bounds_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        build_modality("text", values)


def test_the_state_restores_and_a_wrong_one_is_refused(text: Text) -> None:
    other = Text(TextConfig(vocab_size=300))
    other.load_state(text.state())
    assert other.fingerprint() == text.fingerprint()
    with pytest.raises(VocabularyError, match="does not load"):
        Text(TextConfig()).load_state({SENTENCEPIECE_FILE: b"\x00\x01"})
    with pytest.raises(VocabularyError, match=SENTENCEPIECE_FILE):
        Text(TextConfig()).load_state({"other": b""})


def test_a_model_file_is_taken_over_and_its_path_is_not_kept(text: Text, tmp_path) -> None:
    path = tmp_path / "a.model"
    path.write_bytes(text.state()[SENTENCEPIECE_FILE])
    loaded = Text(TextConfig(model_file=str(path)))
    assert loaded.config.model_file == ""
    assert loaded.spans == text.spans
    assert check_modality(loaded).ok
    with pytest.raises(ConfigError, match="cannot be read"):
        Text(TextConfig(model_file=str(tmp_path / "none.model")))


def byte_level(normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def test_a_tokenizer_json_loads_and_its_special_tokens_stay_text(tmp_path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = byte_level()
    tokenizer.save(str(path))
    text = Text(TextConfig(model_file=str(path)))
    assert text.is_lossless
    assert check_modality(text).ok
    tokens = text.encode("a quick <|endoftext|> fox")
    assert tokens.ids is not None
    assert tokenizer.token_to_id("<|endoftext|>") not in tokens.ids.tolist()
    assert text.decode(tokens) == "a quick <|endoftext|> fox"
    plain = tokenizer.encode("the quick brown fox").ids
    assert text.encode("the quick brown fox").ids.tolist() == plain


def test_a_tokenizer_json_that_changes_letters_counts_as_lossy(tmp_path, caplog) -> None:
    path = tmp_path / "tokenizer.json"
    byte_level(normalizers.Lowercase()).save(str(path))
    with caplog.at_level(logging.WARNING):
        text = Text(TextConfig(model_file=str(path)))
    assert not text.is_lossless
    assert "lossy" in caplog.text


def test_a_long_line_encodes_in_pieces_and_leaves_its_neighbours_alone(
    text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimodal.tokenizers.text.CHUNK", 50)
    long = "the qu\u00efck \u2581 brown \U0001f600 fox\n" * 20
    values = ["a", long, "", "bc", long[:60]]
    encoded = text.encode_batch(values)
    assert [text.decode(tokens) for tokens in encoded] == values
    assert [len(t) for t in encoded] == [text.length(v) for v in values]


def test_a_shown_text_is_escaped(text: Text) -> None:
    assert "<script>" not in text.show("<script>")
