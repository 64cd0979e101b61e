"""Run by torchrun: every function `check_...` on each rank; rank 0 writes what came of them.

torchrun --nproc-per-node N ranks.py FOLDER CHECK ...
"""

import json
import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
DEVICE = torch.device("npu", RANK)
FOLDER = Path(sys.argv[1])


def full(value, *shape, dtype=torch.float32):
    return torch.full(shape, value, device=DEVICE, dtype=dtype)


def check_all_reduce():
    expected = RANKS * (RANKS + 1) // 2
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8):
        x = full(RANK + 1, 5, dtype=dtype)
        dist.all_reduce(x)
        assert x.tolist() == [expected] * 5, dtype
    x = full(RANK + 1, 100_000)  # more than one block
    dist.all_reduce(x, dist.ReduceOp.MAX)
    assert x.min().item() == RANKS
    x = full(RANK + 1, 3, dtype=torch.bfloat16)
    dist.all_reduce(x, dist.ReduceOp.AVG)
    assert x.tolist() == [expected / RANKS] * 3
    for dtype in (torch.int32, torch.uint8):
        x = full(2 * RANK + 2, 3, dtype=dtype)
        dist.all_reduce(x, dist.ReduceOp.AVG)
        assert x.tolist() == [2 * expected // RANKS] * 3, dtype
    x = full(RANK == 0, 3, dtype=torch.bool)
    dist.all_reduce(x, dist.ReduceOp.MAX)
    assert x.tolist() == [True] * 3
    x = full(float("nan") if RANK == 0 else 1.0, 3)
    dist.all_reduce(x, dist.ReduceOp.MAX)
    assert x.isnan().all()


def check_a_sum_is_the_same_on_all_ranks_to_the_bit():
    torch.manual_seed(RANK)
    x = torch.randn(1000).to(DEVICE)
    dist.all_reduce(x)
    parts = [torch.empty_like(x) for _ in range(RANKS)]
    dist.all_gather(parts, x)
    assert all(torch.equal(part, x) for part in parts)


def check_gather_and_scatter():
    gathered = torch.empty(3 * RANKS, device=DEVICE)
    dist.all_gather_into_tensor(gathered, full(RANK, 3))
    assert gathered.view(RANKS, 3)[:, 0].tolist() == list(range(RANKS))
    share = torch.empty(3, device=DEVICE)
    dist.reduce_scatter_tensor(share, torch.arange(3.0 * RANKS, device=DEVICE))
    assert share.tolist() == [RANKS * (3 * RANK + i) for i in range(3)]
    part = torch.empty(2, device=DEVICE)
    dist.scatter(part, [full(i, 2) for i in range(RANKS)] if RANK == 0 else None, src=0)
    assert part.tolist() == [RANK, RANK]
    x = full(RANK, 2, dtype=torch.bool if RANKS == 2 else torch.int64)
    dist.broadcast(x, src=1)
    assert x.tolist() == [1, 1]
    total = full(1, 2)
    dist.reduce(total, dst=0)
    assert RANK != 0 or total.tolist() == [RANKS, RANKS]


def check_gather_of_every_type():
    """Sizes that do not fill 32 bytes are padded by torch_npu itself, past the dispatcher."""
    types = (
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.uint8,
        torch.int16,
        torch.int64,
        torch.float16,
        torch.bfloat16,
    )
    for dtype in (*types, torch.bool):
        x = torch.tensor([1, 0, RANK], device=DEVICE, dtype=torch.int32).to(dtype)
        parts = [torch.zeros_like(x) for _ in range(RANKS)]
        dist.all_gather(parts, x)
        assert [part.cpu().tolist() for part in parts] == [[1, 0, rank] for rank in range(RANKS)], dtype


def check_objects():
    found = [None] * RANKS
    dist.all_gather_object(found, {"rank": RANK, "text": "x" * (RANK * 1000)})
    assert [item["rank"] for item in found] == list(range(RANKS))
    sent = [{"from": 0}] if RANK == 0 else [None]
    dist.broadcast_object_list(sent, src=0)
    assert sent == [{"from": 0}]


def check_all_to_all_with_uneven_splits_and_gradients():
    send = [(RANK + peer) % 3 for peer in range(RANKS)]  # some are empty
    x = torch.full((sum(send), 4), float(RANK), device=DEVICE, requires_grad=True)
    y = functional.all_to_all_single_autograd(x, send, send, dist.group.WORLD)
    assert y[:, 0].tolist() == [peer for peer, rows in enumerate(send) for _ in range(rows)]
    (y * (RANK + 1)).sum().backward()
    assert x.grad[:, 0].tolist() == [peer + 1 for peer, rows in enumerate(send) for _ in range(rows)]


def check_messages():
    right, left = (RANK + 1) % RANKS, (RANK - 1) % RANKS
    received = torch.empty(4, device=DEVICE)
    work = dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, full(RANK, 4), right), dist.P2POp(dist.irecv, received, left)]
    )
    for item in work:
        item.wait()
    assert received.tolist() == [left] * 4
    for size in (1, 70_000, 3):  # in order, each of its own size
        if RANK == 0:
            dist.send(full(size, size), 1)
        elif RANK == 1:
            x = torch.empty(size, device=DEVICE)
            dist.recv(x, 0)
            assert x.unique().tolist() == [size]


