"""The one way to ask a model in batches: for likelihoods, and for text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from longcat.errors import ConfigError
from longcat.inference.batches import fit, plan
from longcat.inference.decoder import Decoder
from longcat.inference.likelihoods import Score, Scorer
from longcat.inference.opening import OpenCheckpoint
from longcat.inference.ranks import Limits, score_over_ranks
from longcat.inference.requests import Continuation, Generated, Likelihood, Prompt, Reason

OnDone = Callable[[int], None]
"""Hears how many requests are answered."""
TOGETHER = 4
"""Texts begin when one in so many of the rows is free."""


def _ignore(done: int) -> None:
    """Hear of progress, and do nothing."""


class Runner:
    """Asks a model in batches. The answer to a request does not depend on what else is asked, but for rounding."""

    def __init__(
        self,
        checkpoint: OpenCheckpoint,
        *,
        batch_sequences: int = 32,
        batch_tokens: int = 16_384,
        window: int | None = None,
        processes: int = 1,
    ) -> None:
        """Make a runner.

        Args:
            checkpoint: the model.
            batch_sequences: most contexts or texts at a time.
            batch_tokens: most tokens at a time, with padding; one text may have more. The cache of texts holds four times
                as many.
            window: tokens of a text that the model reads; as many as it is meant for if None.
            processes: that likelihoods are divided among, each with the whole model on a device of its own.

        Raises:
            ConfigError: the window exceeds the model's positions.
        """
        self.checkpoint = checkpoint
        self.window = checkpoint.window if window is None else window
        if not 0 < self.window <= checkpoint.window:
            raise ConfigError(f"a window of {self.window} tokens is not between 1 and the model's {checkpoint.window}")
        self._rows, self._tokens, self._processes = batch_sequences, batch_tokens, processes

    def likelihoods(self, requests: Sequence[Continuation], on_done: OnDone = _ignore) -> list[Likelihood]:
        """Compute the log-likelihood of continuations, in the order of the requests.

        An empty continuation is certain.

        Raises:
            ConfigError: a continuation alone is longer than the window.
            TrainingError: one of several processes failed.
        """
        fitted = [fit(request, self.checkpoint.end_of_text, self.window) for request in requests]
        scores: dict[int, Score] = {number: (0.0, True) for number, (_, of, _) in enumerate(fitted) if not of}
        if self._processes > 1:
            limits = Limits(self._rows, self._tokens, self._alone_from)
            empty = len(scores)
            scores |= score_over_ranks(
                self.checkpoint, fitted, limits, self._processes, lambda done: on_done(empty + done)
            )
        else:
            scorer = Scorer(self.checkpoint, self._tokens)
            for batch in plan(fitted, self._rows, self._tokens, self._alone_from):
                scores |= scorer.scores(batch)
                on_done(len(scores))
        return [Likelihood(*scores[number], dropped) for number, (_, _, dropped) in enumerate(fitted)]

    @property
    def _alone_from(self) -> int:
        """Return the tokens from which on keys are chosen by pages, which padding would change."""
        sparse = self.checkpoint.model.config.sparse_attention
        return self.window + 1 if sparse is None else sparse.hierarchical_from_tokens

    def stream(self, prompt: Prompt) -> Iterator[str]:
        """Continue one text, and yield it piece by piece as it is made.

        Raises:
            ConfigError: prompt and continuation are longer than the model is meant for.
        """
        decoder = Decoder(self.checkpoint, rows=1)
        decoder.add(prompt)
        return (event.text for _ in range(prompt.sampling.max_tokens) for event in decoder.step())

    def generate(self, prompts: Sequence[Prompt], on_done: OnDone = _ignore) -> list[Generated]:
        """Continue texts, in the order of the prompts.

        A prompt that leaves no room for its `max_tokens` in the window is cut at the left.

        Raises:
            ConfigError: `max_tokens` leaves no room for a prompt.
        """
        together = max(1, self._rows // TOGETHER)
        decoder = Decoder(self.checkpoint, rows=self._rows, tokens=4 * self._tokens, together=together)
        dropped: list[int] = []
        for prompt in prompts:
            room = self.window - prompt.sampling.max_tokens
            if room < 1:
                raise ConfigError(
                    f"{prompt.sampling.max_tokens} new tokens leave no room for a prompt in a window of {self.window}"
                )
            dropped.append(max(0, len(prompt.tokens) - room))
        # texts that begin together are padded to the longest prompt
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number].tokens) + dropped[number])
        of_handle = {}
        for number in order:
            prompt = prompts[number]
            handle = decoder.add(replace(prompt, tokens=list(prompt.tokens)[dropped[number] :]))
            of_handle[handle] = number
        made: list[list[int]] = [[] for _ in prompts]
        texts, reasons = [""] * len(prompts), dict[int, Reason]()
        while decoder.waiting or decoder.active:
            for event in decoder.step():
                number = of_handle[event.handle]
                texts[number] += event.text
                if event.token is not None:
                    made[number].append(event.token)
                if event.finished is not None:
                    reasons[number] = event.finished
                    on_done(len(reasons))
        return [Generated(made[n], texts[n], reasons[n], dropped[n]) for n in range(len(prompts))]
