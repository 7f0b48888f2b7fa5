"""Generation: requests of any mix are answered validly, alone or together, and fail alone."""

import dataclasses

import pytest
import torch
from torch import Tensor

from unimodal.constraints import Ban, Trie
from unimodal.errors import ConfigError, DataError, GrammarError, MediaError, VocabularyError
from unimodal.generation import Engine, Request, Sampling, generate, score
from unimodal.generation.sampling import Sampler
from unimodal.model.decoder import parameter_key
from unimodal.stream import Document, Segment
from unimodal.testing.fixtures import NonDecreasing

DISCRETE = ("fake_line", "fake_residual", "fake_grid", "fake_events")


def ask(name, *given, **options):
    sampling = options.pop("sampling", Sampling(seed=1))
    return Request(Document(list(given)), [name], sampling, **options)


def test_every_modality_and_mix_is_written_validly(build_decoder, given):
    decoder = build_decoder()
    vocabulary = decoder.vocabulary
    requests = []
    for seed, name in enumerate(DISCRETE * 3):
        inputs = [given(decoder, "fake_continuous", seed), given(decoder, "fake_line", seed)]
        document = Document(inputs[: seed % 3])
        requests.append(
            Request(document, [name, *DISCRETE[: seed % 2]], Sampling(seed=seed), max_tokens=90)
        )
    for request, answer in zip(requests, generate(decoder, requests), strict=True):
        assert answer.error is None
        assert [s.modality for s in answer.segments] == list(request.asked)
        assert len(answer.ids) <= 90
        for segment in answer.segments:
            modality = vocabulary.modality(segment.modality)
            assert isinstance(segment.value, modality.value_type)
            cursor = vocabulary.grammar(segment.modality).cursor()
            for token in segment.ids:
                cursor.push(token)
            assert cursor.done


@pytest.mark.parametrize("name", DISCRETE)
def test_the_least_budget_is_met_and_one_less_is_refused(build_decoder, name):
    decoder = build_decoder()
    least = 1 + decoder.vocabulary.grammar(name).shortest()
    exact, short = generate(decoder, [ask(name, max_tokens=least), ask(name, max_tokens=least - 1)])
    assert len(exact.ids) == least
    assert isinstance(short.error, ConfigError)
    assert "max_tokens" in str(short.error)


@pytest.mark.parametrize("budget", [4, 5, 6, 7, 20])
def test_a_cell_is_never_left_unfinished(build_decoder, budget):
    decoder = build_decoder()
    requests = [
        ask("fake_residual", sampling=Sampling(seed=seed), max_tokens=budget + 1)
        for seed in range(8)
    ]
    for answer in generate(decoder, requests):
        codes = len(answer.segments[0].ids) - 1
        assert codes % 3 == 0
        assert codes <= budget


def test_an_answer_does_not_depend_on_the_batch(build_decoder, given):
    decoder = build_decoder()
    requests = [
        Request(
            Document([given(decoder, "fake_line", seed)] * (seed % 3)),
            [name],
            Sampling(seed=seed, temperature=0.5 * (seed % 3), top_k=seed or None, top_p=0.9),
            max_tokens=70,
        )
        for seed, name in enumerate(DISCRETE * 2)
    ]
    together = Engine(decoder).generate(requests)
    for request, answer in zip(requests, together, strict=True):
        assert generate(decoder, [request])[0].ids == answer.ids


def test_seeds_change_answers_and_repeat_them(build_decoder):
    decoder = build_decoder()
    one, two, again = generate(
        decoder, [ask("fake_line", sampling=Sampling(seed=seed)) for seed in (1, 2, 1)]
    )
    assert one.ids == again.ids != two.ids


def test_temperature_zero_takes_the_likeliest_id(build_decoder):
    decoder = build_decoder()
    greedy = ask("fake_line", sampling=Sampling(temperature=0), max_tokens=30)
    top_one = ask("fake_line", sampling=Sampling(top_k=1, seed=3), max_tokens=30)
    tiny_p = ask("fake_line", sampling=Sampling(top_p=1e-9, seed=4), max_tokens=30)
    answers = generate(decoder, [greedy, top_one, tiny_p])
    assert answers[0].ids == answers[1].ids == answers[2].ids


def test_several_segments_and_forced_openers(build_decoder):
    decoder = build_decoder()
    request = Request(Document([]), ["fake_grid", "fake_line"], Sampling(seed=0), max_tokens=60)
    (answer,) = generate(decoder, [request])
    openers = [decoder.vocabulary.opener(name) for name in ("fake_grid", "fake_line")]
    assert answer.ids[0] == openers[0]
    second = 1 + len(answer.segments[0].ids)
    assert answer.ids[second] == openers[1]
    assert answer.forced[0]
    assert answer.forced[second]
    assert len(answer.values) == 2


def test_free_switching_opens_only_listed_modalities(build_decoder, given):
    decoder = build_decoder(openers=("fake_line", "fake_grid"))
    document = Document([given(decoder, "fake_line")])
    requests = [Request(document, None, Sampling(seed=s), max_tokens=50) for s in range(8)]
    answers = generate(decoder, requests)
    written = {s.modality for answer in answers for s in answer.segments}
    assert written <= {"fake_line", "fake_grid"}
    assert written
    stop = decoder.vocabulary.control("stop")
    assert all(answer.ids[-1] == stop for answer in answers)