def check_receives_posted_before_what_is_sent():
    right, left = (RANK + 1) % RANKS, (RANK - 1) % RANKS
    received = [torch.zeros(4, device=DEVICE) for _ in range(3)]
    receives = [dist.irecv(x, left) for x in received]
    assert torch.ones(2, device=DEVICE).sum().item() == 2  # the host does not wait for them
    sends = [dist.isend(full(10 * RANK + i, 4), right) for i in range(3)]
    for work in [*reversed(receives), *sends]:
        work.wait()
    assert [x.tolist() for x in received] == [[10 * left + i] * 4 for i in range(3)]


def check_coalesced():
    gathered, share, total = torch.empty(2 * RANKS, device=DEVICE), torch.empty(1, device=DEVICE), full(RANK, 3)
    with dist._coalescing_manager(device=DEVICE, async_ops=True) as work:
        dist.all_gather_into_tensor(gathered, full(RANK, 2))
    work.wait()
    with dist._coalescing_manager(device=DEVICE):
        dist.reduce_scatter_tensor(share, torch.arange(float(RANKS), device=DEVICE))
    with dist._coalescing_manager(device=DEVICE):
        dist.all_reduce(total)
        dist.all_reduce(share)
    assert gathered[::2].tolist() == list(range(RANKS))
    assert share.item() == RANKS * sum(range(RANKS))
    assert total.tolist() == [sum(range(RANKS))] * 3


def check_graphs():
    x, received = full(1, 4), torch.zeros(4, device=DEVICE)
    gathered, parts = torch.empty(4 * RANKS, device=DEVICE), torch.empty(RANKS, device=DEVICE)
    right, left = (RANK + 1) % RANKS, (RANK - 1) % RANKS
    dist.all_reduce(torch.zeros(1, device=DEVICE))  # connects
    dist.batch_isend_irecv([dist.P2POp(dist.isend, x, right), dist.P2POp(dist.irecv, received, left)])[-1].wait()
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        y = x * (RANK + 1)
        dist.all_reduce(y)
        dist.all_gather_into_tensor(gathered, y * (RANK + 1))
        dist.all_to_all_single(parts, y[:RANKS] + RANK, [1] * RANKS, [1] * RANKS)
        messages = [dist.P2POp(dist.isend, x + RANK, right), dist.P2POp(dist.irecv, received, left)]
        for work in dist.batch_isend_irecv(messages):
            work.wait()
        z = y + 1
    for value in (1, 2):
        x.fill_(value)
        graph.replay()
        total = value * RANKS * (RANKS + 1) // 2
        assert z.tolist() == [total + 1] * 4
        assert gathered[::4].tolist() == [total * (rank + 1) for rank in range(RANKS)]
        assert parts.tolist() == [total + rank for rank in range(RANKS)]
        assert received.tolist() == [value + left] * 4


