"""A checkpoint as a model of lm-evaluation-harness: its requests, answered by the batched runner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from longcat.errors import ConfigError, DataError
from longcat.evaluation.generation import seed_of, settle_generation
from longcat.inference.chat import render, with_special_tokens
from longcat.inference.requests import Continuation, Prompt
from longcat.inference.runner import Runner

Item = tuple[str, int]
"""Name of a task and number of a document in it."""


class Adapter(TemplateLM):
    """The model that lm-evaluation-harness asks.

    Text becomes tokens as in the harness' `hf` model of the exported checkpoint, with one difference: a text without
    context begins after the token that ends a text, as in training; `hf` takes the token that begins one, if there is one.
    """

    def __init__(self, runner: Runner, seed: int, on_done: Callable[[int, int], None], *, chat: bool = False) -> None:
        """Make a model.

        Args:
            runner: the checkpoint.
            seed: of texts that are sampled.
            on_done: hears how many requests of how many are answered.
            chat: prompts are conversations, whose special tokens are read as such.
        """
        super().__init__()
        self._runner, self._seed, self._on_done = runner, seed, on_done
        checkpoint = runner.checkpoint
        self._tokenizer = with_special_tokens(checkpoint.tokenizer) if chat else checkpoint.tokenizer
        self.dropped: Counter[Item] = Counter()
        """Most tokens that were cut off the beginning of a request, by document."""

    @property
    def eot_token_id(self) -> int:
        """Return the token that ends a text."""
        return self._runner.checkpoint.end_of_text

    @property
    def max_length(self) -> int:
        """Return the most tokens of a text that the model reads."""
        return self._runner.window

    @property
    def tokenizer_name(self) -> str:
        """Return what stands for the tokenizer in names of caches, of which none is used."""
        return "longcat"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the tokens of a text; nothing is added to them."""
        ids: list[int] = self._tokenizer.encode(string, add_special_tokens=False).ids
        return ids

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the chat template."""
        return self._runner.checkpoint.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the prompt that messages make."""
        return render(self._runner.checkpoint, chat_history, answer=add_generation_prompt)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-likelihood of continuations in nats, and whether each would be chosen greedily.

        Raises:
            ConfigError: a continuation is longer than the model reads.
            DataError: a continuation has no tokens.
        """
        pairs = []
        for request in requests:
            context, continuation = request.args
            if context:
                before, after = self._encode_pair(context, continuation)
            else:
                before, after = [self.eot_token_id], self.tok_encode(continuation)
            if not after:
                raise DataError(f"{_place(request)}: the continuation {continuation!r} adds no token to its context")
            pairs.append((before, after))
        return self._loglikelihood_tokens(
            [(request, *pair) for request, pair in zip(requests, pairs, strict=True)], disable_tqdm=disable_tqdm
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        for request, _context, tokens in requests:
            if len(tokens) > self.max_length:
                raise ConfigError(
                    f"{_place(request)}: a continuation has {len(tokens)} tokens, the model reads {self.max_length}"
                )
        asked = [Continuation(context, tokens) for _, context, tokens in requests]
        found = self._runner.likelihoods(asked, lambda done: self._on_done(done, len(asked)))
        self._note((request, one.dropped) for (request, *_), one in zip(requests, found, strict=True))
        return [(one.nats, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts in nats; a long one goes through the model in windows, each token once."""
        windows: list[tuple[Any, list[int], list[int]]] = []
        counts = []
        for request in requests:
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.eot_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            made = [(request, *make_disjoint_window(window)) for window in rolling]
            windows += made
            counts.append(len(made))
        values = iter(self._loglikelihood_tokens(windows))
        return [sum(next(values)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the texts that prompts are continued with.

        Raises:
            ConfigError: a generation argument makes no sense, or leaves no room for a prompt.
        """
        end = self._tokenizer.id_to_token(self.eot_token_id) or ""
        repeats: Counter[tuple[str, int, int]] = Counter()
        prompts = []
        for request in requests:
            text, options = request.args
            task, document = _item(request)
            repeat = repeats[task, document, request.idx]
            repeats[task, document, request.idx] += 1
            seed = seed_of(self._seed, task, document, repeat)
            sampling, stops = settle_generation(options, end, self.max_length, seed)
            prompts.append(Prompt(self.tok_encode(text), sampling, stops))
        made = self._runner.generate(prompts, lambda done: self._on_done(done, len(prompts)))
        self._note((request, one.dropped) for request, one in zip(requests, made, strict=True))
        return [one.text for one in made]

    def _note(self, dropped: Iterable[tuple[Any, int]]) -> None:
        for request, count in dropped:
            if count:
                self.dropped[_item(request)] = max(count, self.dropped[_item(request)])


def _item(request: Any) -> Item:
    return str(request.task_name), int(request.doc_id)


def _place(request: Any) -> str:
    return f"task {request.task_name}, document {request.doc_id}"
