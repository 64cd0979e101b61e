"""Comparison of preprocessing with common alternatives on the same text: `python benchmarks/preprocess.py --megabytes 50`.

Three parts, of which `--parts` chooses some; contenders take turns in every round, figures are medians:

tokenise   tokens packed into sequences: longcat against `datasets.map` with the same tokenizer (batched, then joined and cut)
duplicates near-duplicates by MinHash, 16 bands of 8 rows over shingles of 5 words: longcat against rensa and datasketch
stage      read, Gopher's rules, MinHash, tokenise, write: longcat against datatrove's blocks for the same, one process each

The text is made up from a seed: English-like prose in documents of about 3 kB, a tenth of which are copies with some words
changed. The comparisons need `pip install datasets rensa datasketch "datatrove[io,processing]" spacy`; what is missing is
reported and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from longcat.artifact import Workspace
from longcat.config import CorpusConfig, NearDuplicateConfig, load_config
from longcat.corpus.mapping import processes
from longcat.corpus.near_duplicates import near_duplicates, shingles, signatures
from longcat.corpus.normal_form import normal_form
from longcat.corpus.packing import pack, split_documents
from longcat.corpus.stage import preprocess
from longcat.corpus.tokenizer import encode, single_threaded, train_tokenizer

LENGTH, VOCABULARY, WORDS = 2048, 8000, 5
MINHASH = NearDuplicateConfig(threshold=0.8, shingle_words=WORDS, bands=16, rows=8)
STOP_WORDS = ("the", "of", "and", "to", "that", "have", "with", "be")
DATASKETCH_DIVISOR = 10
Contender = Callable[[], dict[str, float]]
"""Function that does the work once and returns figures that show that the work was the same."""


def prose(megabytes: float, seed: int = 0) -> list[str]:
    """Make English-like documents; every tenth is an earlier one with a few words changed."""
    rng = np.random.default_rng(seed)
    syllables = [
        "ka",
        "to",
        "mi",
        "ren",
        "sol",
        "ve",
        "dra",
        "lin",
        "por",
        "esh",
        "um",
        "qui",
        "bel",
        "ta",
        "no",
        "gra",
        "fin",
        "os",
        "ul",
        "ster",
    ]
    made = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(30_000)]
    vocabulary = np.array([*STOP_WORDS, *made], object)
    frequency = 1 / np.arange(1, len(vocabulary) + 1) ** 0.9
    upto = np.cumsum(frequency / frequency.sum())
    documents: list[str] = []
    size = 0
    while size < megabytes * 1e6:
        if len(documents) % 10 == 9:
            words = documents[int(rng.integers(len(documents)))].split(" ")
            for place in rng.integers(0, len(words), max(1, len(words) // 100)):
                words[place] = "changed"
            text = " ".join(words)
        else:
            text = _document(vocabulary, upto, max(60, int(rng.lognormal(6, 0.8))), rng)
        documents.append(text)
        size += len(text)
    return documents


def _document(vocabulary: np.ndarray, upto: np.ndarray, count: int, rng: np.random.Generator) -> str:
    words = vocabulary[np.searchsorted(upto, rng.random(count)).clip(max=len(vocabulary) - 1)]
    sentences, place = [], 0
    while place < count:
        length = int(rng.integers(6, 20))
        end = ".\n\n" if rng.random() < 0.15 else "."
        sentences.append(" ".join(words[place : place + length]).capitalize() + end)
        place += length
    return " ".join(sentences)


# ---------------------------------------------------------------------------------------------------- contenders


def tokenise(documents: list[str], folder: Path) -> dict[str, Contender]:
    """Tokenise and pack, in one process each."""
    tokenizer = train_tokenizer(documents[: len(documents) // 5], VOCABULARY)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))

    def run_longcat() -> dict[str, float]:
        with single_threaded():
            tokens = [
                part
                for begin in range(0, len(documents), 300)
                for part in encode(tokenizer, documents[begin : begin + 300], end=2)
            ]
            lengths = np.array([len(part) for part in tokens])
            packed = pack(split_documents(np.arange(len(tokens)), lengths, LENGTH + 1), LENGTH + 1, 0.005)
            rows = np.full((packed.rows, LENGTH + 1), 2, np.uint16)
            places = zip(packed.row, packed.column, *packed.segments.arrays, strict=True)
            for row, column, document, offset, length in places:
                rows[row, column : column + length] = tokens[document][offset : offset + length]
            np.save(folder / "longcat.npy", rows)
        return {"tokens": int(lengths.sum()), "sequences": packed.rows}

    contenders: dict[str, Contender] = {"longcat": run_longcat}
    if _installed("datasets", "transformers"):
        contenders["datasets.map"] = lambda: _datasets_map(documents, path, folder)
    return contenders


def _datasets_map(documents: list[str], tokenizer_path: Path, folder: Path) -> dict[str, float]:
    import datasets
    from transformers import PreTrainedTokenizerFast

    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_path))

    def tokens_of(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [[*ids, 2] for ids in tokenizer(batch["text"], add_special_tokens=False)["input_ids"]]}

    def joined(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        stream = [token for ids in batch["ids"] for token in ids]
        whole = len(stream) // LENGTH * LENGTH
        return {"ids": [stream[begin : begin + LENGTH] for begin in range(0, whole, LENGTH)]}

    scratch = tempfile.mkdtemp(dir=folder)
    with single_threaded():
        data = datasets.Dataset.from_dict({"text": documents})
        data = data.map(tokens_of, batched=True, remove_columns=["text"], cache_file_name=f"{scratch}/a.arrow")
        data = data.map(joined, batched=True, cache_file_name=f"{scratch}/b.arrow")
    return {"sequences": len(data)}


def duplicates(documents: list[str], folder: Path) -> dict[str, Contender]:
    """Find near-duplicates, in one process each."""

    def run_longcat() -> dict[str, float]:
        signed = [
            signatures([shingles(normal_form(text), MINHASH) for text in documents[begin : begin + 512]], MINHASH)
            for begin in range(0, len(documents), 512)
        ]
        return {"found": int(near_duplicates(np.concatenate(signed), MINHASH).sum())}

    contenders: dict[str, Contender] = {"longcat": run_longcat}
    if _installed("rensa"):
        contenders["rensa"] = lambda: _rensa(documents)
    if _installed("datasketch"):
        contenders[f"datasketch, 1/{DATASKETCH_DIVISOR} of the text"] = lambda: _datasketch(documents)
    return contenders


def _shingle_texts(text: str) -> list[str]:
    words = text.lower().split()
    return [" ".join(words[place : place + WORDS]) for place in range(max(1, len(words) - WORDS + 1))]


def _rensa(documents: list[str]) -> dict[str, float]:
    from rensa import RMinHash, RMinHashDeduplicator

    known = RMinHashDeduplicator(MINHASH.threshold, 128, True, MINHASH.bands, 42)
    found = 0
    for begin in range(0, len(documents), 512):
        part = RMinHash.from_token_sets([_shingle_texts(text) for text in documents[begin : begin + 512]], 128, 42)
        found += sum(not known.add(str(begin + place), signature) for place, signature in enumerate(part))
    return {"found": found}


def _datasketch(documents: list[str]) -> dict[str, float]:
    from datasketch import MinHash, MinHashLSH

    known = MinHashLSH(num_perm=128, params=(MINHASH.bands, MINHASH.rows))
    found = 0
    for place, text in enumerate(documents[: len(documents) // DATASKETCH_DIVISOR]):
        signature = MinHash(num_perm=128)
        signature.update_batch([shingle.encode() for shingle in _shingle_texts(text)])
        if known.query(signature):
            found += 1
        else:
            known.insert(str(place), signature)
    return {"found": found, "divisor": DATASKETCH_DIVISOR}


def stage(documents: list[str], folder: Path) -> dict[str, Contender]:
    """Turn a .jsonl file into tokens on disk, in one process each."""
    source, path = folder / "corpus.jsonl", folder / "tokenizer.json"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    if not path.exists():
        train_tokenizer(documents[: len(documents) // 5], VOCABULARY).save(str(path))
    config = load_config(
        "tiny",
        overrides=[
            f"corpus.sources={source}",
            f"corpus.tokenizer={path}",
            f"corpus.vocabulary_size={VOCABULARY}",
            "corpus.filters=[gopher]",
            "corpus.near_duplicates={}",
            f"corpus.sequence_length_tokens={LENGTH}",
            "corpus.workers=1",
        ],
    )

    def run_longcat() -> dict[str, float]:
        scratch = Path(tempfile.mkdtemp(dir=folder))
        with processes(1) as mapper:
            tokens = preprocess(config, workspace=Workspace(scratch), mapper=mapper)
        return {"documents": tokens.facts.documents, "tokens": tokens.facts.tokens}

    contenders: dict[str, Contender] = {"longcat": run_longcat}
    if _installed("datatrove", "spacy"):
        contenders["datatrove"] = lambda: _datatrove(source, path, config.corpus, folder)
    return contenders


def _datatrove(source: Path, tokenizer: Path, corpus: CorpusConfig, folder: Path) -> dict[str, float]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig
    from loguru import logger

    logger.remove()
    scratch = tempfile.mkdtemp(dir=folder)
    minhash = MinhashConfig(
        hash_config=HashConfig(precision=64), num_buckets=MINHASH.bands, hashes_per_bucket=MINHASH.rows, n_grams=WORDS
    )
    clean = JsonlReader(f"{scratch}/clean", compression=None)
    steps = [
        [
            JsonlReader(str(source.parent), glob_pattern=source.name, compression=None),
            GopherQualityFilter(),
            GopherRepetitionFilter(),
            JsonlWriter(f"{scratch}/clean", compression=None),
        ],
        [clean, MinhashDedupSignature(f"{scratch}/signatures", config=minhash)],
        [MinhashDedupBuckets(f"{scratch}/signatures", f"{scratch}/buckets", config=minhash)],
        [MinhashDedupCluster(f"{scratch}/buckets", f"{scratch}/remove", config=minhash)],
        [
            clean,
            MinhashDedupFilter(f"{scratch}/remove"),
            DocumentTokenizer(
                f"{scratch}/tokens", tokenizer_name_or_path=str(tokenizer), eos_token="</longcat_s>", shuffle_documents=False
            ),
        ],
    ]  # fmt: skip
    for number, step in enumerate(steps):
        tasks = MINHASH.bands if number == 2 else 1
        LocalPipelineExecutor(step, tasks=tasks, workers=1, logging_dir=f"{scratch}/logs/{number}").run()
    sizes = [path.stat().st_size for path in Path(scratch, "tokens").glob("*.ds")]
    indices = [path.stat().st_size // 8 for path in Path(scratch, "tokens").glob("*.index")]
    return {"documents": sum(indices), "tokens": sum(sizes) // 2}


# ---------------------------------------------------------------------------------------------------- measuring

PARTS = {"tokenise": tokenise, "duplicates": duplicates, "stage": stage}


def _installed(*packages: str) -> bool:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        print(f"  left out, not installed: {', '.join(missing)}")
    return not missing


def rounds(contenders: dict[str, Contender], count: int) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Yield name, seconds and result, contender after contender, round after round."""
    for _ in range(count):
        for name, work in contenders.items():
            began = time.perf_counter()
            result = work()
            yield name, time.perf_counter() - began, result


def main() -> None:
    """Time the parts and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    documents = prose(options.megabytes)
    size = sum(map(len, documents)) / 1e6
    print(f"{len(documents):,} documents, {size:.1f} MB, {options.rounds} rounds")
    for part in options.parts:
        print(f"{part}:")
        folder = Path(tempfile.mkdtemp(prefix="longcat-benchmark-"))
        try:
            seconds: dict[str, list[float]] = {}
            results: dict[str, dict[str, float]] = {}
            for name, took, result in rounds(PARTS[part](documents, folder), options.rounds):
                seconds.setdefault(name, []).append(took * result.get("divisor", 1))
                results[name] = result
            longcat_seconds = statistics.median(seconds["longcat"])
            for name, times in seconds.items():
                median = statistics.median(times)
                outcome = ", ".join(
                    f"{value:,.0f} {key}" for key, value in results[name].items() if value and key != "divisor"
                )
                print(
                    f"  {name:30} {median:7.2f} s  {size / median:6.2f} MB/s  {median / longcat_seconds:5.2f} x longcat  ({outcome})"
                )
                sys.stdout.flush()
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