def check_formats():
    import torch_npu

    torch.npu.config.allow_internal_format = True
    x = torch_npu.npu_format_cast(full(RANK + 1, 20, 30, dtype=torch.float16), 29)
    dist.all_reduce(x)
    assert x.unique().tolist() == [RANKS * (RANKS + 1) // 2]
    dist.broadcast(x, src=0)
    parts = [torch.empty(20, 30, device=DEVICE, dtype=torch.float16) for _ in range(RANKS)]
    dist.all_gather(parts, torch_npu.npu_format_cast(full(RANK, 20, 30, dtype=torch.float16), 29))
    assert [part.unique().tolist() for part in parts] == [[rank] for rank in range(RANKS)]
    torch.npu.config.allow_internal_format = False


def check_synchronized_batch_norm():
    x = torch.linspace(-1, 2, 12 * RANKS).reshape(2 * RANKS, 3, 2) ** 2
    single = nn.BatchNorm1d(3)
    mine = nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(3)).to(DEVICE)
    whole, part = x.clone().requires_grad_(), x[2 * RANK : 2 * RANK + 2].to(DEVICE).requires_grad_()
    expected, found = single(whole), mine(part)
    expected.sin().sum().backward()
    found.sin().sum().backward()
    rows = slice(2 * RANK, 2 * RANK + 2)
    assert torch.allclose(found.cpu(), expected[rows], atol=1e-5)
    assert torch.allclose(part.grad.cpu(), whole.grad[rows], atol=1e-4)
    assert torch.allclose(mine.running_var.cpu(), single.running_var, atol=1e-5)
    dist.all_reduce(mine.weight.grad)
    assert torch.allclose(mine.weight.grad.cpu(), single.weight.grad, atol=1e-4)


