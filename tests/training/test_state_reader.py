"""The model is read back, tensor by tensor, from what several processes have written of it."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.distributed import checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from longcat.config import load_config
from longcat.errors import DataError
from longcat.interchange.state_dict_map import state_dict_map
from longcat.model.transformer import LongcatModel
from longcat.training.checkpoint import MODEL
from longcat.training.state_reader import state_reader

OVERRIDES = [
    "model.ngram={vocab_size_ratio: 2.5, neighbor_num: 3, split_num: 2}",
    "model.mtp_num_layers=1",
    "model.num_layers=2",
]


def model():
    made = LongcatModel(load_config("smoke", overrides=OVERRIDES).model)
    made.initialize(0)
    return made


def write(rank, processes, port, directory):
    """Every parameter is spread over the processes, in its first or its last dimension; sizes need not be multiples."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    mesh = init_device_mesh("cpu", (processes,))
    state: dict[str, DTensor] = {}
    for number, (name, value) in enumerate(model().state_dict().items()):
        place = (Shard(0), Shard(value.dim() - 1), Replicate())[number % 3]
        state[name] = distribute_tensor(value, mesh, [place])
    dcp.save({MODEL: state, "step": torch.tensor(3)}, checkpoint_id=directory)
    dist.destroy_process_group()


@pytest.mark.slow
def test_every_tensor_is_read_back(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(write, (3, port, str(tmp_path)), nprocs=3, start_method="spawn")
    expected = model()
    state, read = expected.state_dict(), state_reader(tmp_path)
    seen = set()
    for tensor in state_dict_map(expected.config):
        assert torch.equal(read(tensor), state[tensor.parameter][tensor.region]), tensor.name
        seen.add(tensor.parameter)
    assert seen == state.keys()


def test_a_damaged_checkpoint_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot read the checkpoint"):
        state_reader(tmp_path)
    made = model()
    state = {name: value for name, value in made.state_dict().items() if name != "lm_head.weight"}
    dcp.save({MODEL: state}, checkpoint_id=tmp_path, no_dist=True)
    read = state_reader(tmp_path)
    head, first = (
        next(t for t in state_dict_map(made.config) if t.parameter == name)
        for name in ("lm_head.weight", "model.embed_tokens.weight")
    )
    with pytest.raises(DataError, match=r"no weights for lm_head\.weight"):
        read(head)
    for path in tmp_path.glob("*.distcp"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"cannot read model\.model\.embed_tokens\.weight"):
        read(first)
