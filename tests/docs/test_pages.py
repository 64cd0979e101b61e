"""The commands of README.md and of all pages but the tutorial, in one checkout that has what the pages suppose."""

import shutil

import pytest

from tests.docs.commands import ROOT, Command, commands, pages
from tests.docs.shell import missing

OWN_TEST = ROOT / "docs" / "tutorial.md"
LOG = """{'loss': 2.61, 'grad_norm': 0.8, 'learning_rate': 2e-05, 'epoch': 0.1}
{'train_runtime': 120.5, 'train_samples_per_second': 2.5, 'train_tokens_per_second': 20400.0, 'train_loss': 2.5, 'epoch': 1.0}
"""


@pytest.fixture(scope="module")
def reader(shell, corpus_file, smoke_run):
    """A shell beside files that the pages call the reader's own, with two finished runs."""
    shutil.copytree(smoke_run[0], shell.folder / "workspace")
    for name in ("my.jsonl", "mine.jsonl"):
        shutil.copy(corpus_file, shell.folder / name)
    for name in ("mine.yaml", "recipe.yaml"):
        (shell.folder / name).write_text("preset: smoke\ncorpus: {sources: [my.jsonl]}\n")
    (shell.folder / "FILE.jsonl").write_text('"The order"\n"A courier"\n')
    (shell.folder / "train.log").write_text(LOG)
    for text in (
        "longcat pretrain -c mine.yaml --set training.steps=4",
        "longcat export --checkpoint FIRST --output their-model",
        "cp their-model/config.json .",
    ):
        shell.run(Command("what the pages suppose", 0, text))
    return shell


def run_commands():
    return [page for page in pages() if page != OWN_TEST and any(command.is_run for command in commands(page))]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", run_commands(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page(reader, page):
    reader.folder = reader.checkout
    for made in ("my-model", "served", "dispatch"):  # what a command will not write over, by an earlier page
        shutil.rmtree(reader.folder / made, ignore_errors=True)
    try:
        for command in commands(page):
            if command.is_run:
                printed = reader.run(command)
                absent = missing(command.shown, printed) if command.mark("output varies") is None else []
                assert not absent, f"{command.where}: the page shows {absent}, printed was:\n{printed}"
    finally:
        reader.stop()
