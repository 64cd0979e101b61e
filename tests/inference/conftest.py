import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from longcat.config import load_config
from longcat.inference.layout import lay_for_few_rows
from longcat.inference.opening import OpenCheckpoint
from longcat.model import LongcatModel


@pytest.fixture(scope="session")
def byte_tokenizer():
    """A token for each byte, so that characters of several bytes have several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {letter: i + 3 for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture(scope="session", params=["tiny", "tiny-2.0"])
def opened(request, byte_tokenizer, tmp_path_factory):
    """A model with the shapes of a preset and random weights large enough that its texts differ."""
    overrides = [
        "corpus.vocabulary_size=259",
        "model.vocab_size=259",
        "model.initializer_range=0.2",
        "model.eos_token_id=2",
    ]
    if request.param == "tiny-2.0":
        overrides.append("model.sparse_attention.index_topk=56")
    model = LongcatModel(load_config(request.param, overrides=overrides).model)
    model.initialize(0)
    lay_for_few_rows(model)
    return OpenCheckpoint(tmp_path_factory.mktemp("none"), model.eval(), byte_tokenizer, 2, None, "fp32")
