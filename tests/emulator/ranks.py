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
