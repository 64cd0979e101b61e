"""Operators of mixtures of experts against plain loops, values and gradients."""

import pytest
import torch

from tests.emulator.same import DEVICE, assert_same, run

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("npu", "seed")]


def test_tokens_of_experts_are_as_many_as_there_are_experts():
    sorted_experts = torch.tensor([0, 1, 1, 2, 5], dtype=torch.int32)
    assert run("npu_moe_compute_expert_tokens", sorted_experts, 2).tolist() == [1, 3]
    assert run("npu_moe_compute_expert_tokens", sorted_experts, 4).tolist() == [1, 3, 4, 4]
    with pytest.raises(RuntimeError, match="must be int32"):
        run("npu_moe_compute_expert_tokens", sorted_experts.long(), 2)


@pytest.mark.parametrize("shape", [(6, 8), (2, 3, 8)])
@pytest.mark.parametrize("renorm", [0, 1])
def test_gating_by_softmax(shape, renorm):
    x = torch.randn(shape)
    finished = torch.zeros(shape[:-1], dtype=torch.bool)
    finished[1] = True
    scores, experts, whole = run(
        "npu_moe_gating_top_k_softmax_v2", x, k=3, finished=finished, renorm=renorm, output_softmax=True
    )
    best = x.topk(3)
    plain = best.values.softmax(-1) if renorm else x.softmax(-1).gather(-1, best.indices)
    torch.testing.assert_close(scores, plain)
    assert torch.equal(experts.long(), torch.where(finished[..., None], 8, best.indices))
    assert whole.numel() == 0 if renorm else torch.allclose(whole, x.softmax(-1))
    if not renorm:
        again = run("npu_moe_gating_top_k_softmax", x, finished, 3)
        assert torch.equal(again[1], experts)
        assert again[2].reshape(-1, 3).tolist()[1] == [1, 7, 13]


@pytest.mark.parametrize(
    ("options", "match"),
    [({"k": 9}, "k is within"), ({"k": 2, "finished": torch.ones(3, dtype=torch.bool)}, "finished is bool")],
)
def test_gating_refuses(options, match):
    with pytest.raises(RuntimeError, match=match):
        run("npu_moe_gating_top_k_softmax_v2", torch.randn(6, 8), **options)


def test_experts_by_the_name_of_the_token():
    table = torch.tensor([[0, 3], [2, 1]])
    scores, experts, _ = run(
        "npu_moe_gating_top_k", x := torch.randn(3, 4), 2, input_ids=torch.tensor([1, 0, 1]), tid2eid=table
    )
    assert experts.tolist() == [[2, 1], [0, 3], [2, 1]]
    torch.testing.assert_close(scores, x.softmax(-1).gather(-1, experts.long()))


