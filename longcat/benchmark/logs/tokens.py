"""Tokens/s from the readings of a log, whichever tool wrote it, by one order of trust.

1. What the log counts itself: differences of its counter of tokens, or the tokens/s that it tells.
2. The tokens of a step that it states, or its sequences times the length that it states.
3. `--batch-tokens`.
4. A Trainer's total_flos over 6 times the parameters but the embedding: an estimate.
5. Its sequences times `--sequence-length`: an assumption, and a doubt where sequences may be shorter or padded.
"""

from __future__ import annotations

import itertools
import math
import statistics
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.throughput import LogContext, Throughput, Told
from longcat.benchmark.logs.tool import Tool
from longcat.errors import DataError

WARM_UP = 0.1
"""Fraction of the readings at the start that is left out; at least one reading, if there are more than two."""
CONTRADICTION = 0.25
"""Relative gap between two figures of one log from which it contradicts itself."""
SLACK = 0.05
"""Relative gap up to which two counts of a step's tokens are the same."""
UNKNOWN = ("unknown tool", "CSV", "JSON", "JSON lines", "TensorBoard", "wandb")
"""Kinds of files in which the tool is not known."""
_PART, _OTHER_SPEED = 3, 1.5
"""Readings after a start that tell a speed, and how many times another it has to be to be that of another run."""
_MANY = 100_000
_NAN = math.nan


@dataclass
class _Found:
    """Tokens/s by one source: of each reading, or of the whole run."""

    rates: Sequence[float]
    tokens_from: str
    assumptions: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    of_readings: bool = True


def throughput(log: Collected, tool: Tool, context: LogContext) -> Throughput:
    """Return the throughput of a log by the most trusted source that it has.

    Raises:
        DataError: the log contradicts itself or the context, or the tokens of its steps are not known.
    """
    _resolve(log)
    _check_facts(log, context)
    _check_sequences(log)
    told = _told(log, tool)
    found = next((result for source in _SOURCES if (result := source(log, tool, context)) is not None), None)
    if found is None:
        raise DataError(_missing(log, tool))
    log.columns.clear()
    if found.of_readings and len(log.starts) > 1:
        _check_speeds(log, found.rates)
    steady = _steady(found.rates, log.starts) if found.of_readings else array("d", found.rates)
    if not steady:
        raise DataError(f"{log.where}: no reading is left of the log of {tool.kind}")
    median = _median(steady)
    return Throughput(
        tokens_per_second=median,
        spread=(max(steady) - min(steady)) / median,
        readings=len(steady),
        kind=tool.kind,
        tokens_from=found.tokens_from,
        assumptions=(*log.notes, *found.assumptions),
        doubts=(*log.doubts, *found.doubts),
        told=told,
        fine_tuning=bool(log.fine_tuning),
        trainable_parameters=log.stated("trainable parameters"),
    )


def _resolve(log: Collected) -> None:
    """Decide whether times and tokens of no certain meaning are of a step or since the start: the latter only grow."""
    for name, of_step, of_run in (("time", "seconds", "seconds"), ("amount", "tokens", "counted")):
        values, steps = log.columns.pop(name, None), log.columns.get("steps")
        if values is None or of_step in log.columns:
            continue
        starts = set(log.starts)
        growth = [b - a for at, (a, b) in enumerate(itertools.pairwise(values), start=1) if at not in starts]
        if len(growth) > 1 and min(growth) > 0 and steps is not None:
            if of_run not in log.columns:
                log.columns[of_run] = array("d", [_NAN]) + array(
                    "d", ((b - a) / n for (a, b), n in zip(itertools.pairwise(values), steps[1:], strict=True))
                )
        else:
            log.columns[of_step] = values


