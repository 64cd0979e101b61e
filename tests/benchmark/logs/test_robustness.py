"""Logs as they lie about: coloured, interleaved, continued, mixed, cut, and of any size."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longcat import unpacking
from longcat.benchmark.logs import LogContext, read_log
from longcat.errors import DataError
from tests.benchmark.logs.test_samples import EXPECTED, SAMPLES, context_of

MEGATRON = (
    " [2025-01-01 10:00:{s:02d}.123456] iteration {n:8d}/{total:8d} | consumed samples: {samples:12d} | elapsed time per "
    "iteration (ms): {ms:.1f} | learning rate: 1.0E-05 | global batch size: {batch:5d} | lm loss: 1.0E+01 | number of skipped "
    "iterations: {skipped:3d} |"
)
CONTEXT = LogContext(8, 2048)


def line(n, ms=1000.0, *, total=500, batch=64, skipped=0):
    return MEGATRON.format(s=n % 60, n=n, total=total, samples=batch * n, ms=ms, batch=batch, skipped=skipped)


def run(first, last, **other):
    return [line(n, 9000.0 if n == first else 1000.0 + n % 3, **other) for n in range(first, last)]


@pytest.fixture
def read(tmp_path):
    def reading(text, name="log", context=CONTEXT):
        if isinstance(text, list):
            text = "\n".join(text) + "\n"
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_log(tmp_path / name, context)

    return reading


PLAIN = run(1, 60)


def test_ranks_that_print_the_same_step_are_one(read):
    alone = read(PLAIN)
    twice = [text for text in PLAIN for _ in range(2)]
    assert read(twice) == alone
    named = [f"[rank{rank}]:{text}" for text in PLAIN for rank in (3, 7)]
    assert read(named) == alone
    blocks = [f"{rank}: {text}" for at in range(0, 59, 10) for rank in (0, 1) for text in PLAIN[at : at + 10]]
    assert read(blocks) == alone
    glued = [f"[default0]:{text}[default1]:{text}" for text in PLAIN]
    assert read(glued) == alone


@given(st.randoms(use_true_random=False), st.integers(2, 4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_interleaving_of_ranks_is_one_run(read, shuffle, ranks):
    """Each rank's lines stay in order and no rank is more than a few steps behind another."""
    waiting = {rank: list(PLAIN) for rank in range(ranks)}
    mixed = []
    while any(waiting.values()):
        longest = max(len(left) for left in waiting.values())
        rank = shuffle.choice([rank for rank, left in waiting.items() if len(left) > longest - 3 and left])
        mixed.append(f"[rank{rank}]:{waiting[rank].pop(0)}")
    assert read(mixed).tokens_per_second == pytest.approx(read(PLAIN).tokens_per_second, rel=0.002)
    assert read(mixed).readings == read(PLAIN).readings


