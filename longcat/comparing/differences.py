"""What two sides differ in, as JSON values."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from longcat.artifact import open_artifact, read_manifest
from longcat.comparing.sides import Side
from longcat.costs.hardware import find_hardware
from longcat.errors import ArtifactError, ConfigError, DataError
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.inventory.removal import short
from longcat.training.metrics import Records, read_metrics

if TYPE_CHECKING:
    from longcat.benchmark.stage import BenchmarkFacts

CURVES = {
    "train/loss": "loss",
    "held_out/loss": "held-out loss",
    "train/gradient_norm": "gradient norm",
    "train/learning_rate": "learning rate",
    "perf/tokens_per_second": "tokens per second",
    "perf/mfu": "MFU",
}
"""Curves that are shown, by their names in metrics.jsonl."""
POINTS = 400
"""Most points of a curve; of longer ones as many evenly spaced records, the last one among them."""
_MFU_OF_TRAINING, _MFU_OF_BENCHMARK = "MFU while training", "MFU in the benchmark"
_NO_SETTINGS = ("documents", "state", "run")
"""Parts of an identity that name other results."""


def differences(first: Side, second: Side) -> dict[str, Any]:
    """Compare two sides.

    Returns:
        `first` and `second` (label, workspace, results); `settings` and `surroundings` that differ; `curves` over the tokens
        trained on; `same_until_step` (None if not even the first was) and `last_common_step`; `figures`, `scores` and `cost` of both; `bytes` by kind; and `notes` on what could
        not be compared.

    Raises:
        DataError: records of a training or of an evaluation are unreadable.
    """
    notes = [
        f"the manifest of {short(one.name)} is unreadable ({one.problem}), so that nothing in it is compared"
        for side in (first, second)
        for one in side.results.values()
        if one.problem is not None
    ]
    records = [_records(side) for side in (first, second)]
    rows = _scores(first, second, notes)
    unlike_peaks = _unlike_peaks(first, second, notes)
    curves = _curves(*records)
    if _MFU_OF_TRAINING in unlike_peaks:
        curves.pop("perf/mfu", None)
    return {
        "first": _described(first),
        "second": _described(second),
        "settings": _settings(first, second),
        "surroundings": _surroundings(first, second),
        "curves": curves,
        **same_until(*records),
        "figures": _figures(first, second, unlike_peaks),
        "scores": rows,
        "cost": _cost(first, second),
        "bytes": _bytes(first, second),
        "notes": notes,
    }


def _described(side: Side) -> dict[str, Any]:
    results = {
        kind: {
            "digest": one.digest,
            "path": str(one.path),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(one.created)),
            "headline": one.headline,
            "half_made": one.half_made,
        }
        for kind, one in side.results.items()
    }
    return {"label": side.label, "workspace": str(side.workspace), "results": results}


# ---------------------------------------------------------------------------------------------------- settings


def _settings(first: Side, second: Side) -> list[dict[str, Any]]:
    """Return the settings that differ: those of the configurations of two runs, and else those that results depend on."""
    found: dict[str, dict[str, Any]] = {}
    if first.settings and second.settings:
        configurations = [flat({name: _value(of) for name, of in side.settings.items()}) for side in (first, second)]
        for name, (one, other) in unlike(*configurations):
            found[name] = {"of": "configuration", "setting": name, "first": one, "second": other}
    for kind in _both(first, second):
        identities = [flat(side.manifests[kind].get("identity") or {}) for side in (first, second)]
        for name, (one, other) in unlike(*identities):
            known = name in found or f"corpus.{name}" in found
            if not known and name.partition(".")[0] not in (*_NO_SETTINGS, "device"):
                found[f"{kind}: {name}"] = {"of": kind, "setting": name, "first": one, "second": other}
    return list(found.values())


def _surroundings(first: Side, second: Side) -> list[dict[str, Any]]:
    """Return what else differs that results may depend on, code, versions and devices, with the kinds that it differs for."""
    rows: list[tuple[str, str, Any, Any]] = []
    for kind in _both(first, second):
        one, other = first.manifests[kind], second.manifests[kind]
        rows += [(kind, name, one.get(name), other.get(name)) for name in ("longcat", "git_commit", "stage_version")]
        if changed := [name for name, _ in unlike(one.get("source") or {}, other.get("source") or {})]:
            rows.append((kind, "source files", changed, "other versions of them"))
        devices = [(of.get("identity") or {}).get("device") for of in (one, other)]
        rows.append((kind, "device", devices[0], devices[1]))
    trained = [side.facts("checkpoint", CheckpointFacts) for side in (first, second)]
    if trained[0] is not None and trained[1] is not None:
        for name in ("device", "processes", "parallel", "precision"):
            rows.append(("training", name, getattr(trained[0], name), getattr(trained[1], name)))
    found: dict[str, dict[str, Any]] = {}
    for kind, what, own, others in rows:
        if own != others:
            row: dict[str, Any] = {"of": [], "what": what, "first": own, "second": others}
            found.setdefault(json.dumps([what, own, others]), row)["of"].append(kind)
    return list(found.values())


def _both(first: Side, second: Side) -> list[str]:
    """Return the kinds that both have a result of, which are not the very same one."""
    both = [kind for kind in first.manifests if kind in second.manifests]
    return [kind for kind in both if first.results[kind].digest != second.results[kind].digest]


def unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the names whose values differ, with both."""
    for name in sorted(first.keys() | second.keys()):
        if first.get(name) != second.get(name):
            yield name, (first.get(name), second.get(name))


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested objects and lists by dotted names, items of lists by their number."""
    if isinstance(tree, Mapping) or (isinstance(tree, list) and any(isinstance(one, dict) for one in tree)):
        items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        return {key: value for name, of in items for key, value in flat(of, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): tree}


def _value(written: str) -> Any:
    """Return a value of a configuration as it was before tracking made text of it."""
    try:
        return json.loads(written)
    except ValueError:
        return written


# ---------------------------------------------------------------------------------------------------- curves


def _records(side: Side) -> Records:
    one = side.results.get("checkpoint")
    if one is None:
        return []
    path = CheckpointFolder(one.path).metrics
    try:
        return read_metrics(path)
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"cannot read {path}: {error}") from None


def _curves(first: Records, second: Records) -> dict[str, dict[str, list[list[float]]]]:
    """Return pairs of tokens trained on and value of both, by the name of the curve, for those that one has two points of."""
    found = {}
    for name in CURVES:
        both = {which: _points(records, name) for which, records in (("first", first), ("second", second))}
        if max(map(len, both.values())) > 1:
            found[name] = both
    return found


def _points(records: Records, name: str) -> list[list[float]]:
    points = [
        [float(one["train/tokens" if "train/tokens" in one else "step"]), float(one[name])]
        for one in records
        if name in one and math.isfinite(one[name])
    ]
    if len(points) <= POINTS:
        return points
    return [points[round(place * (len(points) - 1) / (POINTS - 1))] for place in range(POINTS)]


def same_until(first: Records, second: Records) -> dict[str, int | None]:
    """Return the last step until which both had the same losses to the last bit, and the last one that both have done."""
    losses = [
        {int(one["step"]): (one.get("train/loss"), one.get("train/tokens")) for one in of} for of in (first, second)
    ]
    common = sorted(losses[0].keys() & losses[1].keys())
    same = None
    for step in common:
        if repr(losses[0][step]) != repr(losses[1][step]):
            break
        same = step
    return {"same_until_step": same, "last_common_step": common[-1] if common else None}


# ---------------------------------------------------------------------------------------------------- figures


def _figures(first: Side, second: Side, unlike_peaks: Collection[str]) -> list[dict[str, Any]]:
    """Return the figures of training and of the benchmark that at least one has, with second minus first.

    Args:
        first: a side.
        second: the other one.
        unlike_peaks: names of utilisations without a difference.
    """
    columns = [_figures_of(side) for side in (first, second)]
    rows = []
    for name in columns[0] | columns[1]:
        values = [column.get(name) for column in columns]
        if values != [None, None]:
            one, other = values
            comparable = name not in unlike_peaks
            rows.append(
                {
                    "name": name,
                    "first": one,
                    "second": other,
                    "difference": other - one if comparable and one is not None and other is not None else None,
                    "ratio": other / one if comparable and one and other is not None else None,
                }
            )
    return rows


def _unlike_peaks(first: Side, second: Side, notes: list[str]) -> set[str]:
    """Return the utilisations of one device that are of different peaks, as measured on a CPU, and note them.

    Utilisations of different devices, or types to compute in, are of different peaks by their nature.
    """
    found = set()
    one, other = (_peaks(side) for side in (first, second))
    for name in one.keys() & other.keys():
        (device, peak), (other_device, other_peak) = one[name], other[name]
        if device == other_device and peak != other_peak:
            found.add(name)
            peaks = " and ".join("one that is not recorded" if of is None else _tera(of) for of in (peak, other_peak))
            notes.append(
                f"{name} is not compared, as it is not of the same peak, but of {peaks}, on the same {device[0]}: compare "
                "tokens per second"
            )
    return found


def _peaks(side: Side) -> dict[str, tuple[tuple[str, str | None], float | None]]:
    """Return what each utilisation is of, by its name: device and type, and the peak of one device, or of a whole CPU."""
    trained, measured = side.facts("checkpoint", CheckpointFacts), _benchmark(side)
    found: dict[str, tuple[tuple[str, str | None], float | None]] = {}
    if trained is not None and trained.mfu is not None and trained.device is not None:
        peak = _peak(trained.device, trained.peak_flops, trained.processes)
        found[_MFU_OF_TRAINING] = (trained.device, trained.precision), peak
    if measured is not None and measured.mfu is not None:
        peak = _peak(measured.device_name, measured.peak_flops, measured.processes)
        found[_MFU_OF_BENCHMARK] = (measured.device_name, measured.precision), peak
    return found


def _peak(device: str, peak_flops: float | None, processes: int) -> float | None:
    """Return the peak of one device; that of a CPU, which is in no table, is the whole machine's."""
    return peak_flops if peak_flops is None or find_hardware(device) is None else peak_flops / processes


