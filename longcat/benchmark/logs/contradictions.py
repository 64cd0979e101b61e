"""Where a log contradicts itself or the command, and where two of its counts of tokens differ."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Mapping, Sequence

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.rates import WARM_UP, Found, known, last, median, per_second, sequences_of
from longcat.benchmark.logs.throughput import LogContext
from longcat.errors import DataError

CONTRADICTION = 0.25
"""Relative gap between two figures of one log from which it contradicts itself."""
SLACK = 0.05
"""Relative gap up to which two counts of a step's tokens are the same."""
_PART, _OTHER_SPEED = 3, 1.5
"""Readings after a start that tell a speed, and how many times another it has to be to be that of another run."""
_NAMED = 4
"""Most numbers that a message names."""


def check_facts(log: Collected, context: LogContext) -> None:
    """Refuse a log that states other numbers than the command; after a restart it states them repeatedly."""
    given = {"devices": context.devices, "sequence length": context.sequence_length}
    for name, unit in (
        ("devices", "devices"),
        ("sequence length", "tokens in a sequence"),
        ("tokens in a step", "tokens in a step"),
    ):
        stated = log.facts.get(name, {})
        expected = given.get(name) or context.batch_tokens
        if len(stated) > 1 or (expected is not None and set(stated) - {expected}):
            numbers = " and ".join(f"{number:,.0f}" for number in sorted(stated)[:_NAMED])
            places = ", ".join(str(line) for line in sorted(stated.values())[:_NAMED])
            reason = "keep the lines of one run" if expected is None else f"not {expected:,.0f}"
            raise DataError(f"{log.where}: the log reports {numbers} {unit}, {reason} (line {places})")


def _counts(context: LogContext) -> tuple[float, ...]:
    """Return the counts of the model's parameters that a log may state: all, and all but the embedding."""
    return tuple(count for count in (context.total_parameters, context.non_embedding_parameters) if count)


def check_parameters(log: Collected, context: LogContext) -> None:
    """Refuse a log that states a model of another size."""
    counts = _counts(context)
    for stated, line in log.facts.get("parameters", {}).items():
        if counts and all(abs(stated / count - 1) > SLACK for count in counts):
            raise DataError(
                f"{log.where}: the log reports a model of {stated:,.0f} parameters, and the given one has {counts[0]:,.0f} "
                f"(line {line})"
            )


RECORDED = {
    "devices": "facts.processes",
    "sequence length": "corpus.sequence_length_tokens",
    "parameters": "facts.parameters",
}
"""Parameters of longcat's own runs in MLflow that tell of a run."""


def check_recorded(params: Mapping[str, str], run: str, context: LogContext) -> None:
    """Refuse a tracked run whose parameters are of another run than the command tells of."""
    given = {
        "devices": (context.devices,),
        "sequence length": (context.sequence_length,),
        "parameters": _counts(context),
    }
    for name, param in RECORDED.items():
        if param not in params or not given[name]:
            continue
        told = float(params[param])
        if all(abs(told / number - 1) > (SLACK if name == "parameters" else 0) for number in given[name]):
            raise DataError(f"run {run} has recorded {param} {told:,.0f}, not {given[name][0]:,.0f} {name}")


def check_speeds(log: Collected, rates: Sequence[float]) -> None:
    """Refuse parts whose speeds lie far apart: they are of several runs, or of one that went on elsewhere."""
    if len(log.starts) < 2:
        return
    before: tuple[int, float] | None = None
    for start, end, line in zip(log.starts, [*log.starts[1:], len(rates)], log.start_lines, strict=True):
        part = known(itertools.islice(rates, start + max(1, int(WARM_UP * (end - start))), end))
        if len(part) < _PART:
            continue
        speed = median(part)
        if before is not None and max(speed / before[1], before[1] / speed) > _OTHER_SPEED:
            raise DataError(
                f"{log.where}: the run of line {before[0]} has {before[1]:,.0f} tokens/s and what begins at line {line} "
                f"{speed:,.0f}: they are two runs, or one that went on elsewhere; keep the lines of one"
            )
        before = line, speed


def check_sequences(log: Collected) -> None:
    """Refuse a log whose counter of sequences does not grow by its batch."""
    batches, grown = log.column("sequences"), log.column("counted_sequences")
    if batches is None or grown is None:
        return
    checked = wrong = 0
    example = (0.0, 0.0)
    for before, batch, count in zip(
        batches, itertools.islice(batches, 1, None), itertools.islice(grown, 1, None), strict=False
    ):
        if before == batch and count == count:
            checked += 1
            if abs(count / batch - 1) > CONTRADICTION:
                wrong += 1
                example = (batch, count)
    if wrong > checked / 2:
        raise DataError(
            f"{log.where}: the log contradicts itself: its counter of sequences grows by {example[1]:,.4g} a step, its "
            f"global batch is {example[0]:,.0f} sequences"
        )
    del log.columns["counted_sequences"]