def test_constraints_only_remove_ids(build_decoder):
    decoder = build_decoder()
    letter = decoder.vocabulary.span("fake_line.letter").start
    end = decoder.vocabulary.control("end")
    word = (letter + 2, letter + 0, letter + 1, end)
    trie = ask("fake_line", constraints={"fake_line": [Trie((word,))]})
    banned = ask("fake_line", constraints={"fake_line": [Ban(tuple(range(letter, letter + 20)))]})
    events = decoder.vocabulary
    rule = NonDecreasing(
        events.span("fake_events.letter").start, events.span("fake_events.tick").start
    )
    timed = ask("fake_events", constraints={"fake_events": [rule]}, max_tokens=40)
    spelled, rest, ordered = generate(decoder, [trie, banned, timed])
    assert spelled.value == "cab"
    assert set(rest.value) <= set("uvwxyz")
    assert list(ordered.value.ticks) == sorted(ordered.value.ticks)


def test_a_constraint_that_leaves_nothing_costs_its_request_alone(build_decoder):
    decoder = build_decoder()
    letter = decoder.vocabulary.span("fake_line.letter").start
    word = (*range(letter, letter + 10), decoder.vocabulary.control("end"))
    bad = ask("fake_line", constraints={"fake_line": [Trie((word,))]}, max_tokens=5)
    good = ask("fake_line", max_tokens=5)
    first, second, third = generate(decoder, [good, bad, good])
    assert isinstance(second.error, GrammarError)
    assert "constraints" in str(second.error)
    assert first.ids == third.ids == generate(decoder, [good])[0].ids


def test_a_constraint_that_raises_costs_its_request_alone(build_decoder):
    class Broken:
        def keep(self, written, ids):
            raise RuntimeError("no rule")

    decoder = build_decoder()
    bad = ask("fake_line", constraints={"fake_line": [Broken()]})
    first, second = generate(decoder, [bad, ask("fake_line")])
    assert isinstance(first.error, DataError)
    assert "no rule" in str(first.error)
    assert second.error is None


@pytest.mark.parametrize(
    ("document", "asked", "kind"),
    [
        ([], ["fake_lines"], VocabularyError),
        ([], ["fake_continuous"], VocabularyError),
        ([], [], ConfigError),
        ([], None, ConfigError),
        ([Segment("fake_line", 3)], ["fake_line"], DataError),
        ([Segment("fake_line")], ["fake_line"], DataError),
        ([Segment("fake_line", "UPPER")], ["fake_line"], MediaError),
        ([Segment("nothing", "a")], ["fake_line"], VocabularyError),
    ],
)
def test_a_bad_request_fails_alone_with_a_typed_error(build_decoder, document, asked, kind):
    decoder = build_decoder(openers=("fake_line",))
    good = ask("fake_line")
    answers = generate(decoder, [good, Request(Document(document), asked), good])
    assert isinstance(answers[1].error, kind)
    with pytest.raises(kind):
        _ = answers[1].value
    assert answers[0].ids == answers[2].ids
    assert answers[0].error is None


def test_features_that_are_not_finite_cost_their_request_alone(build_decoder, given):
    decoder = build_decoder()
    value = given(decoder, "fake_continuous").value
    good = ask("fake_line", Segment("fake_continuous", value))
    bad = ask("fake_line", Segment("fake_continuous", value * torch.nan))
    answers = generate(decoder, [good, bad, good])
    assert isinstance(answers[1].error, DataError)
    assert answers[0].ids == answers[2].ids == generate(decoder, [good])[0].ids


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_numbers_that_overflow_cost_their_request_alone(build_decoder, given, temperature):
    decoder = build_decoder()
    row = decoder.vocabulary.opener("fake_grid")
    with torch.no_grad():
        for span in decoder.vocabulary.spans:
            if span.start <= row < span.stop:
                decoder.embeddings[parameter_key(span.name)][row - span.start] = torch.inf
    sampling = Sampling(seed=1, temperature=temperature)
    good = ask("fake_line", given(decoder, "fake_line"), sampling=sampling)
    # One fails at its first id, the other after it has written a segment.
    now = ask("fake_line", given(decoder, "fake_grid"), sampling=sampling)
    later = Request(Document([]), ["fake_residual", "fake_grid"], sampling, max_tokens=40)
    answers = generate(decoder, [good, now, later, good])
    for answer in answers[1:3]:
        assert isinstance(answer.error, DataError)
        assert "finite" in str(answer.error)
    assert answers[0].ids == answers[3].ids == generate(decoder, [good])[0].ids


