"""Graphs of captured work: replayed as on a device, refused where a device would refuse."""

import gc
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.emulator


def captured(function, **options):
    """A graph of what the function does, and what it returned."""
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph, **options):
        found = function()
    return graph, found


def full(value, *shape):
    return torch.full(shape, float(value), device="npu")


def test_a_replay_reads_what_is_there_and_writes_to_the_same_place():
    x, total = full(1, 4), full(0, 4)

    def work():
        total.add_(x)
        return x * total

    graph, y = captured(work)
    assert total.tolist() == [0.0] * 4, "what is captured is not done"
    where = y.data_ptr()
    for value, sum_ in ((2, 2), (3, 5)):
        x.fill_(value)
        graph.replay()
        assert total.tolist() == [sum_] * 4
        assert y.tolist() == [value * sum_] * 4
    assert y.data_ptr() == where


def test_operators_of_every_kind_are_replayed():
    import torch_npu

    x, host = torch.randn(4, 8).npu(), torch.randn(4, 8).pin_memory()
    out, wide = torch.empty(0, device="npu"), torch.empty(4, 8, device="npu")

    def work():
        wide.copy_(host, non_blocking=True)
        torch.mul(x, 2, out=out)
        parts = torch.split(x + wide, 4, dim=1)
        added = torch._foreach_add(list(parts), 1.0)
        rows = x.index_select(0, order)
        back = torch.empty(4, 8).pin_memory()
        back.copy_(rows, non_blocking=True)
        return [*added, torch_npu.npu_swiglu(x), torch_npu.npu_format_cast(x, 2), rows.t(), x.topk(2).values, back]

    order = torch.tensor([2, 0, 1, 3], device="npu")
    graph, found = captured(work)
    for _ in range(2):
        x.copy_(torch.randn(4, 8))
        host.copy_(torch.randn(4, 8))
        graph.replay()
        a, b = x.cpu(), host
        expected = [
            *((a + b)[:, half] + 1 for half in (slice(4), slice(4, 8))), F.silu(a[:, :4]) * a[:, 4:], a, a[[2, 0, 1, 3]].t(),
            a.topk(2).values, a[[2, 0, 1, 3]],
        ]  # fmt: skip
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine.cpu(), other)
        assert torch.equal(out.cpu(), 2 * a)


def test_a_training_step_in_a_graph_is_the_eager_one():
    torch.manual_seed(0)
    x, y = torch.randn(8, 16).npu(), torch.randint(0, 4, (8,)).npu()
    models = [nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 4)).npu() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [torch.optim.AdamW(model.parameters(), 1e-2, capturable=True) for model in models]

    def step(model, optimizer):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    side = torch.npu.Stream()
    with torch.npu.stream(side):
        for model, optimizer in zip(models, optimizers, strict=True):  # optimizers make their states
            step(model, optimizer)
    graph, loss = captured(lambda: step(models[0], optimizers[0]))
    for _ in range(3):
        x.copy_(torch.randn(8, 16))
        graph.replay()
        assert loss.item() == step(models[1], optimizers[1]).item()
    for mine, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(mine, other)


def test_graphed_callables_train():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).npu()
    graphed = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).npu()
    graphed.load_state_dict(plain.state_dict())
    torch.npu.make_graphed_callables(graphed, (torch.randn(4, 8, device="npu"),))
    for _ in range(2):
        x = torch.randn(4, 8, device="npu")
        for model in (plain, graphed):
            model.zero_grad()
            (model(x) ** 2).sum().backward()
        for mine, other in zip(graphed.parameters(), plain.parameters(), strict=True):
            assert torch.equal(mine.grad, other.grad)


def test_random_numbers_go_on_with_each_replay_as_without_a_graph():
    generators = torch.npu.default_generators[0]
    torch.npu.manual_seed(7)
    expected = [torch.rand(4, device="npu") for _ in range(4)] + [torch.randperm(9, device="npu")]
    graph, (x, y) = captured(lambda: (torch.rand(4, device="npu"), torch.empty(4, device="npu").uniform_()))
    torch.npu.manual_seed(7)
    found = []
    for _ in range(2):
        graph.replay()
        found += [x.clone(), y.clone()]
    found.append(torch.randperm(9, device="npu"))
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine, other)
    assert generators.initial_seed() == 7


def test_dropout_is_the_same_when_it_is_computed_again():
    x = torch.ones(64, 64, device="npu", requires_grad=True)

    def work():
        y = checkpoint(lambda t: F.dropout(t, 0.5) * t, x, use_reentrant=False)
        return y, *torch.autograd.grad(y.sum(), x)

    graph, (y, gradient) = captured(work)
    seen = []
    for _ in range(2):
        graph.replay()
        assert torch.equal(gradient != 0, y != 0)
        seen.append(y.clone())
    assert not torch.equal(*seen)


def test_streams_that_join_the_capture():
    x, side = full(2, 3), torch.npu.Stream()

    def work():
        main = torch.npu.current_stream()
        side.wait_stream(main)
        with torch.npu.stream(side):
            assert torch.npu.is_current_stream_capturing()
            y = x * x
        main.wait_stream(side)
        return y + 1

    graph, z = captured(work)
    with torch.npu.stream(side):
        assert not torch.npu.is_current_stream_capturing()
    x.fill_(3)
    graph.replay()
    assert z.tolist() == [10.0] * 3


