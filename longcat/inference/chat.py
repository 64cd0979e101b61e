"""Conversations as the text that a chat model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer

from longcat.errors import ConfigError
from longcat.inference.opening import OpenCheckpoint


def render(checkpoint: OpenCheckpoint, messages: Sequence[Mapping[str, str]], *, answer: bool = True) -> str:
    """Return the prompt that a checkpoint's chat template makes of messages.

    Args:
        checkpoint: with the template.
        messages: each with `role` and `content`.
        answer: let an answer begin after them; otherwise the last message goes on.

    Raises:
        ConfigError: there is no template, or it refuses the messages.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    if checkpoint.chat_template is None:
        raise ConfigError(
            f"{checkpoint.path} has no chat template: neither chat_template.jinja nor one in tokenizer_config.json"
        )
    config, tokenizer = checkpoint.model.config, checkpoint.tokenizer
    try:
        [text], _ = render_jinja_template(
            conversations=[[dict(message) for message in messages]],
            chat_template=checkpoint.chat_template,
            add_generation_prompt=answer,
            continue_final_message=not answer,
            bos_token=tokenizer.id_to_token(config.begin_of_text) or "",
            eos_token=tokenizer.id_to_token(config.end_of_text) or "",
        )
    except (TemplateError, ValueError, TypeError) as error:
        raise ConfigError(f"the chat template of {checkpoint.path} refuses the messages: {error}") from None
    return str(text)


def with_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that reads the special tokens which a chat template writes; in plain text they are spelled out."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = False
    return copy