def _check_facts(log: Collected, context: LogContext) -> None:
    """Refuse a log that states other numbers than the command; after a restart it states them repeatedly."""
    given = {"devices": context.devices, "sequence length": context.sequence_length}
    for name, unit in (
        ("devices", "devices"),
        ("sequence length", "tokens in a sequence"),
        ("tokens in a step", "tokens in a step"),
    ):
        stated = log.facts.get(name, {})
        expected = given.get(name) or context.batch_tokens or log.stated(name)
        if set(stated) - {expected}:
            numbers = " and ".join(f"{number:,.0f}" for number in sorted(stated))
            places = ", ".join(str(line) for line in sorted(stated.values()))
            raise DataError(f"{log.where}: the log reports {numbers} {unit}, not {expected:,.0f} (line {places})")


def _check_speeds(log: Collected, rates: Sequence[float]) -> None:
    """Refuse parts whose speeds lie far apart: they are of several runs, or of one that went on elsewhere."""
    before: tuple[int, float] | None = None
    for start, end, line in zip(log.starts, [*log.starts[1:], len(rates)], log.start_lines, strict=True):
        part = _known(itertools.islice(rates, start + max(1, int(WARM_UP * (end - start))), end))
        if len(part) < _PART:
            continue
        speed = _median(part)
        if before is not None and max(speed / before[1], before[1] / speed) > _OTHER_SPEED:
            raise DataError(
                f"{log.where}: the run of line {before[0]} has {before[1]:,.0f} tokens/s and what begins at line {line} "
                f"{speed:,.0f}: they are two runs, or one that went on elsewhere; keep the lines of one"
            )
        before = line, speed


def _check_sequences(log: Collected) -> None:
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


def _per_second(tokens: Iterable[float] | float, seconds: Sequence[float]) -> array[float]:
    if isinstance(tokens, float | int):
        return array("d", (tokens / time for time in seconds))
    return array("d", (number / time for number, time in zip(tokens, seconds, strict=True)))


def _sequences(log: Collected) -> Sequence[float] | None:
    found = log.column("sequences")
    if found is not None:
        return found
    grown, stated = log.column("counted_sequences"), log.stated("sequences in a step")
    if grown is not None and _last(grown):
        return grown
    return array("d", [stated]) * log.count if stated else None


def _last(values: Sequence[float] | None) -> float:
    """Return the last positive number; 0 if there is none."""
    return next((value for value in reversed(values or ()) if value > 0), 0.0)


def _known(values: Iterable[float] | None) -> array[float]:
    return array("d", (value for value in values or () if value > 0))


def _counted(log: Collected, tool: Tool, context: LogContext) -> _Found | None:
    """Take the log's own counter of tokens, or the tokens/s that it tells."""
    if log.count == 1 and log.mean_tokens and "counted" not in log.columns:
        log.columns["counted"] = array("d", [log.mean_tokens])
    counted, seconds, rate = log.column("counted"), log.column("seconds"), log.column("rate")
    if counted is not None and seconds is not None:
        rates = _per_second(counted, seconds)
        if _last(rates):
            found = _Found(rates, "the log's counter of tokens")
            _compare_rates(log, rates, rate, context)
            _compare_batch(log, tool, counted, context, found)
            return found
    if rate is None:
        return None
    found = _Found(
        rate,
        "the tokens/s of one device that the log tells" if log.rate_of_device else "the tokens/s that the log tells",
    )
    _assume_whose(log, tool, context, found)
    if seconds is not None:
        if not _padded(log, tool):
            _compare_told(log, rate, seconds, context)
        stepwise = array("d", (number * time for number, time in zip(rate, seconds, strict=True)))
        stated, weights = log.column("tokens"), log.column("weights")
        if stated is not None:
            _compare_rates(log, _per_second(stated, seconds), rate, context)
        if weights is not None:
            _compare_weights(weights, stepwise, context, log, found)
        if context.batch_tokens is not None and _known(stepwise):
            step = _median(_known(stepwise))
            if abs(step / context.batch_tokens - 1) > SLACK:
                found.assumptions.append(
                    f"the log tells {step:,.0f} tokens a step, not --batch-tokens {context.batch_tokens:,}"
                )
    return found