@pytest.mark.parametrize("temperature", [1e-40, 1e-300])
def test_tiny_temperatures_take_the_likeliest_id(build_decoder, temperature):
    decoder = build_decoder()
    cold, tiny = generate(
        decoder,
        [
            ask("fake_line", sampling=Sampling(temperature=t, seed=1, top_p=0.9), max_tokens=20)
            for t in (0.0, temperature)
        ],
    )
    assert tiny.error is None
    assert tiny.ids == cold.ids


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_with_nothing_legal_or_no_score_says_so(temperature):
    settings = Sampling(temperature=temperature, seed=1)
    sampler = Sampler([settings] * 3, torch.device("cpu"))
    logits = torch.randn(3, 5)
    logits[1, 2] = torch.nan
    legal = torch.tensor([[True] * 5, [True] * 5, [False] * 5])
    columns, scores = sampler.draw(logits, torch.full((3,), 0.5, dtype=torch.float64), legal)
    assert scores.isfinite().tolist() == [True, False, False]
    assert bool((columns < 5).all())


def test_constraints_on_what_is_not_asked_for_are_refused(build_decoder):
    bad = ask("fake_line", constraints={"fake_lime": [Ban((1,))]})
    good, refused = generate(build_decoder(), [ask("fake_line"), bad])
    assert good.error is None
    assert isinstance(refused.error, ConfigError)
    assert "fake_lime" in str(refused.error)


def test_a_batch_has_at_least_one_request(build_decoder):
    with pytest.raises(ConfigError, match="batch_size"):
        generate(build_decoder(), [ask("fake_line")], batch_size=0)


def test_one_asked_modality_may_be_a_plain_name(build_decoder):
    request = Request(Document([]), "fake_line", Sampling(seed=1))
    (answer,) = generate(build_decoder(), [request])
    assert [s.modality for s in answer.segments] == ["fake_line"]


def test_an_end_that_only_the_budget_forces_has_its_log_probability(build_decoder, given):
    decoder = build_decoder()
    grid = given(decoder, "fake_grid")
    requests = [ask("fake_line", grid, sampling=Sampling(seed=s), max_tokens=8) for s in range(12)]
    answers = generate(decoder, requests)
    assert {answer.is_truncated for answer in answers} == {True, False}
    for answer in answers:
        segment = Segment("fake_line", answer.value, objective="next")
        (found,) = score(decoder, [Document([grid, segment])])
        assert answer.logprob == pytest.approx(-found.nats, abs=1e-3)
        assert answer.is_truncated == (len(answer.ids) == 8)


def test_free_switching_without_listed_openers_is_refused(build_decoder, given):
    decoder = build_decoder()
    (answer,) = generate(decoder, [Request(Document([given(decoder, "fake_line")]), None)])
    assert isinstance(answer.error, GrammarError)


def test_a_prefix_is_continued_and_kept(build_decoder, given):
    decoder = build_decoder()
    sampling = Sampling(seed=5)
    document = Document([given(decoder, "fake_continuous")])
    for prefix in ("", "abcab"):
        request = Request(document, ["fake_line"], sampling, max_tokens=30, prefix=prefix)
        (answer,) = generate(decoder, [request])
        assert answer.value.startswith(prefix)
    plain = Request(document, ["fake_line"], sampling, max_tokens=30)
    empty = dataclasses.replace(plain, prefix="")
    first, second = generate(decoder, [plain, empty])
    assert first.ids == second.ids


@pytest.mark.parametrize("asked", [["fake_line"], ["fake_line", "fake_events"]])
def test_a_prefix_counts_against_the_budget(build_decoder, asked):
    decoder = build_decoder()
    least = (
        1
        + len("abcabc")
        + 1
        + (1 + decoder.vocabulary.grammar(asked[-1]).shortest()) * (len(asked) - 1)
    )
    exact, short = generate(
        decoder,
        [
            Request(Document([]), asked, Sampling(seed=1), max_tokens=budget, prefix="abcabc")
            for budget in (least, least - 1)
        ],
    )
    assert len(exact.ids) == least
    assert exact.segments[0].value == "abcabc"
    assert isinstance(short.error, ConfigError)


def test_a_prefix_needs_a_layout_with_an_end(build_decoder, given):
    decoder = build_decoder()
    value = given(decoder, "fake_grid").value
    (answer,) = generate(decoder, [ask("fake_grid", prefix=value)])
    assert isinstance(answer.error, ConfigError)


def test_the_mode_of_the_decoder_is_kept_and_weights_take_no_gradient(build_decoder):
    decoder = build_decoder().train()
    generate(decoder, [ask("fake_line")])
    assert decoder.training
    assert all(p.grad is None and p.requires_grad for p in decoder.parameters())


def test_a_full_head_gives_valid_answers_too(build_decoder):
    decoder = build_decoder(head="full")
    for answer in generate(decoder, [ask(name, max_tokens=80) for name in DISCRETE]):
        assert answer.error is None


def test_logprobs_are_those_of_the_plain_softmax(build_decoder):
    decoder = build_decoder()
    cold = ask("fake_line", sampling=Sampling(temperature=0), max_tokens=9)
    cool = ask("fake_line", sampling=Sampling(temperature=0.01, seed=1), max_tokens=9)
    first, second = generate(decoder, [cold, cool])
    assert first.ids == second.ids
    torch.testing.assert_close(Tensor(first.logprobs), Tensor(second.logprobs))
    assert first.logprob == pytest.approx(sum(first.logprobs))
