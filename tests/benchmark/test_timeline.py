"""Lanes of a step, on traces made by hand and on those of real processes."""

import pytest

from longcat.benchmark.axis_plots import axis_times, bandwidths, exposed, timelines
from longcat.benchmark.breakdown import length
from longcat.benchmark.measuring import MOST_PROFILED, profiled_ranks
from longcat.benchmark.timeline import timeline, without
from longcat.benchmark.traffic import SENDING, WAITING
from longcat.errors import DataError
from longcat.parallel.axes import Degrees
from longcat.parallel.passes import Pass
from longcat.training.regions import OPTIMIZER, STEP
from tests.benchmark.step import profile_steps
from tests.parallel.training import EVERYTHING, Case


def event(name, begin, end, kind="user_annotation", thread=1):
    return {
        "ph": "X",
        "name": name,
        "cat": kind,
        "ts": begin * 1e6,
        "dur": (end - begin) * 1e6,
        "pid": 1,
        "tid": thread,
    }


def passed(kind, micro_batch, part):
    return Pass(kind, micro_batch, part).region


def rounded(intervals):
    return [(round(begin, 1), round(end, 1)) for begin, end in intervals]


def test_what_is_left_of_intervals():
    assert without([(0, 4), (6, 9)], [(1, 2), (3, 7), (8, 8.5)]) == [(0, 1), (2, 3), (7, 8), (8.5, 9)]
    assert without([(0, 4)], []) == [(0, 4)]


def test_collectives_of_two_axes_at_once_are_told_apart():
    found = timeline(
        [
            event(STEP, 0, 50), event(STEP, 100, 200),
            event("aten::mm", 100, 120, "cpu_op"), event("aten::mm", 130, 160, "cpu_op"), event("aten::mul", 180, 190, "cpu_op"),
            event(OPTIMIZER, 178, 199),
            # rows to experts behind computing; weights meanwhile, on threads of their own
            event(f"{SENDING}expert, all_to_all", 110, 111), event("gloo:all_to_all", 112, 140, thread=7),
            event(f"{SENDING}shard, all_gather", 120, 130), event(f"{WAITING}shard, all_gather", 120, 130),
            event("gloo:all_gather", 121, 129, thread=8),
            event(f"{SENDING}embedding, all_to_all", 131, 132), event("gloo:all_to_all", 133, 136, thread=9),
            event(f"{SENDING}expert, all_to_all", 145, 146), event("gloo:all_to_all", 150, 170, thread=7),
            event(f"{WAITING}expert, all_to_all", 160, 171),
            # scattered by reducing for all, as gloo does
            event(f"{SENDING}shard, reduce_scatter", 172, 177), event("gloo:all_reduce", 173, 176, thread=8),
            event(f"{WAITING}shard, reduce_scatter", 172, 177),
        ],
        rank=3,
        stage=1,
    )  # fmt: skip
    assert (found.rank, found.stage, found.seconds) == (3, 1, pytest.approx(100))
    assert rounded(found.computing) == [(0, 20), (30, 60)]
    assert rounded(found.updating) == [(80, 90)]
    assert {axis: rounded(of) for axis, of in found.sending.items()} == {
        "expert": [(10, 40), (45, 70)], "shard": [(20, 29), (72, 76)], "embedding": [(31, 36)],
    }  # fmt: skip
    assert {axis: rounded(of) for axis, of in found.waiting.items()} == {
        "shard": [(20, 30), (72, 77)],
        "expert": [(60, 71)],
    }
    assert found.waiting_shares == {"shard": pytest.approx(0.15), "expert": pytest.approx(0.11)}


def test_a_device_waits_where_it_computes_nothing():
    found = timeline(
        [
            event(STEP, 0, 10), event("gemm", 1, 5, "kernel", 7), event("gemm", 6, 7, "kernel", 7),
            event(f"{SENDING}expert, all_to_all", 0, 1), event(f"{WAITING}expert, all_to_all", 1, 2),
            event("ncclDevKernel_SendRecv", 4, 8, "kernel", 20),
        ],
        0, 0,
    )  # fmt: skip
    assert {axis: rounded(of) for axis, of in found.sending.items()} == {"expert": [(4, 8)]}
    assert {axis: rounded(of) for axis, of in found.waiting.items()} == {"expert": [(5, 6), (7, 8)]}


