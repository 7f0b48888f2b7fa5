"""Model folders: whole or absent, verified, of one vocabulary; growth leaves the old as it was."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import unimodal.testing.fixtures  # noqa: F401  (registers the fake modalities)
from unimodal.errors import CheckpointError, UnimodalError, VocabularyError
from unimodal.modality import build_modality, fit
from unimodal.model import durable
from unimodal.model.config import DecoderConfig
from unimodal.model.decoder import Decoder
from unimodal.model.folder import find_model, grow, load_model, save_model
from unimodal.stream import Document, Segment, StreamConfig, collate, encode_document
from unimodal.vocabulary import Vocabulary

SHAPE = DecoderConfig(
    width=16, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=24, num_layers=2, init_std=0.3
)


def make(*names: str, config: DecoderConfig = SHAPE) -> Decoder:
    return Decoder(config, Vocabulary.of(names)).eval()


def line_logits(decoder: Decoder) -> torch.Tensor:
    """Logits after each letter, over the head set of letters."""
    document = Document((Segment("fake_line", "abcxyz", objective="next"),))
    encoded = encode_document(document, decoder.vocabulary, StreamConfig())
    batch = collate([[encoded]], len(encoded), decoder.vocabulary)
    with torch.no_grad():
        return decoder.logits(decoder(batch)[0], batch.heads[0].number)


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    decoder = make("fake_line", "fake_continuous", "fake_codec")
    save_model(tmp_path / "m", decoder, {"card.md": b"# A model\n"})
    found = load_model(tmp_path / "m")
    assert not found.training
    assert found.config == decoder.config
    assert found.vocabulary.to_json() == decoder.vocabulary.to_json()
    state = found.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in decoder.state_dict().items())
    assert torch.equal(line_logits(found), line_logits(decoder))
    assert (tmp_path / "m" / "card.md").read_bytes() == b"# A model\n"


def test_fitted_tokenizers_travel_with_the_model(tmp_path: Path) -> None:
    words = build_modality("fake_words")
    fit(words, ["a red apple", "a red car", "a green apple"])
    decoder = Decoder(SHAPE, Vocabulary.of({"fake_words": words}))
    save_model(tmp_path / "m", decoder)
    found = load_model(tmp_path / "m").vocabulary.modality("fake_words")
    assert list((tmp_path / "m" / "tokenizers" / "fake_words").iterdir())
    mine, theirs = words.encode("a red pear"), found.encode("a red pear")
    assert mine.ids is not None
    assert theirs.ids is not None
    assert torch.equal(mine.ids, theirs.ids)


def test_files_have_the_mode_of_any_other_file(tmp_path: Path) -> None:
    save_model(tmp_path / "m", make("fake_line"))
    (tmp_path / "other").touch()
    wanted = (tmp_path / "other").stat().st_mode & 0o777
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "m").iterdir() if p.is_file()}
    assert set(modes.values()) == {wanted}, modes


def test_a_folder_is_never_overwritten_unless_asked(tmp_path: Path) -> None:
    save_model(tmp_path / "m", make("fake_line"))
    before = (tmp_path / "m" / "manifest.json").read_bytes()
    with pytest.raises(CheckpointError, match="never overwritten"):
        save_model(tmp_path / "m", make("fake_grid"))
    assert (tmp_path / "m" / "manifest.json").read_bytes() == before
    save_model(tmp_path / "m", make("fake_grid"), replace=True)
    assert "fake_grid" in load_model(tmp_path / "m").vocabulary.modalities
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "vocabulary.json", "manifest.json"]
)
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damage_is_named(tmp_path: Path, name: str, harm: str) -> None:
    save_model(tmp_path / "m", make("fake_line"))
    path = tmp_path / "m" / name
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif harm == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "m")
    if name != "manifest.json":
        assert name in str(caught.value)


def test_a_file_that_nobody_listed_is_named(tmp_path: Path) -> None:
    save_model(tmp_path / "m", make("fake_line"))
    (tmp_path / "m" / "extra.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"extra\.pt.*not in the manifest"):
        load_model(tmp_path / "m")


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    decoder = make("fake_line")
    state = decoder.state_dict()
    cases = {
        "missing": {k: v for k, v in state.items() if k != "norm.weight"},
        "not one of this model": {**state, "surplus": torch.zeros(1)},
        "must have shape": {**state, "norm.weight": torch.ones(3)},
    }
    for number, (message, weights) in enumerate(cases.items()):
        save_model(tmp_path / str(number), decoder, weights=weights)
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path / str(number))


def test_a_tokenizer_that_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "m", make("fake_line"))
    from unimodal.testing.fixtures import FakeLine

    old = make("fake_line").vocabulary.entries["fake_line"].fingerprint
    monkeypatch.setattr(FakeLine, "spans", {"letter": 27})
    with pytest.raises(VocabularyError) as caught:
        load_model(tmp_path / "m")
    text = str(caught.value)
    assert "fake_line.letter" in text
    assert old in text
    assert "fake_line@2" in text


def test_another_vocabulary_is_refused_with_span_and_remedy(tmp_path: Path) -> None:
    save_model(tmp_path / "m", make("fake_line", "fake_grid"))
    with pytest.raises(VocabularyError, match=r"Span fake_line\.open.*became fake_grid\.open"):
        load_model(tmp_path / "m", vocabulary=Vocabulary.of(["fake_grid", "fake_line"]))


def test_growth_leaves_old_ids_and_logits_bit_identical(tmp_path: Path) -> None:
    for untied in (False, True):
        config = DecoderConfig(
            **{**vars(SHAPE), "tie_embeddings": not untied, "patterns": {}}  # type: ignore[arg-type]
        )
        old = make("fake_line", config=config)
        vocabulary = Vocabulary.of(["fake_line", "fake_grid", "fake_continuous"])
        grown = grow(old, vocabulary).eval()
        assert vocabulary.spans[: len(old.vocabulary.spans)] == old.vocabulary.spans
        state = grown.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in old.state_dict().items())
        assert torch.equal(line_logits(grown), line_logits(old))
        assert grown.num_parameters() > old.num_parameters()


def test_a_run_folder_gives_its_model_else_its_newest_checkpoint(tmp_path: Path) -> None:
    first, second = make("fake_line"), make("fake_line", "fake_grid")
    save_model(tmp_path / "checkpoints" / "step-00000001", first)
    save_model(tmp_path / "checkpoints" / "step-00000002", second)
    assert find_model(tmp_path).name == "step-00000002"
    weights = tmp_path / "checkpoints" / "step-00000002" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert find_model(tmp_path).name == "step-00000001"
    save_model(tmp_path / "model", second)
    assert find_model(tmp_path) == tmp_path / "model"


@pytest.mark.parametrize("place", ["nothing", "empty", "file.txt"])
def test_no_model_is_a_typed_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / place)
    assert caught.value.remedy


def test_a_config_cannot_name_code(tmp_path: Path) -> None:
    decoder = make("fake_line")
    with durable.durable_folder(tmp_path / "m", {}) as work:
        from unimodal.model.folder import write_model_files

        write_model_files(work, decoder)
        config = json.loads((work / "config.json").read_text())
        config["decoder"]["_target_"] = "os.system"
        (work / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnimodalError, match="Unknown key `_target_`"):
        load_model(tmp_path / "m")


def test_a_disk_that_refuses_leaves_nothing_and_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "m", make("fake_line"))
    before = {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir() if p.is_file()}

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("unimodal.model.folder.write_bytes", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_model(tmp_path / "m", make("fake_grid"), replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir() if p.is_file()}


def test_random_weights_survive(tmp_path: Path) -> None:
    decoder = make("fake_line")
    rng = np.random.default_rng(0)
    weights = {
        name: torch.from_numpy(rng.standard_normal(tensor.shape).astype(np.float32))
        for name, tensor in decoder.state_dict().items()
    }
    save_model(tmp_path / "m", decoder, weights=weights)
    found = load_model(tmp_path / "m").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
