"""Scores of a checkpoint in the questions about local services, as a table and as bars against chance.

    longcat run --preset tiny-services
    python benchmarks/local_services.py workspace/evaluation/DIGEST docs/images/local-services.png

An interval holds the true share of right answers with 95 %. A score is clear if it is above chance by 3 standard errors, which 18 scores of a
model that guesses would reach in one of 40 runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

CHANCE = 0.25
CLEAR = 3.0
"""Standard errors above chance."""
_Z = 1.96


def read(artifact: Path) -> dict[tuple[str, str], tuple[float, float, int]]:
    """Return accuracy, standard error and number of items by task and language."""
    scores = json.loads((artifact / "manifest.json").read_text("utf-8"))["facts"]["scores"]
    found = {}
    for name, figures in scores.items():
        task, _, language = name.removeprefix("local_services_").removesuffix("_choice").rpartition("_")
        if name.endswith("_choice") and task and "acc_stderr" in figures:
            found[task, language] = (figures["acc"], figures["acc_stderr"], int(figures["documents"]))
    return found


def main(artifact: Path, picture: Path) -> None:
    """Print the table and draw the picture."""
    scores = read(artifact)
    tasks = list(dict.fromkeys(task for task, _ in scores))
    print("| task | 中文 | English |\n|---|---:|---:|")
    for task in tasks:
        cells = []
        for language in ("zh", "en"):
            acc, error, _ = scores[task, language]
            shown = f"{100 * acc:.1f} ± {100 * _Z * error:.1f}"
            cells.append(f"**{shown}**" if acc - CLEAR * error > CHANCE else shown)
        print(f"| `{task}` | {' | '.join(cells)} |")

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.2), layout="constrained")
    for shift, language, colour in ((-0.2, "zh", "#d9480f"), (0.2, "en", "#2f6fde")):
        own = [scores[task, language] for task in tasks]
        axes.bar(
            [place + shift for place in range(len(tasks))],
            [100 * acc for acc, _, _ in own],
            0.38,
            yerr=[100 * _Z * error for _, error, _ in own],
            capsize=2,
            color=colour,
            label={"zh": "Chinese", "en": "English"}[language],
        )
    axes.axhline(100 * CHANCE, color="black", linestyle="--", linewidth=1, label="chance")
    axes.set_xticks(range(len(tasks)), [task.replace("_", "\n") for task in tasks], fontsize=8)
    axes.set_ylabel("right answers, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
