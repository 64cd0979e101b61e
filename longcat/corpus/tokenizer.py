"""Byte-level BPE, trained on the corpus: any text becomes tokens and comes back unchanged.

The first ids are those of the LongCat models: 1 begins, 2 ends a text. How text is cut before merges are learnt is not
published of them; it is done here as in GPT-4 and DeepSeek-V3: numbers in groups of at most three digits (or as many as
`corpus.digits_per_token` says), Chinese and kana in runs of their own, other letters with the character before them, white space by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from longcat.config import CorpusConfig
from longcat.config.tokenizer_file import TokenizerFile
from longcat.disk import replacing
from longcat.errors import ConfigError, DataError

SPECIAL_TOKENS = ("<longcat_unk>", "<longcat_s>", "</longcat_s>")
"""Special tokens of `train_tokenizer` in the order of their ids; the last is at `TRAINED_END_OF_TEXT`."""
_HAN = r"\p{Han}\p{Hiragana}\p{Katakana}"
_PROBE = "Every  Document, of 12345 numbers\n\n\tand  é É ﬁ 專門 한 😀 don't  end "
"""Text that does not survive a tokenizer which normalises, lower-cases or adds spaces."""


def _pieces(digits: int) -> Regex:
    return Regex(  # the most frequent first: the order changes nothing but the time
        rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}&&[^{_HAN}]]+|\p{{N}}{{1,{digits}}}|[{_HAN}]+"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, digits: int = 3) -> Tokenizer:
    """Learn merges from texts; the same texts in the same order give the same tokenizer.

    Args:
        texts: training text.
        vocabulary_size: tokens, with the special ones and the 256 bytes; there are fewer when the texts have no more
            pairs to merge.
        digits: most digits in a token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_pieces(digits), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _text_only(tokenizer)


def open_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`; every token has the id that the file gives it.

    Raises:
        DataError: it is missing, not a tokenizer, or has ids that cannot be kept.
    """
    file = TokenizerFile.read(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
        if _renumbered(tokenizer, file):
            # the library numbers added tokens on from the count of the model's; those that the model knows keep their id
            content = {
                **file.content,
                "model": {**file.content["model"], "vocab": file.added_tokens | file.model_tokens},
            }
            tokenizer = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # tokenizers raises bare Exception
        raise DataError(f"cannot read tokenizer {path}: {error}") from None
    if renumbered := _renumbered(tokenizer, file):
        token, index = renumbered
        raise DataError(
            f"cannot use tokenizer {path}: {token!r} has id {file.added_tokens[token]}, and {index} when it is read"
        )
    return _text_only(tokenizer)


def _renumbered(tokenizer: Tokenizer, file: TokenizerFile) -> tuple[str, int | None] | None:
    """Find an added token that has another id than its file says."""
    ids = ((token, tokenizer.token_to_id(token)) for token in file.added_tokens)
    return next(((token, index) for token, index in ids if index != file.added_tokens[token]), None)


def _text_only(tokenizer: Tokenizer) -> Tokenizer:
    # A document that spells out "</longcat_s>" must not end there; tokenizer.json has no place for this switch.
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()  # of no concern to a corpus, whoever saved the tokenizer with it
    tokenizer.no_padding()
    return tokenizer


def same_tokens(one: Path, other: Path) -> bool:
    """Return whether two files are of the same tokenizer, however they are written.

    Raises:
        DataError: one cannot be read.
    """
    return one.samefile(other) or open_tokenizer(one).to_str() == open_tokenizer(other).to_str()


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Return the largest id + 1: the rows that an embedding needs, however many tokens there are."""
    return max(tokenizer.get_vocab().values()) + 1


def provide_tokenizer(path: Path, corpus: CorpusConfig, sample: Iterable[str]) -> Tokenizer:
    """Open the tokenizer at `path`; if there is none yet, write the configured one there, or one trained on the sample.

    Raises:
        DataError: `corpus.tokenizer` cannot be read.
        ConfigError: `corpus.tokenizer` cannot be used, see `given_tokenizer`.
    """
    if not path.exists():
        if corpus.tokenizer is None:
            tokenizer = train_tokenizer(sample, corpus.vocabulary_size, corpus.digits_per_token)
        else:
            tokenizer = given_tokenizer(corpus.tokenizer, corpus)
        with replacing(path) as stream:
            stream.write(tokenizer.to_str(pretty=True).encode())
    return open_tokenizer(path)


def given_tokenizer(path: str, corpus: CorpusConfig) -> Tokenizer:
    """Open a tokenizer of the user's own, if it can be used.

    Raises:
        DataError: it cannot be read.
        ConfigError: it has too large ids, works on other units than bytes, changes text, or has no `corpus.end_of_text`.
    """
    file = Path(path).expanduser()
    tokenizer = open_tokenizer(file)
    if any(tokenizer.token_to_id(letter) is None for letter in pre_tokenizers.ByteLevel.alphabet()):
        raise ConfigError(f"corpus.tokenizer={path} does not work on bytes; only byte-level tokenizers lose nothing")
    size = vocabulary_size(tokenizer)
    if size > corpus.vocabulary_size:
        raise ConfigError(
            f"corpus.tokenizer={path} has ids up to {size - 1}; corpus.vocabulary_size={corpus.vocabulary_size} has to be "
            f"at least {size}"
        )
    TokenizerFile.read(file).end_of_text(corpus.end_of_text)
    added = tokenizer.get_added_tokens_decoder()
    special = [index for index, token in added.items() if token.special]
    for text in (_PROBE, "".join(f"a  {token.content}  " for token in added.values())):
        [tokens] = encode(tokenizer, [text])
        decoded = decode(tokenizer, tokens)
        if decoded != text:
            raise ConfigError(f"corpus.tokenizer={path} changes text: {text!r} comes back as {decoded!r}")
        if spelt := sorted({*tokens.tolist()} & {*special}):
            name = added[spelt[0]].content
            raise ConfigError(f"corpus.tokenizer={path} takes {name!r} in a document for its special token")
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str], end: int | None = None) -> list[np.ndarray]:
    """Encode texts as token ids, uint32, each followed by the token `end` if one is given.

    Whatever the tokenizer's post-processor would add is left out: a document gets one end, and no other special token.
    """
    tail = [] if end is None else [end]
    return [
        np.array(item.ids + tail, np.uint32) for item in tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ]


def decode(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """Decode token ids to the text they stand for; the inverse of `encode`."""
    return str(tokenizer.decode([int(token) for token in tokens], skip_special_tokens=False))


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """Count the UTF-8 bytes that each token stands for, int32 `[vocabulary]`; 0 for special tokens and ids without one."""
    added = tokenizer.get_added_tokens_decoder()
    vocabulary = tokenizer.get_vocab()
    lengths = np.zeros(vocabulary_size(tokenizer), np.int32)
    for token, index in vocabulary.items():
        if index in added:  # text as it is
            lengths[index] = 0 if added[index].special else len(token.encode())
        else:
            lengths[index] = len(token)  # one letter of the byte alphabet each
    return lengths


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep `tokenizers` from starting threads of its own, where the caller works in parallel already."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
