import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from longcat.config import load_config
from longcat.inference.opening import OpenCheckpoint
from longcat.model import LongcatModel

SETTINGS = [
    "corpus.vocabulary_size=259",
    "model.vocab_size=259",
    "model.initializer_range=0.2",
    "model.eos_token_id=2",
    "evaluation.task_limit=null",
]


@pytest.fixture(scope="session")
def byte_tokenizer():
    """A token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {letter: i + 3 for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.fixture(scope="session")
def opened(byte_tokenizer):
    """A model of 256 positions with random weights large enough that its texts differ."""
    model = LongcatModel(load_config("smoke", overrides=SETTINGS).model)
    model.initialize(0)
    assert model.config.max_position_embeddings == 256
    return OpenCheckpoint(Path("none"), model.eval(), byte_tokenizer, 2, None, "fp32")


@dataclass
class Tasks:
    """A folder of tasks, and the configuration that asks for them."""

    folder: Path
    names: list = field(default_factory=list)

    def add(self, name, items=None, text=None, **fields):
        """Write a task; `fields` lie over those of multiple choice."""
        task = {
            "task": name,
            "dataset_path": "json",
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "target_delimiter": " ",
            **fields,
        }
        content = yaml.safe_dump({key: value for key, value in task.items() if value is not None})
        (self.folder / f"{name}.yaml").write_text(content if text is None else text)
        if items is not None:
            lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
            (self.folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        self.names.append(name)

    def config(self, *overrides, names=None):
        named = ",".join(self.names if names is None else names)
        own = [f"evaluation.tasks=[{named}]", f"evaluation.task_paths=[{self.folder}]"]
        return load_config("smoke", overrides=[*SETTINGS, *own, *overrides])


@pytest.fixture
def tasks(tmp_path):
    (tmp_path / "tasks").mkdir()
    return Tasks(tmp_path / "tasks")