def test_memory_is_the_graphs_until_it_is_reset():
    def work():
        for _ in range(5):  # each is freed for the next one
            y = torch.ones(1 << 20, device="npu") * 2
        return y

    gc.collect()  # tensors of other tests
    torch.npu.empty_cache()
    before = torch.npu.memory_reserved()
    graph, y = captured(work)
    held = torch.npu.memory_reserved() - before
    assert (8 << 20) <= held <= (48 << 20)
    del y
    torch.npu.empty_cache()
    assert torch.npu.memory_reserved() - before == held
    graph.reset()
    torch.npu.empty_cache()
    assert torch.npu.memory_reserved() <= before
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        graph.replay()


def test_graphs_share_a_pool():
    pool, x = torch.npu.graph_pool_handle(), full(1, 2)
    first, y = captured(lambda: x + 1, pool=pool)
    second, z = captured(lambda: y * 3, pool=first.pool())
    x.fill_(4)
    first.replay()
    second.replay()
    assert z.tolist() == [15.0, 15.0]


def test_functions_of_the_host_run_at_replay_only():
    import torch_npu

    seen, stream = [], torch.npu.Stream()
    torch_npu.npu._subscribe_report(stream)
    with torch.npu.stream(stream):
        graph, _ = captured(lambda: torch_npu.npu._launch_host_func(stream, seen.append, 1), stream=stream)
        assert seen == []
        graph.replay()
        graph.replay()
        torch.npu.synchronize()
    torch_npu.npu._unsubscribe_report(stream)
    assert seen == [1, 1]


def test_a_group_of_tasks_gets_other_arguments():
    x, out, update = full(2, 3), full(0, 3), torch.npu.Stream()
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        stream = torch.npu.current_stream()
        torch.npu.graph_task_group_begin(stream)
        torch.mul(x, 10, out=out)
        handle = torch.npu.graph_task_group_end(stream)
        y = out + 1
    graph.replay()
    assert y.tolist() == [21.0] * 3
    with torch.npu.stream(update):
        torch.npu.graph_task_update_begin(update, handle)
        torch.mul(x, 100, out=out)
        torch.npu.graph_task_update_end(update)
    assert out.tolist() == [20.0] * 3, "an update is no launch"
    graph.replay()
    assert y.tolist() == [201.0] * 3


def test_a_part_is_left_out_by_a_condition_on_the_device():
    x, wanted, graph = full(0, 3), torch.tensor(True, device="npu"), torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        graph.begin_capture_to_if_node(wanted)
        x.add_(1)
        graph.end_capture_to_conditional_node()
        y = x * 10
    assert x.tolist() == [0.0] * 3
    for value, count in ((False, 0), (True, 1), (True, 2), (False, 2)):
        wanted.fill_(value)
        graph.replay()
        assert x.tolist() == [count] * 3
        assert y.tolist() == [10 * count] * 3


def test_the_tasks_of_a_graph_are_printed(tmp_path):
    graph, _ = captured(lambda: (full(1, 2) * 2).sum())
    graph.debug_dump(str(tmp_path / "graph.json"))
    names = [task["name"] for task in json.loads((tmp_path / "graph.json").read_text())]
    assert names[-2:] == ["aten::mul.Tensor", "aten::sum"]


X = torch.arange(3.0)
REFUSED = {
    "aten::_local_scalar_dense": lambda x: x.sum().item(), "aten::nonzero": lambda x: x.nonzero(),
    "aten::index.Tensor": lambda x: x[x > 1], "aten::copy_": lambda x: x.cpu(), "aten::masked_select": lambda x: x.masked_select(x > 1),
    "aten::equal": lambda x: torch.equal(x, x + 1), "waits for the device": lambda x: torch.npu.synchronize(),
    "waits for the stream": lambda x: torch.npu.current_stream().synchronize(),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_host_waits_for_is_refused_by_name(name):
    x = X.npu()
    with pytest.raises(RuntimeError, match=rf"(?s){name}.*cannot be captured into a graph"):
        captured(lambda: REFUSED[name](x))
    graph, y = captured(lambda: x + 1)  # the next one is not spoilt
    graph.replay()
    assert y.tolist() == [1.0, 2.0, 3.0]


def test_a_replay_raises_what_the_operator_raises():
    index, table = torch.tensor([0, 1], device="npu"), full(1, 4)
    graph, _ = captured(lambda: table.index_select(0, index))
    index.fill_(9)
    with pytest.raises(IndexError, match="out of range"):
        graph.replay()
    index.fill_(1)
    graph.replay()


def test_what_an_operator_draws_in_a_graph_is_what_it_draws_without():
    import torch_npu

    torch.manual_seed(0)
    query = torch.randn(1, 2, 16, 32, dtype=torch.float16, device="npu")

    def attend():
        return torch_npu.npu_fusion_attention_v3(query, query, query, 2, "BNSD", keep_prob=0.5)

    torch.npu.manual_seed(3)
    expected = [attend() for _ in range(3)]
    torch.npu.manual_seed(3)
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        found = attend()
    for one in expected:
        graph.replay()
        assert torch.equal(found[0], one[0])
        assert [part.tolist() for part in found[4:]] == [part.tolist() for part in one[4:]]
