"""A tiny Llama with seeded weights, a tokenizer of words and rows of text, for the programs beside this file."""

import random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [
    "the", "courier", "brings", "a", "warm", "meal", "to", "door", "and", "merchant", "sees", "when", "it", "will", "be",
    "there", "<pad>", "<eos>",
]  # fmt: skip


def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=WORDS.index("<pad>"),
        eos_token_id=WORDS.index("<eos>"), bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def tokenizer():
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="the"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def lines(count):
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS[:-2], k=16)) for _ in range(count)]


def rows(count):
    encode = tokenizer()
    return [{"input_ids": ids, "labels": ids} for ids in (encode(line)["input_ids"] for line in lines(count))]
