"""`longcat port` with the real wheel: its registrations, the targets of the rules, and programs that run on both sides."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("libcst")
from longcat.errors import UserError
from longcat.port.checking import check
from longcat.port.rewriting import rewrite
from longcat.port.rules import torch_rules
from longcat.port.support import read_support

pytestmark = pytest.mark.emulator
PROGRAMS = Path(__file__).parents[1] / "port" / "programs"
INDEPENDENT = PROGRAMS.parent / "independent"
TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node=2")


@pytest.fixture(scope="module")
def ported(tmp_path_factory):
    out = tmp_path_factory.mktemp("port") / "out"
    rewrite(PROGRAMS, out)
    return out


def checked(folder, *command, **options):
    return check(folder, command, steps=3, limit_s=150, python=sys.executable, **options)


def port(tmp_path, code):
    (tmp_path / "before").mkdir()
    (tmp_path / "before/p.py").write_text(code)
    rewrite(tmp_path / "before", tmp_path / "after")
    return checked(tmp_path / "after", "python", "p.py")


def test_every_target_of_a_rule_is_there():
    import torch
    import torch_npu  # noqa: F401

    missing = []
    for rule in torch_rules().values():
        found = torch
        for part in rule.to.split(".")[1:]:
            if not hasattr(found, part):
                missing.append(rule.to)
                break
            found = getattr(found, part)
    assert missing == []


def test_the_wheel_says_what_it_registers():
    support = read_support(sys.executable)
    assert {"add", "convolution", "_softmax", "native_layer_norm"} <= support.registered
    assert {"digamma", "lgamma", "huber_loss"} <= support.absent
    assert not support.absent & support.registered
    assert support.absent_in("torch.linalg.cholesky") == ("aten::linalg_cholesky_ex",)
    assert "aten::huber_loss" in support.absent_in("torch.nn.HuberLoss")
    assert support.absent_in("torch.relu") == () == support.absent_in("torch.nn.functional.cross_entropy")
    assert "registers no kernel" in support.says("aten::digamma.out")


@pytest.mark.slow
@pytest.mark.parametrize("program", ["nano_gpt.py", "compiled.py", "hf_trainer.py", "cuda_extension/train.py"])
def test_a_program(ported, program):
    result = checked(ported, "python", program)
    assert result["verdict"] == "same", result["why"]
    assert len(result["losses"]) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("program", ["ddp_image.py", "fsdp2.py", "megatron_layer.py"])
def test_a_program_of_two_ranks(ported, program):
    result = checked(ported, *TORCHRUN, program)
    assert result["verdict"] == "same", result["why"]
    assert {row["rank"] for row in result["losses"]} == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("program", ["ddp_resnet.py", "tp_layer.py"])
def test_a_program_of_somebody_else(tmp_path, program):
    """With batch norms over all ranks, generators of devices, and float64 in a collective."""
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / program).write_bytes((INDEPENDENT / program).read_bytes())
    rewrite(tmp_path / "before", tmp_path / "after")
    result = checked(tmp_path / "after", *TORCHRUN, program)
    assert result["verdict"] == "same", result["why"]
    assert {row["rank"] for row in result["losses"]} == {0, 1}


def test_what_cannot_be_ported_says_why(ported):
    with pytest.raises(UserError, match="No module named 'triton'.*triton-ascend"):
        checked(ported, "python", "triton_kernel.py")
    with pytest.raises(UserError, match="there is no such file"):
        checked(ported, "python", "typo.py")
    with pytest.raises(UserError, match="no such program"):
        checked(ported, "no-such-program")


MODEL = """
import torch
torch.manual_seed(0)
model = torch.nn.Linear(8, 8).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for step in range(5):
    x = torch.randn(4, 8, device="cuda")
    loss = {loss}
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print("loss", loss.item())
"""


def test_a_device_that_is_none_is_the_accelerator(tmp_path):
    code = MODEL.format(loss="model(x).square().mean()").replace(".cuda()", ".cuda(None if step_of else gpu)")
    memory = "torch.cuda.memory._record_memory_history()\ngenerator = torch.cuda.default_generators[torch.cuda.current_device()]\n"
    result = port(tmp_path, code.replace("import torch\n", "import torch\ngpu = step_of = None\n" + memory, 1))
    assert result["verdict"] == "same", result["why"]


def test_a_rewrite_that_keeps_to_the_host_shows_nothing(tmp_path):
    code = MODEL.format(loss="model(x).square().mean()").replace(".cuda()", "").replace(', device="cuda"', "")
    result = port(tmp_path, code)
    assert result["verdict"] == "unknown" and "kept to the host" in result["why"]
    assert all(row["difference"] == 0 for row in result["losses"])


def test_random_numbers_and_dropout_are_the_same_on_both_sides(tmp_path):
    loss = "torch.nn.functional.dropout(model(x), 0.5).square().mean() + torch.bernoulli(x.sigmoid()).mean() + torch.randn_like(x).sum()"
    result = port(tmp_path, MODEL.format(loss=loss))
    assert result["verdict"] == "same", result["why"]
    assert [row["difference"] for row in result["printed"]] == [0, 0, 0]


def test_shards_draw_the_same_on_both_sides(tmp_path):
    """torch gives the shards of a device ranges of its generator, and the host's generator back as it was."""
    setup = (
        "import torch.distributed as dist\nfrom torch.distributed.tensor import Shard, distribute_tensor\n"
        "dist.init_process_group('nccl', store=dist.HashStore(), rank=0, world_size=1)\n"
        "mesh = dist.init_device_mesh('cuda', (1,))\n"
        "def drawn(): return distribute_tensor(torch.empty(4, 8), mesh, [Shard(0)]).uniform_().to_local()\n"
    )
    loss = "model(x + drawn() - drawn()).mean()"
    result = port(tmp_path, MODEL.format(loss=loss).replace("import torch\n", "import torch\n" + setup, 1))
    assert result["verdict"] == "same", result["why"]
    assert len({row["original"] for row in result["losses"]}) == 3