def test_passes_are_found_by_their_regions():
    forward, backward = passed("forward", 0, 1), passed("backward", 0, 1)
    found = timeline(
        [
            event(passed("forward", 7, 1), -5, -1), event(STEP, 0, 10),
            event(backward, 5, 8), event(forward, 1, 3), event("longcat.forwards", 3, 4),
        ],
        0, 1,
    )  # fmt: skip
    assert [(of.kind, of.micro_batch, of.part, round(of.begin, 1), round(of.end, 1)) for of in found.passes] == [
        ("forward", 0, 1, 1, 3), ("backward", 0, 1, 5, 8),
    ]  # fmt: skip


def test_a_pass_on_a_device_is_what_any_thread_launched_in_it():
    def kernel(number, launched, begin, end, thread):
        launch = event("cudaLaunchKernel", launched, launched + 0.1, "cuda_runtime", thread)
        return [one | {"args": {"correlation": number}} for one in (launch, event("gemm", begin, end, "kernel", 7))]

    found = timeline(
        [
            event(STEP, 0, 20), event(passed("forward", 0, 0), 1, 2), event(passed("backward", 0, 0), 3, 4),
            *kernel(1, 1.1, 2, 5, thread=1), *kernel(2, 1.7, 5, 6, thread=1),
            *kernel(3, 3.5, 8, 12, thread=2), *kernel(4, 4.5, 13, 14, thread=1),
        ],
        0, 0,
    )  # fmt: skip
    assert [(of.kind, round(of.begin, 1), round(of.end, 1)) for of in found.passes] == [
        ("forward", 2, 6), ("backward", 8, 12),
    ]  # fmt: skip


def test_what_is_sent_and_received_of_another_stage_has_lanes_of_its_own():
    found = timeline(
        [
            event(STEP, 0, 30), event(f"{SENDING}hidden states, send", 1, 2),
            event("gloo:send", 1.1, 9), event("gloo:send", 1.2, 8), event("gloo:recv", 1.3, 5),
            event(f"{WAITING}hidden states, send", 2, 9),
            event(f"{SENDING}hidden states, send", 10, 11), event("gloo:recv", 10.5, 20),
        ],
        0, 0,
    )  # fmt: skip
    assert {axis: rounded(of) for axis, of in found.sending.items()} == {
        "hidden states, sent": [(1.1, 9)], "hidden states, received": [(1.3, 5), (10.5, 20)],
    }  # fmt: skip
    assert {axis: rounded(of) for axis, of in found.waiting.items()} == {"hidden states": [(2, 9)]}


def test_a_trace_without_a_step():
    with pytest.raises(DataError, match=r"no annotation 'longcat\.step'"):
        timeline([event("aten::mm", 0, 1, "cpu_op")], 0, 0)


def test_few_processes_are_all_profiled():
    assert profiled_ranks(Degrees(4)) == [0, 1, 2, 3]
    assert profiled_ranks(Degrees(512)) == [0]
    assert len(profiled_ranks(Degrees(MOST_PROFILED))) == MOST_PROFILED


@pytest.fixture(scope="module")
def profiled(ranks, tmp_path_factory):
    case = Case(rows=4, overrides=(*EVERYTHING, "parallel.embedding=true"))
    folder = str(tmp_path_factory.mktemp("profiled"))
    return ranks.on_mesh(Degrees(2, expert=2), profile_steps, case, folder)


def test_real_processes(profiled):
    assert profiled[1] is None
    lines = profiled[0]["timelines"]
    assert [line["rank"] for line in lines] == [0, 1]
    for line in lines:
        assert {"shard", "expert", "embedding"} <= set(line["sending"])
        assert set(line["waiting"]) <= set(line["sending"]), "what is waited for was on its way"
        for lane in (line["computing"], *line["sending"].values(), *line["waiting"].values()):
            assert 0 < length(lane) < line["seconds"]
            assert all(-1e-6 <= begin < end <= line["seconds"] + 1e-6 for begin, end in lane)
        assert 0 < sum(line["waiting_shares"].values()) < 1
        assert [one["kind"] for one in line["passes"]] == ["forward", "backward"] * 2


