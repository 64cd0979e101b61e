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
from array import array
from collections.abc import Callable

from longcat.benchmark.logs import tuning
from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.contradictions import (
    CONTRADICTION,
    SLACK,
    check_batch,
    check_facts,
    check_parameters,
    check_sequences,
    check_speeds,
    compare_batch,
    compare_rates,
    compare_told,
    compare_weights,
)
from longcat.benchmark.logs.rates import Found, known, last, median, per_second, sequences_of, steady
from longcat.benchmark.logs.throughput import LogContext, Throughput, Told
from longcat.benchmark.logs.tool import Tool
from longcat.errors import DataError

UNKNOWN = ("unknown tool", "CSV", "JSON", "JSON lines", "TensorBoard", "wandb")
"""Kinds of files in which the tool is not known."""
_NAN = math.nan
_MOSTLY, _FEW = 0.8, 3
"""Share of growing numbers from which a column is taken as a counter, and how few of them could be chance."""


def throughput(log: Collected, tool: Tool, context: LogContext) -> Throughput:
    """Return the throughput of a log by the most trusted source that it has.

    Raises:
        DataError: the log contradicts itself or the context, or the tokens of its steps are not known.
    """
    _resolve(log)
    tuning.conclude(log, context)
    check_facts(log, context)
    check_parameters(log, context)
    check_sequences(log)
    told = _told(log, tool)
    found = next((result for source in _SOURCES if (result := source(log, tool, context)) is not None), None)
    if found is None:
        raise DataError(_missing(log, tool))
    log.columns.clear()
    if found.of_readings:
        check_speeds(log, found.rates)
    kept = steady(found.rates, log.starts) if found.of_readings else array("d", found.rates)
    if not kept:
        raise DataError(f"{log.where}: no reading is left of the log of {tool.kind}")
    middle = median(kept)
    return Throughput(
        tokens_per_second=middle,
        spread=(max(kept) - min(kept)) / middle,
        readings=len(kept),
        kind=tool.kind,
        tokens_from=found.tokens_from,
        assumptions=(*log.notes, *found.assumptions),
        doubts=(*log.doubts, *found.doubts),
        told=told,
        fine_tuning=bool(log.fine_tuning),
        says_what_is_trained=not tool.padded or bool(log.fine_tuning),
        mean_length=found.mean_length,
        trainable_parameters=log.stated("trainable parameters"),
    )


def _resolve(log: Collected) -> None:
    """Decide whether times and tokens of no certain meaning are of a step or since the start: the latter grow."""
    for name, of_step, of_run in (("time", "seconds", "seconds"), ("amount", "tokens", "counted")):
        values, steps = log.columns.pop(name, None), log.columns.get("steps")
        if values is None or steps is None or of_step in log.columns:
            continue
        growth = array("d", [_NAN, *(after - before for before, after in itertools.pairwise(values))])
        for start in log.starts:
            growth[start] = _NAN
        comparable = [number for number in growth if number == number]
        grows = len(comparable) > 1 and sum(number > 0 for number in comparable) >= _MOSTLY * len(comparable)
        if grows and (len(comparable) > _FEW or last(values) > 1.5 * values[0]):
            of_a_step = (number / step if number > 0 else _NAN for number, step in zip(growth, steps, strict=True))
            log.columns.setdefault(of_run, array("d", of_a_step))
        else:
            log.columns[of_step] = values