def check_batch(log: Collected, sequences: Sequence[float], length: float, context: LogContext) -> None:
    """Refuse --batch-tokens that are not the log's sequences times their length."""
    batch = last(sequences)
    if context.batch_tokens is None or not batch:
        return
    if abs(batch * length / context.batch_tokens - 1) > SLACK:
        raise DataError(
            f"{log.where}: the log reports {batch:,.0f} sequences of {length:,.0f} tokens in a step, not --batch-tokens "
            f"{context.batch_tokens:,}"
        )


def compare_rates(log: Collected, counted: Sequence[float], told: Sequence[float] | None, context: LogContext) -> None:
    """Refuse a log that tells other tokens/s than it counts."""
    if told is None:
        return
    both = known(a for a, b in zip(counted, told, strict=True) if b > 0)
    if not both:
        return
    by_counter, by_log = median(both), median(known(b for a, b in zip(counted, told, strict=True) if a > 0))
    ratio = by_counter / by_log
    if abs(ratio - 1) <= CONTRADICTION:
        return
    if log.rate_of_device:
        one = by_log / context.devices
        raise DataError(
            f"{log.where}: the log counts {by_counter:,.0f} tokens/s and tells {one:,.0f} of a device: that are "
            f"{by_counter / one:,.3g} devices, not {context.devices:,}"
        )
    raise DataError(
        f"{log.where}: the log contradicts itself: it counts {by_counter:,.0f} tokens/s and tells {by_log:,.0f}"
    )


def compare_told(log: Collected, told: Sequence[float], seconds: Sequence[float], context: LogContext) -> None:
    """Refuse a log that tells other tokens/s than its sequences make."""
    sequences = sequences_of(log)
    if sequences is None:
        return
    length = log.stated("sequence length") or context.sequence_length
    made = per_second((number * length for number in sequences), seconds)
    both = known(a / b for a, b in zip(made, told, strict=True) if b > 0)
    if both and abs(median(both) - 1) > CONTRADICTION:
        raise DataError(
            f"{log.where}: the log tells {median(known(told)):,.0f} tokens/s, its sequences of {length:,.0f} tokens are "
            f"{median(known(made)):,.0f}: --devices {context.devices:,} or --sequence-length is wrong"
        )


def compare_weights(
    weights: Sequence[float], stepwise: Sequence[float], context: LogContext, log: Collected, found: Found
) -> None:
    """Compare the tokens that are no padding with all tokens."""
    shares = known(some / every for some, every in zip(weights, stepwise, strict=True))
    if not shares:
        return
    share = median(shares)
    if share > 1 + SLACK:
        raise DataError(
            f"{log.where}: the log counts {share:.3g} times the tokens of {context.devices:,} devices: that are "
            f"{share * context.devices:,.3g} devices"
        )
    if share < 1 - CONTRADICTION:
        found.doubts.append(
            f"the log counts only {share:.0%} of these tokens as trained: the rest is padding, or there are "
            f"{share * context.devices:,.3g} devices"
        )
    elif share < 1 - SLACK:
        found.assumptions.append(f"{1 - share:.0%} of the tokens are padding, which is counted")


def compare_batch(log: Collected, counted: Sequence[float], context: LogContext, found: Found) -> None:
    """Say where the log counts other tokens than sequences times length, or than was given; refuse what cannot be."""
    numbers = known(counted)
    step = median(array("d", numbers))
    sequences = known(sequences_of(log))
    if sequences and log.known(("sequences", "counted_sequences")):
        batch = median(sequences)
        length = step / batch
        steady = max(numbers) - min(numbers) <= 1e-6 * step and len(numbers) > 1 and max(sequences) == min(sequences)
        if length > context.sequence_length * (1 + SLACK) or (
            steady and length == round(length) and abs(length / context.sequence_length - 1) > SLACK
        ):
            raise DataError(
                f"{log.where}: the log counts {step:,.0f} tokens in {batch:,.0f} sequences, {length:,.0f} each, not "
                f"--sequence-length {context.sequence_length:,}"
            )
        if abs(length / context.sequence_length - 1) > SLACK:
            found.assumptions.append(
                f"the log counts {step:,.0f} tokens a step, not {batch:,.0f} x {context.sequence_length:,}: its sequences "
                f"have {length:,.0f} tokens on average, and scores of attention are counted for those"
            )
            found.mean_length = length
            if not steady and len(numbers) > 1 and max(numbers) - min(numbers) > SLACK * step and not log.fine_tuning:
                log.fine_tuning.append("the sequences have lengths of their own")
    if context.batch_tokens is not None and abs(step / context.batch_tokens - 1) > SLACK:
        found.assumptions.append(
            f"the log counts {step:,.0f} tokens a step, not --batch-tokens {context.batch_tokens:,}"
        )