def _tera(flops: float) -> str:
    return f"{flops / 1e12:.3g} TFLOP/s"


def _figures_of(side: Side) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    trained = side.facts("checkpoint", CheckpointFacts)
    if trained is not None:
        found = {
            "parameters": trained.parameters,
            "steps": trained.steps,
            "tokens trained on": trained.tokens,
            "final loss": trained.final_loss,
            "held-out loss": trained.held_out_loss,
            "tokens per second while training": trained.tokens_per_second,
            _MFU_OF_TRAINING: trained.mfu,
        }
    if (measured := _benchmark(side)) is not None:
        found |= {
            _MFU_OF_BENCHMARK: measured.mfu,
            "tokens per second in the benchmark": measured.tokens_per_second,
            "TFLOP/s per device": measured.tflops_per_device,
            "peak memory, GB": measured.peak_memory_bytes / 1e9,
        }
    return found


def _benchmark(side: Side) -> BenchmarkFacts | None:
    if "benchmark" not in side.manifests:
        return None
    from longcat.benchmark.stage import BenchmarkFacts

    return side.facts("benchmark", BenchmarkFacts)


def _cost(first: Side, second: Side) -> list[dict[str, Any]]:
    """Return what training has cost in device seconds, and what making each result took in seconds."""
    training = [_device_seconds(side) for side in (first, second)]
    rows = []
    if training != [None, None]:
        rows.append({"what": "training, device seconds", "first": training[0], "second": training[1]})
    for kind in first.manifests | second.manifests:
        values = [side.manifests[kind].get("seconds") if kind in side.manifests else None for side in (first, second)]
        if values != [None, None]:
            rows.append({"what": f"{kind}, seconds", "first": values[0], "second": values[1]})
    return rows