def _compare_rates(log: Collected, counted: Sequence[float], told: Sequence[float] | None, context: LogContext) -> None:
    """Refuse a log that tells other tokens/s than it counts."""
    if told is None:
        return
    both = _known(a for a, b in zip(counted, told, strict=True) if b > 0)
    if not both:
        return
    by_counter, by_log = _median(both), _median(_known(b for a, b in zip(counted, told, strict=True) if a > 0))
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


def _assume_whose(log: Collected, tool: Tool, context: LogContext, found: _Found) -> None:
    """Say whose tokens/s they are taken for, where a tool is not known."""
    if context.devices == 1 or tool.kind not in UNKNOWN:
        return
    if name := log.state.get("bare"):
        found.doubts.append(
            f"{name} is taken as tokens/s of one device, which is not certain: there are {context.devices:,}"
        )
    else:
        whose = "one device" if log.rate_of_device else "all devices"
        found.assumptions.append(f"the tokens/s are taken as those of {whose}, by their name")


def _compare_told(log: Collected, told: Sequence[float], seconds: Sequence[float], context: LogContext) -> None:
    """Refuse a log that tells other tokens/s than its sequences make."""
    sequences = _sequences(log)
    if sequences is None:
        return
    length = log.stated("sequence length") or context.sequence_length
    made = _per_second((number * length for number in sequences), seconds)
    both = _known(a / b for a, b in zip(made, told, strict=True) if b > 0)
    if both and abs(_median(both) - 1) > CONTRADICTION:
        raise DataError(
            f"{log.where}: the log tells {_median(_known(told)):,.0f} tokens/s, its sequences of {length:,.0f} tokens are "
            f"{_median(_known(made)):,.0f}: --devices {context.devices:,} or --sequence-length is wrong"
        )


def _compare_weights(
    weights: Sequence[float], stepwise: Sequence[float], context: LogContext, log: Collected, found: _Found
) -> None:
    """Compare the tokens that are no padding with all tokens."""
    shares = _known(some / every for some, every in zip(weights, stepwise, strict=True))
    if not shares:
        return
    share = _median(shares)
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


def _compare_batch(log: Collected, tool: Tool, counted: Sequence[float], context: LogContext, found: _Found) -> None:
    """Say where the log counts other tokens than sequences times length, or than was given; refuse what cannot be."""
    numbers = _known(counted)
    step = _median(array("d", numbers))
    sequences = _known(_sequences(log))
    if sequences and log.known(("sequences", "counted_sequences")):
        batch = _median(sequences)
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
                f"have {length:,.0f} tokens on average"
            )
            if not steady and len(numbers) > 1 and max(numbers) - min(numbers) > SLACK * step and not log.fine_tuning:
                log.fine_tuning.append("the sequences have lengths of their own")
    if context.batch_tokens is not None and abs(step / context.batch_tokens - 1) > SLACK:
        found.assumptions.append(
            f"the log counts {step:,.0f} tokens a step, not --batch-tokens {context.batch_tokens:,}"
        )


def _run_mean(log: Collected, tool: Tool, context: LogContext) -> _Found | None:
    """Take the tokens of a Trainer's whole run over its time, or the tokens/s that it tells at the end."""
    final = log.final
    if final.get("seconds") and final.get("tokens"):
        found = _Found([final["tokens"] / final["seconds"]], "all tokens seen over the run's time", of_readings=False)
        found.assumptions.append("the mean of the whole run, its start included; too high if the run was resumed")
        return found
    if final.get("tokens/s"):
        return _Found([final["tokens/s"]], "the tokens/s that the log tells of the whole run", of_readings=False)
    if final.get("device tokens/s"):
        rate = final["device tokens/s"] * context.devices
        return _Found([rate], "the tokens/s of one device that the log tells of the whole run", of_readings=False)
    return None


