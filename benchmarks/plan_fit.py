"""Fit the efficiencies of a generation on the rows that are named for it, and print them as columns of efficiency.csv.

`python benchmarks/plan_fit.py b200` or `python benchmarks/plan_fit.py a100 --rows FOLDER`. Every number is fitted in its logarithm,
by the logarithm of predicted over measured step time with a loss that outliers do not rule, and is held weakly to where it began.
`--without MODEL` leaves a model out of all rows, and says how well it is met.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import plan_rows
from plan_rows import Row
from plan_validation import Held, times
from scipy.optimize import least_squares

from longcat.errors import UserError
from longcat.plan.device import Device, find_device
from longcat.plan.judge import judge, setting
from longcat.plan.stacks import Kernels, all_kernels, stacks
from longcat.plan.step_time import step_time

NUMBERS = {
    "b200": ("products", "half_size", "grouped", "attention", "memory", "inside", "message_s", "micro_batch_s", "step_s"),
    "a100": (
        "products", "half_size", "attention", "attention_older", "memory", "inside", "between", "message_s", "micro_batch_s",
        "step_s", "norm_passes of flash2, flash1, fused, torch", "score_passes of fused", "score_passes of torch",
    ),
}  # fmt: skip
"""What is fitted: columns of efficiency.csv, and of kernels.csv by the names of kernels."""
MOST = {
    "products": 0.95,
    "attention": 0.75,
    "attention_older": 0.6,
    "memory": 0.9,
    "inside": 0.95,
    "between": 1.0,
    "grouped": 1.0,
}
_PRIOR = {"b200": 0.1, "a100": 0.03}
_OUTLIER = 0.08


def changed(device: Device, names: Sequence[str], values: Sequence[float]) -> tuple[Device, dict[str, Kernels]]:
    numbers, kernels = {}, dict(all_kernels())
    for name, value in zip(names, values, strict=True):
        column, _, of = name.partition(" of ")
        for one in of.split(", ") if of else []:
            kernels[one] = replace(kernels[one], **{column: float(value)})
        if not of:
            numbers[name] = float(value)
    return replace(device, efficiency=replace(device.efficiency, **numbers)), kernels


def seconds(row: Row, device: Device, kernels: dict[str, Kernels]) -> float:
    stack = replace(stacks()[device.efficiency.stack], tokens_divided=row.tokens_divided)
    return step_time(row.model, row.layout, device, stack, kernels[row.kernels]).seconds


def fit(name: str, rows: Sequence[Row], device: Device) -> dict[str, float]:
    names = NUMBERS[name]
    kernels = all_kernels()
    began = [
        getattr(kernels[one.split(" of ")[1].split(", ")[0]], one.split(" of ")[0])
        if " of " in one
        else getattr(device.efficiency, one)
        for one in names
    ]
    start = np.log(began)
    bounds = np.log([MOST.get(one, 1e9) for one in names])

    def left(logs: np.ndarray) -> np.ndarray:
        kind, found = changed(device, names, np.exp(logs))
        errors = [math.log(seconds(row, kind, found) / (row.seconds or 1.0)) for row in rows]
        return np.concatenate([errors, _PRIOR[name] * (logs - start)])

    found = least_squares(
        left, np.minimum(start, bounds - 1e-3), loss="soft_l1", f_scale=_OUTLIER, bounds=(-np.inf, bounds), diff_step=1e-3,
        max_nfev=25,
    )  # fmt: skip
    return dict(zip(names, map(float, np.exp(found.x)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", choices=sorted(NUMBERS))
    parser.add_argument("--rows", type=Path, help="folder with the tables of the A100 sweep, as CSV")
    parser.add_argument("--without", metavar="MODEL", help="fit on all rows but those of a model")
    options = parser.parse_args()
    if options.name == "a100" and options.rows is None:
        parser.error("a100 needs --rows")
    try:
        rows = plan_rows.b200_rows() if options.name == "b200" else plan_rows.a100_rows(options.rows)
    except UserError as error:
        parser.error(str(error))
    rows = [row for row in rows if row.seconds]
    device = find_device("b200" if options.name == "b200" else "a100-80gb")
    used = [row for row in rows if (row.model.name != options.without if options.without else row.fitted)]
    found = fit(options.name, used, device)
    for name, value in found.items():
        print(f"{name:<45}{value:.3g}")
    kind, kernels = changed(device, list(found), list(found.values()))
    for label, some in (("fitted", used), ("the others", [row for row in rows if row not in used])):
        if some:
            judged = [_held(row, kind, kernels) for row in some]
            shown = {name: round(value, 3) for name, value in times(judged).items() if name != "covered"}
            print(f"{label}: {shown}")


def _held(row: Row, device: Device, kernels: dict[str, Kernels]) -> Held:
    judged = judge(setting(row.model, device, kernels=row.kernels), row.layout)
    stack = replace(stacks()[device.efficiency.stack], tokens_divided=row.tokens_divided)
    return Held(row, replace(judged, step=step_time(row.model, row.layout, device, stack, kernels[row.kernels])))


if __name__ == "__main__":
    main()
