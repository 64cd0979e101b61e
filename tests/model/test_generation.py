"""Generation with a cache says what the whole forward pass says."""

import pytest
import torch

from longcat.config import load_config
from longcat.errors import ConfigError
from longcat.model import LongcatModel
from longcat.model.generation import continue_greedily

NGRAM = "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}"


@pytest.fixture(params=[[], [NGRAM], ["model.num_layers=2", "model.mla_scale_kv_lora=false"]])
def model(request):
    model = LongcatModel(load_config("smoke", overrides=["model.initializer_range=0.2", *request.param]).model)
    model.initialize(0)
    return model.eval()


@pytest.mark.parametrize("pieces", [[1] * 12, [5, 1, 6], [12]])
def test_cached_logits_equal_the_whole_pass(model, pieces):
    torch.manual_seed(0)
    tokens = torch.randint(0, 6, (3, 12))  # ends of documents among them
    cache = model.new_cache()
    with torch.inference_mode():
        whole = model(tokens)
        parts = torch.cat([model(part, cache=cache) for part in tokens.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)
    assert cache.length == 12


def test_greedy_text_equals_the_uncached_one(model):
    prompt = [5, 2, 9, 11]
    expected = list(prompt)
    with torch.inference_mode():
        for _ in range(20):
            expected.append(int(model(torch.tensor([expected]))[0, -1].argmax()))
    assert continue_greedily(model, prompt, 20) == expected[4:]


def test_too_long_is_refused(model):
    with pytest.raises(ConfigError, match="256 positions"):
        continue_greedily(model, [1] * 200, 57)