def _stated(log: Collected, tool: Tool, context: LogContext) -> _Found | None:
    """Take the tokens of a step that the log states, or its sequences times the length that it states."""
    seconds = log.column("seconds")
    if seconds is None:
        return None
    tokens = log.column("tokens")
    if tokens is not None:
        step = _median(_known(tokens))
        if context.batch_tokens is not None and abs(step / context.batch_tokens - 1) > SLACK:
            raise DataError(f"{log.where}: the log reports {step:,.0f} tokens in a step, not {context.batch_tokens:,}")
        return _Found(_per_second(tokens, seconds), "the tokens of a step that the log states")
    step_tokens = log.stated("tokens in a step")
    if step_tokens:
        return _Found(_per_second(step_tokens, seconds), "the tokens of a step that the log's header states")
    length, sequences = log.stated("sequence length"), _sequences(log)
    if length and sequences is not None and not _padded(log, tool):
        _check_batch(log, sequences, length, context)
        return _Found(
            _per_second((number * length for number in sequences), seconds),
            "the sequences and their length that the log states",
        )
    return None


def _check_batch(log: Collected, sequences: Sequence[float], length: float, context: LogContext) -> None:
    batch = _last(sequences)
    if context.batch_tokens is None or not batch:
        return
    if abs(batch * length / context.batch_tokens - 1) > SLACK:
        raise DataError(
            f"{log.where}: the log reports {batch:,.0f} sequences of {length:,.0f} tokens in a step, not --batch-tokens "
            f"{context.batch_tokens:,}"
        )


def _given(log: Collected, tool: Tool, context: LogContext) -> _Found | None:
    """Take --batch-tokens; where the batch of the log grows, that is its last."""
    batch = context.batch_tokens
    if batch is None:
        return None
    seconds, sequences = log.column("seconds"), _sequences(log)
    assumption = f"a step has --batch-tokens {batch:,} tokens"
    last = _last(sequences)
    if seconds is not None and _last(seconds):
        if sequences is None or not last:
            return _Found(_per_second(float(batch), seconds), "--batch-tokens", [assumption])
        if batch > last * context.sequence_length * (1 + SLACK) or not _padded(log, tool):
            _check_batch(log, sequences, context.sequence_length, context)
        return _Found(
            _per_second((number * batch / last for number in sequences), seconds), "--batch-tokens", [assumption]
        )
    samples = log.column("sample_rate")
    if samples is not None and last:
        return _Found(array("d", (rate * batch / last for rate in samples)), "--batch-tokens", [assumption])
    if steps := log.final.get("steps/s"):
        return _Found([batch * steps], "--batch-tokens", [assumption], of_readings=False)
    return None


def _from_flos(log: Collected, tool: Tool, context: LogContext) -> _Found | None:
    """Turn a Trainer's total_flos, 6 times the parameters but the embedding for each token, back into tokens."""
    flos, seconds, parameters = log.final.get("flos"), log.final.get("seconds"), context.non_embedding_parameters
    if not flos or not seconds or not parameters:
        return None
    rate = flos / (6 * parameters) / seconds
    samples = log.final.get("samples/s")
    if samples and rate > samples * context.sequence_length * (1 + CONTRADICTION):
        return None  # more tokens than the sequences hold: a model of another size was trained
    found = _Found(
        [rate], "total_flos / (6 x parameters but the embedding) / train_runtime, an estimate", of_readings=False
    )
    found.assumptions.append("total_flos is 6 FLOP for each token, padding too, and parameter but the embedding's")
    if context.devices > 1 and (samples is None or rate * 2 < samples * context.sequence_length):
        found.doubts.append(
            "the tokens are an estimate by total_flos; if the parameters were sharded (FSDP, ZeRO-3) it counts a device's "
            f"share, and there were up to {rate * context.devices:,.0f} tokens/s"
        )
    return found