@given(
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\x1b[32m", "\x1b[1;38;2;9;9;9m", "\x1b]0;title\x07"]),
    st.sampled_from([entry for entry in EXPECTED if entry["file"].endswith(".log")]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_colours_and_encodings_change_nothing(read, encoding, newline, colour, entry):
    context = context_of(entry)
    text = (SAMPLES / entry["file"]).read_bytes().decode()
    painted = newline.join(colour + text + ("\x1b[0m" if colour else "") for text in text.split("\n"))
    assert read(painted.encode(encoding), entry["file"], context) == read(text, entry["file"], context)


@given(st.integers(3, 30), st.integers(0, 10))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_restart_changes_little(read, crash, back):
    """What follows a restart is warm-up, too; steps that were done twice count twice."""
    whole = read(PLAIN)
    begin = max(1, crash - back)
    continued = read([*PLAIN[:crash], "using world size: 8, data-parallel size: 8", *run(begin, 60)])
    assert continued.tokens_per_second == pytest.approx(whole.tokens_per_second, rel=0.002)
    assert continued.spread < 0.01


def test_several_runs_in_one_file(read):
    for other, what in (
        (run(1, 20, total=900), "500 steps in all by 900"),
        (run(1, 20, batch=32), "64 sequences in a step by 32"),
    ):
        with pytest.raises(
            DataError, match=f"lines 59 and 60 are of two runs: step 59 is followed by step 1, and {what}"
        ):
            read([*PLAIN, *other])
    with pytest.raises(DataError, match=r"reports 8 and 16 devices, not 8 \(line 1, 61\)"):
        read(["using world size: 8, x", *PLAIN, "using world size: 16, x", *PLAIN])
    assert read([*PLAIN, *run(1, 20)]).readings == 54 + 18
    faster = [line(n, 400.0) for n in range(1, 20)]
    with pytest.raises(DataError, match="line 1 has 130,941 tokens/s and what begins at line 60 327,680: they are two"):
        read([*PLAIN, *faster])


def test_several_tools_in_one_file(read):
    titan = [f"step: {n} loss: 7 tps: 2,000 mfu: 9%" for n in range(4)]
    with pytest.raises(DataError, match=r"Megatron or MindSpeed \(line 1\) and torchtitan \(line 60\)"):
        read([*PLAIN, *titan])


def test_validation_and_skipped_steps_are_left_out(read):
    lines = [
        *PLAIN[:30],
        " validation loss at iteration 30 | lm loss value: 9.1E+00 |",
        *(line(n, 10.0, skipped=1) for n in range(31, 40)),
    ]
    found = read([*lines, *run(40, 60)[1:]])
    assert found.spread < 0.01
    assert read([line(n, 500.0, skipped=1) for n in range(1, 5)]).tokens_per_second == 64 * 2048 / 0.5


def test_progress_bars_and_lines_of_others_do_not_matter(read):
    noisy = (
        "\r".join(f"{n}%|####| {n}/60 [00:01<00:02]" for n in range(50))
        + "\n"
        + "".join(f"{text}\nloading shard\n\n" for text in PLAIN)
    )
    assert read(noisy) == read(PLAIN)
    cut = "\n".join(PLAIN)[:-90]
    assert read(cut).readings == read(PLAIN[:-1]).readings


@pytest.mark.parametrize("value", ["nan", "0.0", "-5.0", "inf"])
def test_a_number_that_cannot_be_names_its_line(read, value):
    broken = [*PLAIN[:3], PLAIN[3].replace("(ms): 1001.0", f"(ms): {value}"), *PLAIN[4:]]
    with pytest.raises(DataError, match=r"log, line 4: the log reports a step that took"):
        read(broken)
    if value == "nan":  # in an export: not logged
        return
    with pytest.raises(DataError, match=r"h.jsonl, line 2: the log reports \S+ tokens/s"):
        number = {"inf": "Infinity"}.get(value, value)
        read(f'{{"step": 1, "tokens_per_sec": 5}}\n{{"step": 2, "tokens_per_sec": {number}}}\n', "h.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"step": 1, "tps": 5}\n{"step": 2, "tp\n', r"line 2: damaged JSON"),
        ('{"step": 1, "tps": 5,\n "x": }', "damaged JSON"),
        ('{"perf/tokens_per_second": 1\n', "damaged JSON"),
        ('[{"step": 1, "tps": 5}, {"step"', "damaged JSON"),
        ("[" * 100000, "no line reports"),
        ('{"a":' * 100000, "damaged JSON"),
        ('{"loss": 1.0}', "no line reports"),
        ("step,tokens_per_sec\n1,5\n2,6,7\n", "line 3: 3 values under 2 names"),
        ('"Step","a - tps","b - tps"\n"1","2","3"\n', "columns of several runs: a, b"),
        (b"\x7fELF\x02\x01\x01\x00\x00\x00" * 40, "binary file"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" * 9, "binary file"),
        ("", "no line reports anything: the file is empty"),
        (" \n\n", "the file is empty"),
        ("loss 3\nloss 2\n", "known are Megatron"),
    ],
)
def test_what_cannot_be_read_says_so_in_one_line(read, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read(text, "file")
    assert len(str(caught.value).splitlines()) == 1
    assert "file" in str(caught.value)


def test_directories_and_missing_files(tmp_path):
    with pytest.raises(DataError, match="is a directory"):
        read_log(tmp_path, CONTEXT)
    with pytest.raises(DataError, match="cannot read .*gone"):
        read_log(tmp_path / "gone", CONTEXT)


def test_event_files_that_are_cut_or_damaged(read):
    data = (SAMPLES / "events.out.tfevents.1764000000.megatron").read_bytes()
    context = LogContext(8, 4096)
    whole = read(data, "events", context)
    assert read(data[:-5], "events", context).readings == whole.readings
    with pytest.raises(DataError, match=r"record \d+ of the event file is damaged"):
        read(data[:400] + b"\xff" * 400 + data[800:], "events", context)


def test_compressed_logs(read, tmp_path):
    import gzip

    packed = gzip.compress("\n".join(PLAIN).encode())
    assert read(packed, "log.gz").readings == read(PLAIN).readings
    for damaged in (packed[:-9], packed[:40], packed[:2] + b"?" * 50):
        with pytest.raises(DataError, match=r"log\.gz: the compressed file is damaged: \w"):
            read(damaged, "log.gz")


CHILD = """
import resource, sys
from pathlib import Path
from longcat.benchmark.logs import LogContext, read_log
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = read_log(Path(sys.argv[1]), LogContext(8, 2048))
print(found.readings, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_large_log_takes_little_memory(tmp_path, ranks):
    """64 MB of nothing but readings; 1 GB of them takes sixteen times the columns, which are what grows."""
    file, count = tmp_path / "log", 220_000 // ranks
    with file.open("w") as out:
        for n in range(1, count + 1):
            out.write(
                "".join(
                    (f"[rank{rank}]:" if ranks > 1 else "") + line(n, 1000.0 + n % 3, total=count) + "\n"
                    for rank in range(ranks)
                )
            )
    assert file.stat().st_size > 48e6
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(file)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    readings, growth = done.stdout.split()
    assert int(readings) == count - count // 10
    assert float(growth) < 60


def test_a_reading_at_a_time_or_a_piece_at_a_time_is_the_same(read, monkeypatch):
    """Pieces of many lines are read at once; small ones line by line."""
    import longcat.benchmark.logs.stream as stream

    noise = random.Random(1)
    lines = [line(n, noise.uniform(900, 1100)) for n in range(1, 500)]
    whole = read(lines)
    tags = ("", "[rank7]:", "[default0]: ", "3: ", "[1,0]<stdout>:")
    for size in (64, 1000, 30000):
        monkeypatch.setattr(stream, "PIECE", size)
        for tag in tags:
            assert read([tag + text for text in lines]) == whole
        for tag, other in ((tags[1], "[rank71]:"), (tags[3], "13: ")):
            assert read([name + text for text in lines for name in (tag, other)]).readings == whole.readings


def test_json_lines_between_other_lines(read):
    rows = [json.dumps({"step": n, "tokens_per_sec": 100.0 + n}) for n in range(4)]
    assert read(["starting", *rows]).tokens_per_second == pytest.approx(102)


@given(st.randoms(use_true_random=False), st.sampled_from(EXPECTED))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_ends_in_an_answer_or_one_line(read, chance, entry):
    data = bytearray((SAMPLES / entry["file"]).read_bytes())
    for _ in range(chance.randint(1, 4)):
        at, what = chance.randrange(max(1, len(data))), chance.randrange(4)
        if what == 0:
            del data[at : at + chance.randint(1, 60)]
        elif what == 1:
            data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 6)))
        elif what == 2:
            del data[at:]
        else:
            data[at : at + 1] = chance.choice(
                [b"nan", b"0", b"-", b"1e400", b"inf", b"\n", b"\r", b'"', b"{", b"|", b"9" * 30]
            )
    try:
        assert read(bytes(data), entry["file"], context_of(entry)).tokens_per_second > 0
    except DataError as error:
        assert len(str(error).splitlines()) == 1


def test_a_compressed_log_is_no_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "FREE_BYTES", 1 << 20)
    path = tmp_path / "train.log.gz"
    path.write_bytes(gzip.compress(b"\n" * (64 << 20)))
    with pytest.raises(DataError, match=r"train\.log\.gz unpacks to more than 250 times its size"):
        read_log(path, CONTEXT)
