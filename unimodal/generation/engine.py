"""The generation engine: a batch of requests of any mix of modalities, each by its own automaton.

Not here: how a batch runs (`batch`), what is given (`prompts`), what may follow (`rows`).
Certified by `unimodal.testing.certificates`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from unimodal.errors import ConfigError, UnimodalError
from unimodal.generation.batch import RunningBatch, wrap
from unimodal.generation.guidance import guided_head_sets
from unimodal.generation.prompts import Prompts
from unimodal.generation.requests import Answer, Request
from unimodal.generation.rows import Row
from unimodal.generation.step import Stepper
from unimodal.model.decoder import Decoder

OnProgress = Callable[[int, int], None]
"""Called with (ids done, ids in all); how many there are in all is known better and better."""


@contextmanager
def inference(decoder: Decoder) -> Iterator[None]:
    """Evaluation mode, no gradients, no autocast; the mode is restored."""
    training = decoder.training
    decoder.eval()
    try:
        with torch.no_grad(), torch.autocast(decoder.device.type, enabled=False):
            yield
    finally:
        decoder.train(training)


def generate(
    decoder: Decoder,
    requests: Sequence[Request],
    *,
    batch_size: int = 16,
    dtype: str = "float32",
) -> list[Answer]:
    """Answer requests; see `Engine`."""
    return Engine(decoder, dtype).generate(requests, batch_size=batch_size)


def check_batch_size(batch_size: int) -> None:
    """Raise ConfigError if a batch size is below 1."""
    if batch_size < 1:
        raise ConfigError(f"`batch_size` must be at least 1, but is {batch_size}.")


class Engine:
    """Answers requests with a decoder. Make a new one when its weights change.

    Args:
        decoder: The model; its weights are copied in a layout for decoding.
        dtype: In which the copied matrices are multiplied. `float32` is exact: answers do not
            depend on what else is in the batch. `bfloat16` is faster for many requests at once,
            `int8` (weights alone; bfloat16 for more than one token at a time) for one; rounding
            there depends on how many tokens are multiplied at once, so that an answer may
            depend on the batch.

    Raises:
        ConfigError: if the dtype is not offered.
    """

    def __init__(self, decoder: Decoder, dtype: str = "float32"):
        self.decoder = decoder
        self.vocabulary = decoder.vocabulary
        with inference(decoder):
            self.stepper = Stepper(decoder, dtype)
        self.guided = guided_head_sets(self.vocabulary)

    def generate(
        self,
        requests: Sequence[Request],
        *,
        batch_size: int = 16,
        on_progress: OnProgress | None = None,
    ) -> list[Answer]:
        """Answer requests.

        Args:
            requests: Of any mix of modalities, guided or not.
            batch_size: Requests answered at once, at least 1; a guided one has two rows of its
                own.
            on_progress: Told how many ids are done, of how many at most, now and then and at the
                end.

        Returns:
            One answer a request, in order. A bad request has its `error` set; the others are not
            affected.

        Raises:
            ConfigError: if `batch_size` is below 1.
        """
        check_batch_size(batch_size)
        answers: list[Answer] = []
        meter = _Meter(requests, on_progress)
        for first in range(0, len(requests), batch_size):
            answers += self._answer(requests[first : first + batch_size], meter)
        return answers

    def _answer(self, requests: Sequence[Request], meter: "_Meter") -> list[Answer]:
        meter.begin(requests)
        rows: list[Row | Answer] = []
        prompts = Prompts(self.vocabulary, self.decoder.stream)
        for request in requests:
            try:
                rows.append(Row(request, prompts))
            except UnimodalError as error:
                rows.append(Answer(error=error))
            except Exception as error:  # a modality's own failure must not cost the other requests
                rows.append(Answer(error=wrap(error, request)))
        running = [row for row in rows if isinstance(row, Row)]
        if running:
            with inference(self.decoder):
                RunningBatch(self.stepper, self.guided, running, lambda: meter.tell(running)).run()
        meter.finish(running)
        answers = []
        for row in rows:
            answers.append(row if isinstance(row, Answer) else _finish(row))
        return answers


class _Meter:
    """Counts ids for `on_progress`."""

    def __init__(self, requests: Sequence[Request], on_progress: OnProgress | None):
        self._on_progress = on_progress
        self._done = 0
        self._waiting = sum(request.max_tokens for request in requests)

    def begin(self, requests: Sequence[Request]) -> None:
        """These are answered now."""
        self._waiting -= sum(request.max_tokens for request in requests)

    def tell(self, running: Sequence[Row]) -> None:
        """Say how far the batch is."""
        if self._on_progress is not None:
            done = self._done + sum(len(row.ids) for row in running)
            left = sum(row.most_left for row in running)
            self._on_progress(done, done + left + self._waiting)

    def finish(self, running: Sequence[Row]) -> None:
        """The batch is done."""
        self.tell(running)
        self._done += sum(len(row.ids) for row in running)


def _finish(row: Row) -> Answer:
    try:
        return row.answer()
    except UnimodalError as error:
        return Answer(error=error)
    except Exception as error:  # a modality's own failure must not cost the other requests
        return Answer(error=wrap(error, row.request))
