"""The page of an evaluation has scores beside chance, and answers as text."""

import json
import re

from longcat.evaluation.page import answers, table, write


def test_scores_stand_beside_their_error_and_chance():
    scores = {
        "held_out": {"bits_per_byte": 2.0, "unigram_bits_per_byte": 4.0, "ngram_bits_per_byte": 3.0},
        "t": {"acc": 0.5, "acc_stderr": 0.1, "acc_chance": 0.25, "documents": 8.0},
    }
    rows = {(row["subject"], row["metric"]): (row["value"], row["stderr"], row["chance"]) for row in table(scores)}
    assert [row["items"] for row in table(scores)] == [None, 8.0]
    assert rows == {
        ("held_out", "bits_per_byte"): (2.0, None, 4.0),
        ("t", "acc"): (0.5, 0.1, 0.25),
    }


def test_what_is_clearly_better_than_chance_is_bold(tmp_path):
    """By more than three standard errors, in the direction that is better."""

    def of(name, value, chance, stderr):
        return {name: value, f"{name}_stderr": stderr, f"{name}_chance": chance}

    scores = {
        "above": of("acc", 0.40, 0.25, 0.04),
        "near": of("acc", 0.36, 0.25, 0.04),
        "below": of("acc", 0.05, 0.25, 0.01),
        "unknown": {"acc": 0.9, "acc_stderr": 0.01},
        "less is better": {"bits_per_byte": 2.0, "unigram_bits_per_byte": 4.0, "bits_per_byte_stderr": 0.1},
        "more is worse": {"bits_per_byte": 5.0, "unigram_bits_per_byte": 4.0, "bits_per_byte_stderr": 0.1},
    }
    assert {row["subject"] for row in table(scores) if row["beats_chance"]} == {"above", "less is better"}
    write(tmp_path, scores, "")
    rows = re.findall(r'title">([^<]+)<br>.*?data-label="value">(<b>)?', (tmp_path / "report.html").read_text())
    assert dict(rows) == {name: "<b>" if name in ("above", "less is better") else "" for name in scores}


def test_right_and_wrong_answers_are_shown_as_text(tmp_path):
    samples = [
        {
            "prompt": f"<script>{i}</script>",
            "right": i % 3 == 0,
            "choices": ["yes", "no"],
            "answer": i % 2,
            "target": "0",
        }
        for i in range(20)
    ] + [{"prompt": "x", "right": None, "answer": "?"}]
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "a%2Fb.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
    found = answers(tmp_path / "samples")["a/b"]
    assert [(one["right"], one["answer"], one["target"]) for one in found] == [
        (True, "yes", "yes"),
        (True, "no", "yes"),
        (False, "no", "yes"),
        (False, "yes", "yes"),
    ]
    write(tmp_path, {"a/b": {"acc": 0.3}}, "<b>")
    page = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;0&lt;/script&gt;" in page
    assert "<script>" not in page and "<b>\n" not in page
    assert answers(tmp_path / "none") == {}


def test_what_a_score_stands_on_and_why_a_task_failed_are_shown(tmp_path):
    figures = {"acc": 0.5, "acc_stderr": 0.1, "documents": 1200.0, "few_shot": 2.0, "truncated": 7.0, "ppl": 2.5e14}
    write(tmp_path, {"held_out": {"bits_per_byte": 2.0}, "t": figures}, "", {"t": "1.2"}, {"bad": "no <file>"})
    page = (tmp_path / "report.html").read_text()
    row = re.search(r'title">t<br>.*?acc<.*?</tr>', page)[0]
    assert re.findall(r'data-label="([^"]+)">(?:<b>)?([^<]+)', row) == [
        ("value", "0.500"),
        ("± standard error", "0.100"),
        ("chance", "–"),
        ("items", "1,200"),
        ("few-shot", "2"),
        ("version", "1.2"),
        ("truncated", "7"),
    ]
    assert ">2.500e+14<" in page
    assert "lost their beginning" in page
    assert "<li>bad: no &lt;file&gt;</li>" in page
    write(tmp_path, {"held_out": {"bits_per_byte": 2.0}}, "")
    assert "few-shot" not in (tmp_path / "report.html").read_text()
