"""Picture of a run's life: its steps over time, what was lost, and what happened."""

from __future__ import annotations

from pathlib import Path

from longcat.training.availability import life_of
from longcat.training.life import KINDS, read_events
from longcat.training.metrics import Records

_COLOURS = {
    "start": "#2a6f97",
    "restart": "#2a6f97",
    "save": "#52796f",
    "layout": "#52796f",
    "node back": "#52796f",
    "end": "#2a6f97",
    "stop": "#6c757d",
    "skip": "#e09f3e",
    "spike": "#e09f3e",
    "straggler": "#e09f3e",
    "fallback": "#e09f3e",
}
_BAD = "#b02a30"
_UNITS = ((86400 * 2, 86400, "days"), (7200, 3600, "hours"), (300, 60, "minutes"), (0, 1, "seconds"))
"""Unit of time for lives that are at least so many seconds long."""


def plot_life(directory: Path, records: Records, output: Path) -> None:
    """Draw the life of the run whose events are in a directory; nothing is drawn if it has none.

    Args:
        directory: of the artifact.
        records: of metrics.jsonl.
        output: PNG file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    events = read_events(directory)
    if (life := life_of(events, records)) is None:
        return
    own = [record for record in records if record["time"] >= life.begin]
    _, unit, name = next(of for of in _UNITS if life.end - life.begin >= of[0])

    def at(time: float) -> float:
        return (time - life.begin) / unit

    kinds = [kind for kind in KINDS if life.counts.get(kind)]
    figure, (steps, lanes) = pyplot.subplots(
        2,
        1,
        sharex=True,
        figsize=(9, 3.2 + 0.24 * len(kinds)),
        layout="constrained",
        height_ratios=(2.4, 0.24 * len(kinds) + 0.3),
    )
    steps.step(
        [at(record["time"]) for record in own],
        [record["step"] for record in own],
        where="post",
        color="black",
        linewidth=1.2,
    )
    steps.set_ylabel("step")
    steps.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    shades = {"lost": "#f2c4c4", "paused": "#dcdcdc"}
    for axes in (steps, lanes):
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)
        for interval in life.intervals:
            axes.axvspan(at(interval.begin), at(interval.end), color=shades[interval.kind], linewidth=0, zorder=0.5)
    shown = [kind for kind in shades if any(interval.kind == kind for interval in life.intervals)]
    if shown:
        words = {"lost": "nothing that counts", "paused": "stopped on request"}
        steps.legend(
            handles=[Patch(color=shades[kind], label=words[kind]) for kind in shown], fontsize=8, loc="upper left"
        )
    for lane, kind in enumerate(kinds):
        times = [at(event["time"]) for event in events if event["kind"] == kind]
        lanes.plot(times, [lane] * len(times), "|", color=_COLOURS.get(kind, _BAD), markersize=9, markeredgewidth=1.6)
    lanes.set_yticks(range(len(kinds)), [f"{kind} ({life.counts[kind]})" for kind in kinds], fontsize=8)
    lanes.set_ylim(len(kinds) - 0.4, -0.6)
    lanes.tick_params(axis="y", length=0)
    lanes.set_xlabel(f"{name} since the first start")
    figure.suptitle(
        f"{life.availability_percent:.2f} % available: {life.lost_seconds / unit:.3g} of {life.seconds / unit:.3g} {name} lost",
        fontsize=10,
    )
    figure.savefig(output, dpi=110)
    pyplot.close(figure)
