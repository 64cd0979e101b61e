"""fp32 weights beside a model that computes in bf16."""

import torch

from longcat.config import load_config
from longcat.model import LongcatModel
from longcat.parallel.master_weights import MasterWeights


def make():
    model = LongcatModel(load_config("smoke", overrides=["model.mtp_num_layers=1"]).model)
    model.initialize(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return model, MasterWeights(model, torch.bfloat16), before


def test_weights_have_the_models_names_order_and_numbers():
    model, masters, before = make()
    state = masters.state_dict()
    assert list(state) == list(model.state_dict()) == list(before)
    assert all(torch.equal(state[name], before[name]) and state[name].dtype == torch.float32 for name in before)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if ".router." in name else torch.bfloat16)
        torch.testing.assert_close(parameter.float(), before[name], rtol=2**-8, atol=0)


def test_gradients_add_up_in_fp32():
    model, masters, _ = make()
    tokens = torch.randint(3, 512, (2, 17), generator=torch.Generator().manual_seed(0))
    single = []
    for row in tokens[:, None]:
        masters.zero_grad()
        model.sums(row[:, :-1], row[:, 1:]).language_model.backward()
        masters.collect_gradients()
        single.append({name: p.grad.clone() for name, p in masters.named_parameters() if p.grad is not None})
    masters.zero_grad()
    for row in tokens[:, None]:
        model.sums(row[:, :-1], row[:, 1:]).language_model.backward()
        masters.collect_gradients()
    for name, parameter in masters.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.dtype == torch.float32
            assert torch.equal(parameter.grad, single[0][name] + single[1][name]), name
    copies = [p for name, p in model.named_parameters() if ".router." not in name]
    assert all(copy.grad is None for copy in copies)


def test_the_model_computes_with_what_was_written_or_loaded():
    model, masters, before = make()
    with torch.no_grad():
        masters.get_parameter("model.embed_tokens.weight").fill_(1 + 2**-12)  # not a bf16 number
    masters.write_copies()
    assert torch.equal(model.model.embed_tokens.weight, torch.ones_like(model.model.embed_tokens.weight))
    assert masters.get_parameter("model.embed_tokens.weight")[0, 0] == 1 + 2**-12
    masters.load_state_dict(before)
    assert torch.equal(model.model.embed_tokens.weight, before["model.embed_tokens.weight"].bfloat16())


def test_buffers_and_routers_are_shared():
    model, masters, _ = make()
    router = model.blocks[0].mlp.router
    router.e_score_correction_bias.fill_(3.0)
    assert masters.state_dict()["model.layers.0.mlp.router.e_score_correction_bias"][0] == 3.0
    assert masters.get_parameter("model.layers.0.mlp.router.classifier.weight") is router.classifier.weight