@pytest.mark.parametrize("first_last", [None, (1, 4), (2, 6)])
@pytest.mark.parametrize("row_idx_type", [0, 1])
@pytest.mark.parametrize("active_num", [-1, 5])
def test_routing_without_dropping(first_last, row_idx_type, active_num):
    x, experts = torch.randn(6, 4), torch.randint(0, 6, (6, 2), dtype=torch.int32)
    first, last = first_last or (0, 6)
    chosen = [(e, i) for i, e in enumerate(experts.flatten().tolist()) if first <= e < last]
    order = [i for _, i in sorted(chosen)]
    options = {"active_expert_range": list(first_last or ()), "row_idx_type": row_idx_type, "active_num": active_num}
    for kind in (0, 1, 2):
        rows, places, tokens, _ = run(
            "npu_moe_init_routing_v2", x, experts, expert_num=6, expert_tokens_num_flag=True,
            expert_tokens_num_type=kind, **options,
        )  # fmt: skip
        kept = order if active_num < 0 else order[:active_num]
        assert torch.equal(rows[: len(kept)], x[[i // 2 for i in kept]])
        assert not rows[len(kept) :].any()
        if row_idx_type == 1:
            assert places[: len(order)].tolist() == order
        else:
            assert places.tolist() == [order.index(i) if i in order else -1 for i in range(12)]
        counts = [sum(e == j for e, _ in chosen) for j in range(first, last)]
        pairs = [[j, n] for j, n in zip(range(first, last), counts, strict=True) if n]
        totals = torch.tensor(counts).cumsum(0).tolist()
        assert tokens.tolist() == [totals, counts, pairs + [[0, 0]] * (6 - len(pairs))][kind]


def test_routing_with_a_capacity():
    x, experts = torch.randn(6, 4), torch.tensor([[0, 1]] * 5 + [[1, 3]], dtype=torch.int32)
    rows, places, _, scales = run(
        "npu_moe_init_routing_v2", x, experts, expert_num=4, expert_capacity=3, drop_pad_mode=1, scale=torch.arange(6.0)
    )
    assert torch.equal(rows, torch.stack([x[:3], x[:3], torch.zeros(3, 4), torch.stack([x[5], x[5] * 0, x[5] * 0])]))
    assert places.reshape(6, 2).tolist() == [[0, 3], [1, 4], [2, 5], [-1, -1], [-1, -1], [-1, 9]]
    assert scales.tolist() == [0, 1, 2, 0, 1, 2, 0, 0, 0, 5, 0, 0]


def test_routing_and_finalising_are_inverse():
    x, experts = torch.randn(6, 4), torch.randint(0, 6, (6, 2), dtype=torch.int32)
    row_idx = torch.arange(12, dtype=torch.int32).reshape(2, 6).T.contiguous()
    rows, places, ordered = run("npu_moe_init_routing", x, row_idx, experts, 6)
    assert torch.equal(ordered, experts.flatten().sort().values)
    scales, bias, skip = torch.rand(6, 2), torch.randn(6, 4), torch.randn(6, 4)
    total = run("npu_moe_finalize_routing", rows * 2, skip, None, bias, scales, places, experts)
    plain = skip + (scales[..., None] * (2 * x[:, None] + bias[experts.long()])).sum(1)
    torch.testing.assert_close(total, plain)
    by_row = places.reshape(2, 6).T.flatten()
    assert torch.allclose(
        run("npu_moe_finalize_routing", rows * 2, skip, None, bias, scales, by_row, experts, 2), plain, atol=1e-6
    )
    with pytest.raises(RuntimeError, match="skip2 needs skip1"):
        run("npu_moe_finalize_routing", rows, None, skip, None, scales, places, experts)


def test_rows_of_ranks_become_rows_of_experts():
    tokens, counts = torch.randn(6, 4).half(), torch.tensor([[1, 2], [2, 1]])
    rows, _, places, totals = run("npu_moe_re_routing", tokens, counts)
    assert places.tolist() == [0, 3, 4, 1, 2, 5]
    assert torch.equal(rows, tokens[places.long()])
    assert totals.tolist() == [3, 3]


@pytest.mark.parametrize("mode", [0, 1])
def test_copies_of_experts(mode):
    experts, table = (
        torch.tensor([[0, 1], [1, 0]], dtype=torch.int32),
        torch.tensor([[2, 5, 6], [1, 7, 0]], dtype=torch.int32),
    )
    options = {"local_rank_id": 3, "world_size": 4} if mode == 0 else {}
    options |= {"expert_scales": torch.tensor([[0.8, 0.2], [0.5, 0.5]]), "pruning_threshold": torch.tensor([0.1, 0.3])}
    chosen, mask = run("npu_moe_update_expert", experts, table, balance_mode=mode, **options)
    assert chosen.tolist() == [[6, 7], [7, 6]] if mode == 0 else [[5, 7], [7, 6]]
    assert mask.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_permutation_by_a_map(drop, weighted):
    tokens, experts, k = 5, 4, 2
    routing = torch.zeros(tokens, experts, dtype=torch.bool).scatter_(
        1, torch.rand(tokens, experts).topk(k).indices, True
    )
    x, probs = torch.randn(tokens, 6), torch.rand(tokens, experts)
    number = 8 if drop else tokens * k
    if drop:  # of each expert its first two tokens, or others to fill up
        chosen = [(t, e) for e in range(experts) for t in sorted(range(tokens), key=lambda t: not routing[t, e])[:2]]
    else:
        chosen = [(t, e) for e in range(experts) for t in range(tokens) if routing[t, e]]

    def ours(x, p):
        import torch_npu

        there = routing.to(DEVICE)
        options = {"num_out_tokens": number, "drop_and_pad": drop}
        rows, taken, places = torch_npu.npu_moe_token_permute_with_routing_map(x, there, probs=p, **options)
        options = {"probs": p, "routing_map": there} if weighted else {}
        rows = rows * taken[:, None]
        return torch_npu.npu_moe_token_unpermute_with_routing_map(
            rows, places, [tokens, 6], drop_and_pad=drop, **options
        )

    def plain(x, p):
        total = [x[0] * 0] * tokens
        for t, e in chosen:
            total[t] = total[t] + x[t] * p[t, e] ** (2 if weighted else 1)
        return torch.stack(total)

    assert_same(ours, plain, x, probs)


def test_a_map_with_another_number_of_experts_is_refused():
    routing = torch.tensor([[True, False], [True, True]])
    with pytest.raises(RuntimeError, match="each row of routing_map has"):
        run("npu_moe_token_permute_with_routing_map", torch.randn(2, 4), routing, num_out_tokens=4)


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_of_tokens_that_have_fewer_experts_than_others(weighted):
    places = torch.tensor([0, 3, -1, 1, 4, -1], dtype=torch.int32)
    routing = torch.tensor([[True, True], [True, False], [False, True]])
    of_token = [[(0, 0), (3, 1)], [(1, 0)], [(4, 1)]]  # rows and their experts

    def ours(rows, probs):
        import torch_npu

        options = {"probs": probs, "routing_map": routing.to(DEVICE)} if weighted else {}
        back = torch_npu.npu_moe_token_unpermute_with_routing_map(rows, places.to(DEVICE), [3, 4], **options)
        return back + 0 * probs.sum()

    def plain(rows, probs):
        sums = [
            sum(rows[row] * (probs[token, expert] if weighted else 1) for row, expert in pairs)
            for token, pairs in enumerate(of_token)
        ]
        return torch.stack(sums) + 0 * probs.sum()

    assert_same(ours, plain, torch.randn(6, 4), torch.rand(3, 2))


@pytest.mark.parametrize(
    ("number", "dtype", "reason"),
    [
        (5, torch.float32, "as many numbers for each of 3 tokens, found 5"),
        (6, torch.half, "probs have the type of tokens"),
    ],
)
def test_rows_and_weights_that_do_not_belong_together_are_refused(number, dtype, reason):
    places, routing = torch.arange(number, dtype=torch.int32), torch.ones(3, 2, dtype=torch.bool)
    with pytest.raises(RuntimeError, match=reason):
        run(
            "npu_moe_token_unpermute_with_routing_map", torch.randn(6, 4), places, [3, 4],
            probs=torch.rand(3, 2, dtype=dtype), routing_map=routing,
        )  # fmt: skip