def check_groups():
    pairs = [dist.new_group([first, first + 1]) for first in range(0, RANKS, 2)]
    x = full(RANK, 1)
    dist.all_reduce(x, group=pairs[RANK // 2])
    assert x.item() == 4 * (RANK // 2) + 1
    alone = [dist.new_group([rank]) for rank in range(RANKS)]
    dist.all_reduce(x, group=alone[RANK])
    assert x.item() == 4 * (RANK // 2) + 1
    dist.barrier()


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))


def train(network, x, steps=3):
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for _ in range(steps):
        (network(x) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return network


def batch():
    return torch.linspace(-1, 1, 16 * 2 * RANKS).reshape(2 * RANKS, 16)


def assert_trained_as_one_process(network, whole=lambda parameter: parameter):
    train(network, batch()[2 * RANK : 2 * RANK + 2].to(DEVICE))
    for expected, found in zip(train(model(), batch()).parameters(), network.parameters(), strict=True):
        assert torch.allclose(whole(found).detach().cpu(), expected, atol=1e-6)


def sharded(network, mesh, **options):
    for layer in (network[0], network[2]):
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(network, mesh=mesh, **options)


def check_ddp():
    assert_trained_as_one_process(nn.parallel.DistributedDataParallel(model().to(DEVICE), device_ids=[RANK]))


def check_fsdp():
    mesh = init_device_mesh("npu", (RANKS,))
    assert_trained_as_one_process(sharded(model().to(DEVICE), mesh), lambda parameter: parameter.full_tensor())


def check_fsdp_in_bf16_with_clipping():
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    network = sharded(model().to(DEVICE), init_device_mesh("npu", (RANKS,)), mp_policy=policy)
    network(batch().to(DEVICE)).float().square().sum().backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0).full_tensor()
    single = model()
    single(batch()).square().sum().backward()
    expected = nn.utils.clip_grad_norm_(single.parameters(), 1.0)
    assert torch.allclose(norm.cpu(), expected, rtol=0.02)


def check_hsdp():
    mesh = init_device_mesh("npu", (2, RANKS // 2), mesh_dim_names=("replicate", "shard"))
    assert_trained_as_one_process(sharded(model().to(DEVICE), mesh), lambda parameter: parameter.full_tensor())


def check_tensor_parallel():
    mesh = init_device_mesh("npu", (RANKS,))
    network = parallelize_module(model().to(DEVICE), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    found, single = network(batch().to(DEVICE)), model()
    expected = single(batch())
    assert torch.allclose(found.cpu(), expected, atol=1e-6)
    found.sum().backward()
    expected.sum().backward()
    assert torch.allclose(network[0].weight.grad.full_tensor().cpu(), single[0].weight.grad, atol=1e-5)


def check_attention_of_distributed_tensors():
    torch.manual_seed(0)
    mesh = init_device_mesh("npu", (RANKS,))
    inputs = [torch.randn(2, heads, 6, 8, device=DEVICE) for heads in (4, 2, 2)]
    mask = torch.rand(2, 1, 6, 6, device=DEVICE) > 0.3
    mask[..., 0] = True

    def attend(tensors, **options):
        return nn.functional.scaled_dot_product_attention(*tensors, enable_gqa=True, **options)

    for options in ({"is_causal": True}, {"attn_mask": mask}, {}):
        plain = [t.clone().requires_grad_() for t in inputs]
        expected = attend(plain, **options)
        expected.sin().sum().backward()
        for placement in (Shard(0), Shard(1), Shard(2), Replicate()):
            leaves = [distribute_tensor(t, mesh, [placement]).requires_grad_() for t in inputs]
            found = attend(leaves, **options)
            found.sin().sum().backward()
            torch.testing.assert_close(found.full_tensor(), expected)
            for leaf, reference in zip(leaves, plain, strict=True):
                torch.testing.assert_close(leaf.grad.full_tensor(), reference.grad)


def check_pipeline():
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8) for _ in range(RANKS)]
    x, target = torch.randn(8, 8), torch.zeros(8, 8)
    stage = PipelineStage(layers[RANK].to(DEVICE), RANK, RANKS, DEVICE)
    schedule = Schedule1F1B(stage, n_microbatches=4, loss_fn=nn.functional.mse_loss)
    arguments = (x.to(DEVICE),) if RANK == 0 else ()
    schedule.step(*arguments, **({"target": target.to(DEVICE)} if RANK == RANKS - 1 else {}))
    torch.manual_seed(0)
    single = nn.Sequential(*(nn.Linear(8, 8) for _ in range(RANKS)))
    nn.functional.mse_loss(single(x), target).backward()
    assert torch.allclose(layers[RANK].weight.grad.cpu(), single[RANK].weight.grad, atol=1e-6)


def check_checkpoints():
    mesh = init_device_mesh("npu", (RANKS,))
    network = train(sharded(model().to(DEVICE), mesh), batch().to(DEVICE))
    state = get_model_state_dict(network)
    expected = {name: value.full_tensor().cpu() for name, value in state.items()}
    dcp.save(state, checkpoint_id=FOLDER / "saved")
    dcp.async_save(state, checkpoint_id=FOLDER / "later", process_group=dist.new_group(backend="gloo")).result()
    for name in ("saved", "later"):
        for value in state.values():
            value.zero_()
        dcp.load(state, checkpoint_id=FOLDER / name)
        assert all(torch.equal(value.full_tensor().cpu(), expected[key]) for key, value in state.items())


def check_torch_npu_refuses_what_hccl_has_not():
    try:
        dist.all_reduce(full(1, 3, dtype=torch.float64))
    except RuntimeError as error:
        assert "Unsupported data type" in str(error)
    else:
        raise AssertionError("float64 was reduced")


def shared_data(*shape, dtype=torch.float16):
    """The tensors of all ranks, which every rank makes."""
    generator = torch.Generator().manual_seed(sum(shape))
    whole = torch.randn(RANKS, *shape, generator=generator)
    return (whole if dtype.is_floating_point else whole * 20).to(dtype)


def communicator_name():
    backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device("npu"))
    return backend.get_hccl_comm_name(RANK)


def fused(operator, *arguments, **options):
    """Call an operator on the device, after its results' shapes and types were compared with the meta kernel's."""
    from longcat.emulator.reference import without_data

    move = torch.utils._pytree.tree_map
    function = getattr(torch.ops.npu, operator)
    arguments, options = move(lambda v: v.to(DEVICE) if isinstance(v, torch.Tensor) else v, (arguments, options))
    found = function(*arguments, **options)
    expected = function(*without_data(arguments), **{key: without_data(value) for key, value in options.items()})
    results = [(part.shape, part.dtype) if isinstance(part, torch.Tensor) else part for part in as_tuple(found)]
    assert results == [(p.shape, p.dtype) if isinstance(p, torch.Tensor) else p for p in as_tuple(expected)], operator
    return found


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def close(found, expected, tolerance=0.05):
    torch.testing.assert_close(found.cpu().float(), expected.float(), atol=tolerance, rtol=tolerance)


def check_products_with_communication():
    torch.manual_seed(0)
    name, (m, k, n) = communicator_name(), (8, 16, 12)
    x, w, add = shared_data(m, k), shared_data(k, n), shared_data(m, n)
    each = x.float() @ w.float()
    close(fused("npu_mm_all_reduce_base", x[RANK], w[RANK], name, x3=add[RANK]), (each + add.float()).sum(0))
    scale, offset = torch.rand(n).half() * 0.1, torch.ones(n).half()
    coded = shared_data(k, n, dtype=torch.int8)
    found = fused("npu_mm_all_reduce_base", x[RANK], coded[RANK], name, antiquant_scale=scale, antiquant_offset=offset)
    close(found, (x.float() @ ((coded.float() + 1) * scale.float())).sum(0), 0.3)
    product, gathered = fused("npu_all_gather_base_mm", x[RANK], w[RANK], name, RANKS)
    close(product, x.flatten(0, 1).float() @ w[RANK].float())
    assert torch.equal(gathered.cpu(), x.flatten(0, 1))
    assert torch.equal(product, gathered @ w[RANK].to(gathered.device))  # to the last bit
    rows = fused("npu_mm_reduce_scatter_base", x[RANK], w[RANK], name, RANKS)
    close(rows, each.sum(0)[RANK * m // RANKS : (RANK + 1) * m // RANKS])
    close(fused("npu_matmul_all_to_all", x[RANK], w[RANK], name, RANKS), each.chunk(RANKS, 2)[RANK].flatten(0, 1))
    wide = shared_data(RANKS * k, n)
    found, exchanged = fused("npu_all_to_all_matmul", x[RANK], wide[RANK], name, RANKS)
    expected = torch.cat(list(x.chunk(RANKS, 1)[RANK]), 1)
    assert torch.equal(exchanged.cpu(), expected)
    close(found, expected.float() @ wide[RANK].float())
    for arguments, reason in ((("nobody", RANKS), "communicator"), ((name, RANKS + 1), "ranks")):
        try:
            fused("npu_mm_reduce_scatter_base", x[RANK], w[RANK], *arguments)
        except RuntimeError as error:
            assert reason in str(error), error
        else:
            raise AssertionError(f"{arguments} is not refused")


def check_products_with_quantised_communication():
    torch.manual_seed(0)
    name, (m, k, n) = communicator_name(), (8, 16, 12)
    x, w = shared_data(m, k, dtype=torch.int8), shared_data(k, n, dtype=torch.int8)
    rows, columns = shared_data(m, 1, dtype=torch.float32).abs() * 0.1, torch.rand(1, n)
    each = (x.double() @ w.double()) * rows * columns
    found = fused(
        "npu_mm_all_reduce_base", x[RANK], w[RANK], name, dequant_scale=columns[0], pertoken_scale=rows[RANK].flatten()
    )
    close(found, each.sum(0))
    product, _ = fused(
        "npu_all_gather_base_mm", x[RANK], w[RANK], name, RANKS, x1_scale=rows[RANK], x2_scale=columns,
        output_dtype=torch.float16, comm_mode="aiv",
    )  # fmt: skip
    close(product, x.flatten(0, 1).double() @ w[RANK].double() * rows.flatten(0, 1) * columns)
    part = fused("npu_mm_reduce_scatter_base", x[RANK], w[RANK], name, RANKS, x1_scale=rows[RANK], x2_scale=columns)
    close(part, each.sum(0).chunk(RANKS)[RANK], 0.3)


def check_experts_on_other_ranks():
    torch.manual_seed(0)
    name, experts, width = communicator_name(), 2, 16
    counts = torch.tensor(
        [[[1 + (a + 2 * b + c) % 4 for c in range(experts)] for b in range(RANKS)] for a in range(RANKS)]
    )
    tokens = [
        torch.randn(int(counts[a].sum()), width, generator=torch.Generator().manual_seed(a)).half()
        for a in range(RANKS)
    ]
    weight = shared_data(experts, width, 12)
    sent, received = counts[RANK].flatten().tolist(), counts[:, RANK].flatten().tolist()
    parts = [part.split(counts[a].flatten().tolist()) for a, part in enumerate(tokens)]
    mine = [torch.cat([parts[a][RANK * experts + e] for a in range(RANKS)]) for e in range(experts)]
    shared = torch.randn(3, 8).half(), torch.randn(8, 5).half()
    product, beside, ordered = fused(
        "npu_alltoallv_gmm", tokens[RANK], weight[RANK], name, RANKS, sent, received, mm_x=shared[0],
        mm_weight=shared[1], permute_out_flag=True,
    )  # fmt: skip
    assert torch.equal(ordered.cpu(), torch.cat(mine))
    close(product, torch.cat([rows.float() @ weight[RANK, e].float() for e, rows in enumerate(mine)]))
    close(beside, shared[0].float() @ shared[1].float())
    back, _ = fused("npu_gmm_alltoallv", ordered.cpu(), weight[RANK], name, RANKS, received, sent)
    expected = [parts[RANK][i].float() @ weight[i // experts, i % experts].float() for i in range(RANKS * experts)]
    close(back, torch.cat(expected))


def check_tokens_and_their_experts():
    name, experts, width, tokens, choices = communicator_name(), 4, 32, 6, 3
    for second, shared in ((False, 0), (True, 0), (True, 1)):
        local = experts // (RANKS - shared)
        generator = torch.Generator().manual_seed(second + shared)
        x = torch.randn(RANKS, tokens, width, generator=generator).half()
        ids = torch.rand(RANKS, tokens, experts + 3 * second, generator=generator).argsort(-1)[..., :choices].int()
        weights, active = torch.rand(RANKS, tokens, choices, generator=generator), tokens - 1
        mask = torch.arange(tokens) < active
        group = name, RANKS, RANK, experts
        special = {"zero_expert_num": 1, "copy_expert_num": 1, "const_expert_num": 1} if second else {}
        layout = {"shared_expert_rank_num": shared, "x_active_mask": mask, **special}
        version = "_v2" if second else ""
        rows, _, index, sizes, ends, _, row_weights = fused(
            f"npu_moe_distribute_dispatch{version}", x[RANK], ids[RANK], *group, expert_scales=weights[RANK], **layout
        )
        mine = []  # (rank, token, choice) of each row here, by expert
        for expert in range(local if shared <= RANK else 1):
            for rank in range(RANKS):
                found = ids[rank, :active] == (RANK - shared) * local + expert
                if shared > RANK:
                    found = torch.eye(choices)[0].bool().expand(active, -1)
                mine.append([(rank, *place) for place in found.nonzero().tolist()])
        flat = [place for part in mine for place in part]
        assert ends[: len(mine)].tolist() == torch.tensor(list(map(len, mine))).cumsum(0).tolist()
        assert sizes.tolist() == [sum(map(len, mine[i : i + RANKS])) for i in range(0, len(mine), RANKS)]
        assert torch.equal(rows[: len(flat)].cpu(), torch.stack([x[rank, token] for rank, token, _ in flat]))
        if shared <= RANK:
            assert torch.equal(row_weights[: len(flat)].cpu(), torch.stack([weights[place] for place in flat]))
        if second and shared <= RANK:
            assert index.view(-1, 128)[: len(flat), :3].tolist() == [list(place) for place in flat]

        scale = 1.0 + RANK  # of what this rank's experts do
        alpha, beta, value = torch.rand(3, 1, width, generator=generator).half()
        constants = {"const_expert_alpha_1": alpha, "const_expert_alpha_2": beta, "const_expert_v": value}
        extra = {"ori_x": x[RANK], **constants} if second else {}
        back = fused(
            f"npu_moe_distribute_combine{version}", rows.cpu() * scale, ids[RANK], index.cpu(), ends.cpu(),
            weights[RANK], *group, **layout, **extra,
        )  # fmt: skip
        own, plain = x[RANK].float(), torch.zeros(tokens, width)
        factors = {e: 1.0 + shared + e // local for e in range(experts)} | {experts + 1: 1.0}
        for token in range(active):
            plain[token] += shared * own[token]  # of the shared expert, on the first rank
            for choice, expert in enumerate(ids[RANK, token].tolist()):
                result = factors.get(expert, 0) * own[token]
                if expert == experts + 2:
                    result = alpha[0].float() * own[token] + beta[0].float() * value[0].float()
                plain[token] += weights[RANK, token, choice] * result
        close(back, plain)
    residual, gamma = torch.randn(tokens, 1, width).bfloat16(), torch.rand(width).bfloat16()
    normed, _, total = fused(
        "npu_moe_distribute_combine_add_rms_norm", (rows.cpu() * scale).bfloat16(), ids[RANK], index.cpu(), ends.cpu(),
        weights[RANK], residual, gamma, *group, **layout, **extra,
    )  # fmt: skip
    expected = plain.unsqueeze(1) + residual.float()
    close(total, expected, 0.03)
    close(normed, torch.nn.functional.rms_norm(expected, (width,), gamma.float(), 1e-6), 0.03)
    sent = x[RANK], ids[RANK] % experts, *group
    plainly, (quantised, row_scales, *_) = (
        fused("npu_moe_distribute_dispatch", *sent, quant_mode=mode, expert_token_nums_type=0) for mode in (0, 2)
    )
    assert quantised.dtype == torch.int8 and int(plainly[3][-1]) == int(plainly[4][-1])
    close(quantised.float() * row_scales.unsqueeze(1), plainly[0].float().cpu(), 0.03)
    torch.ops.npu._npu_distribute_barrier(residual.to(DEVICE), name, RANKS)


def main():
    torch.npu.set_device(DEVICE)
    dist.init_process_group("hccl", timeout=timedelta(seconds=60))
    assert type(dist.group.WORLD._get_backend(torch.device("npu"))).__name__ == "ProcessGroupHCCL"
    results = {}
    for name in sys.argv[2:]:
        try:
            globals()[name]()
            results[name] = "passed"
        except Exception:
            results[name] = traceback.format_exc()
            (FOLDER / f"{name}.{RANK}").write_text(results[name])
            if RANK == 0:  # the others may wait for this one: what is left is not run
                (FOLDER / "results.json").write_text(json.dumps(results))
            os._exit(1)
    if RANK == 0:
        (FOLDER / "results.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