@pytest.fixture(scope="module", params=["1f1b", "zbv"])
def staged(ranks, tmp_path_factory, request):
    case = Case(rows=8, overrides=("model.num_layers=4", "parallel.pipeline=2", f"parallel.schedule={request.param}"))
    folder = str(tmp_path_factory.mktemp("staged"))
    degrees = Degrees(4, pipeline=2, expert=2)
    return request.param, ranks.on_mesh(degrees, profile_steps, case, folder)[0]["timelines"]


def test_passes_of_a_real_pipeline(staged):
    schedule, lines = staged
    for line in lines:
        ran = {(one["kind"], one["part"], one["micro_batch"]) for one in line["passes"]}
        parts = {"1f1b": [line["stage"]], "zbv": [line["stage"], 3 - line["stage"]]}[schedule]
        for part in parts:
            assert {of for of in ran if of[0] != "weights" and of[1] == part} == {
                (kind, part, number) for kind in ("forward", "backward") for number in range(4)
            }
        assert any(kind == "weights" for kind, _, _ in ran) is (schedule == "zbv")
        assert {"hidden states, sent", "hidden states, received"} <= set(line["sending"])
        assert 0 < line["waiting_shares"]["hidden states"] < 1
        for one, other in zip(line["passes"], line["passes"][1:], strict=False):
            assert one["begin"] < one["end"] <= other["begin"]


def test_of_a_pipeline_one_rank_of_each_stage_is_drawn(staged):
    figure = timelines(staged[1])
    names = [text.get_text() for text in figure.axes[0].texts]
    assert {"stage 0, rank 0", "stage 1, rank 2"} <= set(names)
    assert not any("rank 1" in name or "rank 3" in name for name in names)
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"backward pass", "waiting for another stage"} <= legend


@pytest.mark.parametrize("narrow", [False, True])
def test_the_picture_has_every_process_and_axis(profiled, narrow):
    figure = timelines(profiled[0]["timelines"], narrow=narrow)
    assert {text.get_text() for text in figure.axes[0].texts} >= {"rank 0", "rank 1", "0", "1"}
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names[:2] == ["micro-batch", "computing"]
    assert names.count("waiting") == 2
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"computing", "waiting", "shard", "expert", "embedding"} <= legend
    assert len(figure.axes) == 2, "an exchange runs beside computing, and is shown in detail"


def test_the_axes_beside_a_step():
    loads = [
        {"axis": "expert", "ranks": 4, "seconds": 0.3, "step_share": 0.3, "exposed_share": 0.1, "link_bytes": 3e9, "bus_bandwidth": 1e10},
        {"axis": "shard", "ranks": 2, "seconds": 0.1, "step_share": 0.1, "exposed_share": None, "link_bytes": 5e4, "bus_bandwidth": 5e5},
    ]  # fmt: skip
    figure = axis_times(loads, 1.0)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["shard (2)", "expert (4)"]
    texts = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "30.0% of a step, 3 GB at 10 GB/s" in texts
    assert "50 kB at 500 kB/s" in texts


def test_bandwidths_leave_out_what_hardly_counts():
    def need(axis, name, link_bytes, splits="even"):
        return {"axis": axis, "name": name, "splits": splits, "messages": 2, "bytes": 100, "link_bytes": link_bytes}

    needs = [
        need("shard", "all_gather", 1e6),
        need("shard", "all_reduce", 4.0),
        need("expert", "all_to_all", 900.0, "uneven"),
        need("sums", "all_reduce", 80.0),
    ]
    measured = [one | {"bytes": size, "bus_bandwidth": 1e9} for one in needs for size in (50, 100)]
    figure = bandwidths({"needs": needs, "measured": measured})
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "shard: all-gather",
        "expert: all-to-all as routed",
    }


@pytest.mark.parametrize("narrow", [False, True])
def test_each_way_to_send_is_in_the_picture(narrow):
    ways = {
        name: {"step_s": 2.0, "waiting_s": 2 * share, "waiting_share": share, "exchange_bytes": 4e7}
        for name, share in (("sequential", 0.5), ("two_level", 0.125))
    }
    axes = exposed(ways, "2 nodes", narrow=narrow).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["two level", "sequential"]
    texts = [text.get_text().split()[0] for text in axes.texts]
    assert texts == ["12.5%", "40", "50.0%", "40"]