def _counted(log: Collected, tool: Tool, context: LogContext) -> Found | None:
    """Take the log's own counter of tokens, or the tokens/s that it tells."""
    if log.count == 1 and log.mean_tokens and "counted" not in log.columns:
        log.columns["counted"] = array("d", [log.mean_tokens])
    counted, seconds, rate = log.column("counted"), log.column("seconds"), log.column("rate")
    if counted is not None and seconds is not None:
        rates = per_second(counted, seconds)
        if last(rates):
            found = Found(rates, "the log's counter of tokens")
            compare_rates(log, rates, rate, context)
            compare_batch(log, counted, context, found)
            return found
    if rate is None:
        return None
    found = Found(
        rate,
        "the tokens/s of one device that the log tells" if log.rate_of_device else "the tokens/s that the log tells",
    )
    assume_whose(log, tool, context, found)
    if seconds is not None:
        if not padded(log, tool):
            compare_told(log, rate, seconds, context)
        stepwise = array("d", (number * time for number, time in zip(rate, seconds, strict=True)))
        stated, weights = log.column("tokens"), log.column("weights")
        if stated is not None:
            compare_rates(log, per_second(stated, seconds), rate, context)
        if weights is not None:
            compare_weights(weights, stepwise, context, log, found)
        if context.batch_tokens is not None and known(stepwise):
            step = median(known(stepwise))
            if abs(step / context.batch_tokens - 1) > SLACK:
                found.assumptions.append(
                    f"the log tells {step:,.0f} tokens a step, not --batch-tokens {context.batch_tokens:,}"
                )
    return found


def assume_whose(log: Collected, tool: Tool, context: LogContext, found: Found) -> None:
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


def _run_mean(log: Collected, tool: Tool, context: LogContext) -> Found | None:
    """Take the tokens of a Trainer's whole run over its time, or the tokens/s that it tells at the end."""
    final = log.final
    if final.get("seconds") and final.get("tokens"):
        found = Found([final["tokens"] / final["seconds"]], "all tokens seen over the run's time", of_readings=False)
        found.assumptions.append("the mean of the whole run, its start included; too high if the run was resumed")
        return found
    if final.get("tokens/s"):
        return Found([final["tokens/s"]], "the tokens/s that the log tells of the whole run", of_readings=False)
    if final.get("device tokens/s"):
        rate = final["device tokens/s"] * context.devices
        return Found([rate], "the tokens/s of one device that the log tells of the whole run", of_readings=False)
    return None


def _stated(log: Collected, tool: Tool, context: LogContext) -> Found | None:
    """Take the tokens of a step that the log states, or its sequences times the length that it states."""
    seconds = log.column("seconds")
    if seconds is None:
        return None
    tokens = log.column("tokens")
    if tokens is not None:
        step = median(known(tokens))
        if context.batch_tokens is not None and abs(step / context.batch_tokens - 1) > SLACK:
            raise DataError(f"{log.where}: the log reports {step:,.0f} tokens in a step, not {context.batch_tokens:,}")
        return Found(per_second(tokens, seconds), "the tokens of a step that the log states")
    step_tokens = log.stated("tokens in a step")
    if step_tokens:
        return Found(per_second(step_tokens, seconds), "the tokens of a step that the log's header states")
    length, sequences = log.stated("sequence length"), sequences_of(log)
    if length and sequences is not None and not padded(log, tool):
        check_batch(log, sequences, length, context)
        return Found(
            per_second((number * length for number in sequences), seconds),
            "the sequences and their length that the log states",
        )
    return None


def _given(log: Collected, tool: Tool, context: LogContext) -> Found | None:
    """Take --batch-tokens; where the batch of the log grows, that is its last."""
    batch = context.batch_tokens
    if batch is None:
        return None
    seconds, sequences = log.column("seconds"), sequences_of(log)
    assumption = f"a step has --batch-tokens {batch:,} tokens"
    latest = last(sequences)
    if seconds is not None and last(seconds):
        if sequences is None or not latest:
            return Found(per_second(float(batch), seconds), "--batch-tokens", [assumption])
        if batch > latest * context.sequence_length * (1 + SLACK) or not padded(log, tool):
            check_batch(log, sequences, context.sequence_length, context)
        return Found(
            per_second((number * batch / latest for number in sequences), seconds), "--batch-tokens", [assumption]
        )
    samples = log.column("sample_rate")
    if samples is not None and latest:
        return Found(array("d", (rate * batch / latest for rate in samples)), "--batch-tokens", [assumption])
    if steps := log.final.get("steps/s"):
        return Found([batch * steps], "--batch-tokens", [assumption], of_readings=False)
    return None