def test_the_first_operator_that_differs_is_named(tmp_path):
    loss = "(torch.tanh(model(x)) if x.get_device() < 0 else torch.tanh(model(x)).mul(1.5).div(1.2)).square().mean()"
    result = port(tmp_path, MODEL.format(loss=loss))
    assert result["verdict"] == "differs"
    assert "First operator that differs: aten::" in result["why"]
    assert result["operator"]["number"] > 1


def test_an_operator_that_is_missing_is_named(tmp_path):
    result = port(
        tmp_path,
        MODEL.format(
            loss="torch._masked_scale(model(x), torch.ones_like(x).byte() != 0, 1.0).mean() if x.get_device() >= 0 else model(x).mean()"
        ),
    )
    assert result["verdict"] == "fails"
    assert "Missing operator: aten::_masked_scale" in result["why"] and "registers it" in result["why"]


def test_operators_that_fall_back_to_the_host_are_named(tmp_path):
    result = port(tmp_path, MODEL.format(loss="torch.lgamma(model(x).abs() + 1).mean()"))
    assert result["verdict"] == "same"
    assert any("aten::lgamma" in note for note in result["notes"])


def test_a_rewrite_that_fails_says_where(tmp_path):
    result = port(
        tmp_path,
        MODEL.format(loss="model(x).mean()").replace(
            "import torch\n", 'import torch\nif hasattr(torch, "npu"): raise KeyError("only here")\n', 1
        ),
    )
    assert result["verdict"] == "fails" and "only here" in result["why"]


def test_neither_folder_is_written_to(tmp_path):
    code = MODEL.format(loss="model(x).mean()") + 'open("left.txt", "w").write("x")\n'
    result = port(tmp_path, code.replace("range(5)", "range(2)"))
    assert result["verdict"] == "same"
    assert not list(tmp_path.rglob("left.txt"))