def _assumed(log: Collected, tool: Tool, context: LogContext) -> _Found | None:
    """Take the sequences times --sequence-length."""
    length, seconds, sequences = context.sequence_length, log.column("seconds"), _sequences(log)
    of_readings, what = True, "samples/s"
    rates: array[float] | None = None
    if sequences is not None and seconds is not None:
        batch = _last(sequences)
        if batch:
            what = f"{batch:,.0f} sequences a step"
            rates = _per_second((number * length for number in sequences), seconds)
    if rates is None and (samples := log.column("sample_rate")) is not None:
        rates = array("d", (number * length for number in samples))
    if rates is None and log.final.get("samples/s"):
        rates, of_readings = array("d", [log.final["samples/s"] * length]), False
    if rates is None or not _last(rates):
        return None
    found = _Found(rates, f"{what} x --sequence-length {length:,}", of_readings=of_readings)
    if _padded(log, tool):
        found.doubts.append(
            f"the tokens are {what} x --sequence-length {length:,}, but sequences in such logs often are shorter or padded; "
            "--batch-tokens with the mean tokens of a step would settle it"
        )
    else:
        found.assumptions.append(f"every sequence has --sequence-length {length:,} tokens")
    return found


_SOURCES: tuple[Callable[[Collected, Tool, LogContext], _Found | None], ...] = (
    _counted,
    _run_mean,
    _stated,
    _given,
    _from_flos,
    _assumed,
)


def _padded(log: Collected, tool: Tool) -> bool:
    """Return whether the sequences may be shorter than the longest that was allowed."""
    return tool.padded or bool(log.fine_tuning) or "variable lengths" in log.state


def _missing(log: Collected, tool: Tool) -> str:
    if log.column("seconds") is not None or log.final.get("steps/s"):
        return f"{log.where}: this log of {tool.kind} does not say how many sequences a step has: add --batch-tokens"
    return f"{log.where}: no line reports the time of a step or tokens/s, only what {tool.kind} logs beside them"


def _steady(rates: Sequence[float], starts: Sequence[int]) -> array[float]:
    """Return the rates without the first tenth after each start of the run, and without readings that have none.

    Of a run without breaks the array itself is shortened: a log of 1 GB has millions of readings.
    """
    if len(starts) == 1 and isinstance(rates, array) and all(rate > 0 for rate in rates):
        if len(rates) > 2:
            del rates[: max(1, int(WARM_UP * len(rates)))]
        return rates
    steady = array("d")
    for start, end in zip(starts or [0], [*starts[1:], len(rates)], strict=True):
        readings = itertools.islice(rates, start, end)
        if start == 0:
            count = sum(1 for rate in itertools.islice(rates, end) if rate > 0)
            left_out = max(1, int(WARM_UP * count)) if count > 2 else 0
            readings = itertools.islice((rate for rate in readings if rate > 0), left_out, None)
        else:
            readings = itertools.islice(readings, max(1, int(WARM_UP * (end - start))), None)
        steady.extend(rate for rate in readings if rate > 0)
    return steady or _known(rates)


def _median(values: array[float]) -> float:
    if len(values) > _MANY:
        import numpy as np  # sorts many numbers in a fifth of the memory

        return float(np.median(np.frombuffer(values, dtype=values.typecode), overwrite_input=True))
    return statistics.median(values)


def _told(log: Collected, tool: Tool) -> Told | None:
    medians: dict[str, float] = {}
    for name in ("tflops", "mfu"):
        column = log.column(name)
        log.columns.pop(name, None)
        if column is not None and (steady := _steady(column, log.starts)):
            medians[name] = _median(steady)
    if not medians:
        return None
    return Told(
        tflops_per_device=medians.get("tflops"),
        mfu=medians.get("mfu"),
        peak_tflops=log.state.get("peak", tool.peak_tflops),
        conventions=tool.conventions,
        recomputation=tool.recomputation or bool(log.state.get("recomputation")),
    )
