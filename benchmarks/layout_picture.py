"""The picture of a layout: which rank holds what.

    python benchmarks/layout_picture.py FILE [--preset small] [--set parallel.pipeline=2 ...] [--narrow]

Settles the layout as `longcat pretrain` does, for `training.processes` ranks, and draws it as the benchmark's report does.
Nothing is trained, and the ranks need not exist.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from longcat.benchmark.holdings import whole_of
from longcat.benchmark.layout_plot import layout
from longcat.config import load_config
from longcat.figures import png
from longcat.parallel.asked import wish_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--narrow", action="store_true", help="draw the form for a telephone")
    arguments = parser.parse_args()
    config = load_config(arguments.preset, None, arguments.settings)
    model, training, parallel = config.model, config.training, config.parallel
    rows, tokens = training.global_batch_sequences, config.corpus.sequence_length_tokens
    degrees = wish_of(config, training.processes or 1).settle()
    spread = parallel.spreads_tables(degrees.stage, training.optimizer.lazy_ngram_moments)
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    arguments.file.write_bytes(png(layout(degrees, whole_of(model, rows, tokens, spread), narrow=arguments.narrow)))
    print(f"{arguments.file}: {degrees.by_axis}")


if __name__ == "__main__":
    main()