def _from_flos(log: Collected, tool: Tool, context: LogContext) -> Found | None:
    """Turn a Trainer's total_flos, 6 times the parameters but the embedding for each token, back into tokens."""
    flos, seconds, parameters = log.final.get("flos"), log.final.get("seconds"), context.non_embedding_parameters
    if not flos or not seconds or not parameters:
        return None
    rate = flos / (6 * parameters) / seconds
    samples = log.final.get("samples/s")
    if samples and rate > samples * context.sequence_length * (1 + CONTRADICTION):
        return None  # more tokens than the sequences hold: a model of another size was trained
    found = Found(
        [rate], "total_flos / (6 x parameters but the embedding) / train_runtime, an estimate", of_readings=False
    )
    found.assumptions.append("total_flos is 6 FLOP for each token, padding too, and parameter but the embedding's")
    if context.devices > 1 and (samples is None or rate * 2 < samples * context.sequence_length):
        found.doubts.append(
            "the tokens are an estimate by total_flos; if the parameters were sharded (FSDP, ZeRO-3) it counts a device's "
            f"share, and there were up to {rate * context.devices:,.0f} tokens/s"
        )
    return found


def _assumed(log: Collected, tool: Tool, context: LogContext) -> Found | None:
    """Take the sequences times --sequence-length."""
    length, seconds, sequences = context.sequence_length, log.column("seconds"), sequences_of(log)
    of_readings, what = True, "samples/s"
    rates: array[float] | None = None
    if sequences is not None and seconds is not None:
        batch = last(sequences)
        if batch:
            what = f"{batch:,.0f} sequences a step"
            rates = per_second((number * length for number in sequences), seconds)
    if rates is None and (samples := log.column("sample_rate")) is not None:
        rates = array("d", (number * length for number in samples))
    if rates is None and log.final.get("samples/s"):
        rates, of_readings = array("d", [log.final["samples/s"] * length]), False
    if rates is None or not last(rates):
        return None
    found = Found(rates, f"{what} x --sequence-length {length:,}", of_readings=of_readings)
    if padded(log, tool):
        has_steps = last(seconds) or last(sequences) or log.final.get("steps/s")
        found.doubts.append(
            f"the tokens are {what} x --sequence-length {length:,}, but sequences in such logs often are shorter or padded; "
            + (
                "--batch-tokens with the mean tokens of a step would settle it"
                if has_steps
                else "it tells no steps, so that --batch-tokens cannot settle it: longcat mfu --tokens-per-second can"
            )
        )
    else:
        found.assumptions.append(f"every sequence has --sequence-length {length:,} tokens")
    return found


_SOURCES: tuple[Callable[[Collected, Tool, LogContext], Found | None], ...] = (
    _counted,
    _run_mean,
    _stated,
    _given,
    _from_flos,
    _assumed,
)


def padded(log: Collected, tool: Tool) -> bool:
    """Return whether the sequences may be shorter than the longest that was allowed."""
    return tool.padded or bool(log.fine_tuning) or "variable lengths" in log.state


def _missing(log: Collected, tool: Tool) -> str:
    if log.column("seconds") is not None or log.final.get("steps/s"):
        return f"{log.where}: this log of {tool.kind} does not say how many sequences a step has: add --batch-tokens"
    return f"{log.where}: no line reports the time of a step or tokens/s, only what {tool.kind} logs beside them"


def _told(log: Collected, tool: Tool) -> Told | None:
    medians: dict[str, float] = {}
    for name in ("tflops", "mfu"):
        column = log.column(name)
        log.columns.pop(name, None)
        if column is not None and (kept := steady(column, log.starts)):
            medians[name] = median(kept)
    if not medians:
        return None
    return Told(
        tflops_per_device=medians.get("tflops"),
        mfu=medians.get("mfu"),
        peak_tflops=log.state.get("peak", tool.peak_tflops),
        conventions=tool.conventions,
        recomputation=tool.recomputation or bool(log.state.get("recomputation")),
    )
