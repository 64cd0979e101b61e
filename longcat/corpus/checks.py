"""The mistakes that preprocessing refuses before it starts."""

from __future__ import annotations

from longcat.config import PipelineConfig
from longcat.config.tokenizer_file import end_of_text
from longcat.corpus.decontamination import check_evaluation_files
from longcat.corpus.filters import Filter
from longcat.corpus.judge import quality_function
from longcat.corpus.language import check_languages
from longcat.corpus.sources import check_source
from longcat.errors import ConfigError


def check_corpus(config: PipelineConfig) -> None:
    """Refuse a corpus that preprocessing would refuse later, without reading its text or asking the network.

    Args:
        config: sections `corpus` and `model`.

    Raises:
        DataError: a file, folder, evaluation set or tokenizer is missing or unreadable.
        ConfigError: there is no such filter, function or language, or the tokenizer cannot be used, or ends documents
            with another token than the model.
    """
    corpus = config.corpus
    for source in corpus.sources:
        check_source(source)
    check_evaluation_files(corpus.decontaminate)
    Filter(corpus.filters)
    quality_function(corpus)
    check_languages(corpus.languages)
    if corpus.tokenizer is not None:
        _check_tokenizer(config)


def _check_tokenizer(config: PipelineConfig) -> None:
    from longcat.corpus.tokenizer import given_tokenizer

    corpus = config.corpus
    given_tokenizer(str(corpus.tokenizer), corpus)
    end = end_of_text(corpus)
    if end != config.model.eos_token_id:
        raise ConfigError(
            f"model.eos_token_id={config.model.eos_token_id}, but corpus.end_of_text={corpus.end_of_text!r} is token {end} of "
            f"corpus.tokenizer={corpus.tokenizer}; leave model.eos_token_id out (null) to take that of the tokenizer"
        )
