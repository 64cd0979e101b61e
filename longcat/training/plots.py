"""Picture of a training run: the load of every expert over the steps."""

from __future__ import annotations

from pathlib import Path

from longcat.training.metrics import read_metrics

MOST_LAYERS = 8
"""Layers in one picture; of more, as many evenly spaced ones."""


def plot_expert_load(records: Path, routed: int, output: Path) -> None:
    """Draw each expert's load over the mean of all experts, one panel per layer, steps from left to right.

    Args:
        records: `expert-load.jsonl`, see `longcat.training.worker`; nothing is drawn if it is empty.
        routed: number of routed experts, drawn above the zero-computation experts.
        output: PNG file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot
    from matplotlib.colors import TwoSlopeNorm

    rows = read_metrics(records)
    if not rows:
        return
    slots = np.array([row["slots"] for row in rows], dtype=float)  # [steps, layers, experts]
    relative = slots / np.maximum(slots.mean(2, keepdims=True), 1e-9)
    layers, experts = relative.shape[1:]
    shown = np.unique(np.linspace(0, layers - 1, min(layers, MOST_LAYERS)).round().astype(int))
    columns = 1 if len(shown) == 1 else 2
    lines = -(-len(shown) // columns)
    figure, panels = pyplot.subplots(
        lines, columns, figsize=(3 + 3.5 * columns, 0.8 + 2.2 * lines), squeeze=False, layout="constrained"
    )
    extent = (rows[0]["step"] - 0.5, rows[-1]["step"] + 0.5, experts - 0.5, -0.5)
    for panel in panels.flat[len(shown) :]:
        panel.axis("off")
    for panel, layer in zip(panels.flat, shown, strict=False):
        image = panel.imshow(
            relative[:, layer].T,
            aspect="auto",
            interpolation="nearest",
            cmap="RdBu_r",
            norm=TwoSlopeNorm(1.0, 0.0, 3.0),
            extent=extent,
        )
        if routed < experts:
            panel.axhline(routed - 0.5, color="black", linewidth=0.8)
        panel.set_title(f"layer {layer}", fontsize=9)
        panel.set_ylabel("expert", fontsize=8)
        panel.set_xlabel("step", fontsize=8)
        panel.tick_params(labelsize=7)
    note = "" if routed == experts else " (below the line: zero-computation experts)"
    figure.suptitle(f"load of each expert over the mean{note}", fontsize=9)
    figure.colorbar(image, ax=panels, extend="max", shrink=0.8)
    figure.savefig(output, dpi=110)
    pyplot.close(figure)
