"""Checks in the course of training: the loss on held-out sequences, and a sample of text.

Both are functions of the weights alone, so a resumed run shows the same as one that was not interrupted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from longcat.corpus.shards import Batch, TokenCorpus, TokenRows
from longcat.corpus.tokenizer import open_tokenizer
from longcat.disk import write_text
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.padding import IGNORE, PADDING
from longcat.training.trainer import Trainer


def held_out_batch(rows: TokenRows, sequences: int, rank: int, world: int) -> Batch:
    """Take this process' part of the first `sequences` held-out rows.

    Every process gets equally many, since they compute together; where rows are missing, padding takes their place.
    """
    count = min(sequences, len(rows))
    batch = rows.take(np.arange(rank, count, world))
    missing = -(-count // world) - len(batch.tokens)
    if missing == 0:
        return batch
    width = rows.take(np.arange(1)).tokens.shape[1]
    padding = Batch(
        tokens=np.zeros((missing, width), np.int64),
        targets=np.full((missing, width), IGNORE, np.int64),
        documents=np.full((missing, width), PADDING, np.int64),
    )
    joined = zip(vars(batch).values(), vars(padding).values(), strict=True)
    return Batch(*(np.concatenate(parts) for parts in joined))


def write_sample(trainer: Trainer, corpus: TokenCorpus, directory: Path, step: int) -> None:
    """Let the model continue `training.sample_prompt` and write prompt and text to `samples/STEP.txt`. Collective.

    Nothing is written where `training.sample_tokens` is 0 or the prompt fills the model's positions.
    """
    training = trainer.config.training
    tokenizer = open_tokenizer(corpus.tokenizer_path)
    prompt = tokenizer.encode(training.sample_prompt, add_special_tokens=False).ids or [corpus.end_of_text]
    count = min(training.sample_tokens, trainer.config.model.max_position_embeddings - len(prompt))
    if count < 1:
        return
    tokens = trainer.sample(prompt, count)
    if trainer.mesh.rank:
        return
    end = tokens.index(corpus.end_of_text) if corpus.end_of_text in tokens else len(tokens)
    path = CheckpointFolder(directory).samples / f"{step:08d}.txt"
    path.parent.mkdir(exist_ok=True)
    write_text(path, training.sample_prompt + tokenizer.decode(tokens[:end]) + "\n")