def _device_seconds(side: Side) -> float | None:
    """Return the seconds that a training took times its processes, with those of the trainings that it goes on from."""
    if (own := side.facts("checkpoint", CheckpointFacts)) is None or own.imported_from is not None:
        return None
    total = own.seconds_training * own.processes
    for one in side.earlier:
        try:
            facts = read_manifest(one.path, CheckpointFacts).facts
        except ArtifactError:
            continue
        total += facts.seconds_training * facts.processes
    return round(total, 1)


# ---------------------------------------------------------------------------------------------------- scores


def _scores(first: Side, second: Side, notes: list[str]) -> list[dict[str, Any]]:
    """Compare the answers to the items that both were asked, if both have been scored."""
    sides = (first, second)
    unscored = [side.label for side in sides if "evaluation" not in side.manifests]
    if unscored:
        if len(unscored) < 2 or any("checkpoint" in side.results for side in sides):
            notes.append(f"no scores of {' and '.join(unscored)}; longcat evaluate --checkpoint DIGEST makes some")
        return []
    if first.results["evaluation"].digest == second.results["evaluation"].digest:
        notes.append("both have the same scores")
        return []
    from longcat.evaluation.comparison import compare_items
    from longcat.evaluation.stage import EvaluationFacts

    try:
        both = [open_artifact(side.results["evaluation"].path, EvaluationFacts) for side in sides]
        rows, left_out = compare_items(both[0], both[1], first.workspace)
    except (ConfigError, ArtifactError) as error:
        notes.append(f"scores: {error}")
        return []
    notes += left_out
    return [
        {
            "score": row.name,
            "first": row.first,
            "second": row.second,
            "difference": row.second - row.first,
            "effect": row.effect,
            "verdict": row.verdict,
            "lower_is_better": row.lower_is_better,
        }
        for row in rows
    ]


# ---------------------------------------------------------------------------------------------------- bytes


def _bytes(first: Side, second: Side) -> list[dict[str, Any]]:
    """Return, by kind, which files are the same to the last byte, as the manifests have their hashes."""
    rows = []
    for kind in [kind for kind in first.manifests if kind in second.manifests]:
        row = {"kind": kind, "same_digest": first.results[kind].digest == second.results[kind].digest}
        rows.append(row | same_files(*(side.manifests[kind].get("files") or {} for side in (first, second))))
    return rows


def same_files(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the files of two results by the hashes that their manifests have.

    Returns:
        Names of files: `same` (and their `same_bytes`), `differ`, `only_first` and `only_second`.
    """
    same = [name for name in one if name in other and one[name]["sha256"] == other[name]["sha256"]]
    return {
        "same": same,
        "same_bytes": sum(int(one[name]["bytes"]) for name in same),
        "differ": [name for name in one if name in other and name not in set(same)],
        "only_first": [name for name in one if name not in other],
        "only_second": [name for name in other if name not in one],
    }
