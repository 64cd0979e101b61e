"""Training can begin with the weights of a folder that was not trained here, in every layout."""

import pytest
import torch

from longcat.accelerator import choose
from longcat.config import load_config
from longcat.errors import DataError
from longcat.interchange import load_huggingface, save_huggingface
from longcat.interchange.state_dict_map import state_dict_map
from longcat.interchange.writing import INDEX, WEIGHTS
from longcat.model import LongcatModel
from longcat.parallel.axes import Degrees
from longcat.training.checkpoint import state_of, write_state
from longcat.training.given_weights import load_weights
from longcat.training.state_reader import state_reader
from longcat.training.trainer import Trainer

SETTINGS = (
    "model.num_layers=2",
    "model.mtp_num_layers=1",
    "model.ngram={vocab_size_ratio: 4.5, neighbor_num: 3, split_num: 2}",
    "corpus.vocabulary_size=300",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights unlike those that the configuration's seed gives."""
    path = tmp_path_factory.mktemp("theirs")
    model = LongcatModel(load_config("smoke", overrides=SETTINGS).model)
    model.initialize(7)
    for buffer in model.buffers():
        buffer.uniform_(-1, 1)
    save_huggingface(model, path)
    return path


def written(mesh, settings, folder, state):
    """Make a trainer begin with a folder, and write what it holds."""
    trainer = Trainer(load_config("smoke", overrides=settings), mesh, choose("cpu"), "fp32")
    load_weights(folder, trainer.weights)
    write_state(state, state_of(0, trainer.weights, trainer.optimizers), trainer.config.model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "degrees",
    [Degrees(1), Degrees(2), Degrees(2, expert=2), Degrees(2, pipeline=2), Degrees(2, replicate=2)],
    ids=str,
)
def test_each_process_reads_what_it_keeps(ranks, folder, tmp_path, degrees):
    ranks.on_mesh(degrees, written, SETTINGS, folder, tmp_path)
    read, expected = state_reader(tmp_path), load_huggingface(folder).state_dict()
    compared = set()
    for tensor in state_dict_map(load_config("smoke", overrides=SETTINGS).model):
        if not tensor.duplicate:
            assert torch.equal(read(tensor), expected[tensor.parameter][tensor.region]), tensor.name
            compared.add(tensor.parameter)
    assert compared == set(expected)


def test_a_folder_that_lacks_a_part_of_the_model(folder):
    model = LongcatModel(load_config("smoke", overrides=[*SETTINGS, "model.num_layers=3"]).model)
    with pytest.raises(DataError, match=r"no weights for model\.layers\.2"):
        load_weights(folder, model)
    assert (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file()
