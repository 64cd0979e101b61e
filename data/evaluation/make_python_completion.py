"""Makes python_completion.jsonl: which of four lines goes on with this code?

    python data/evaluation/make_python_completion.py

Templates written for this project (MIT, like the rest of it), filled from a fixed seed. The wrong lines are right lines
of the same item's kind with one thing changed, so neither length nor vocabulary gives the answer away.
"""

import json
import random
from pathlib import Path

NAMES = ["value", "item", "node", "line", "entry", "path", "name", "token", "field", "record"]
LISTS = ["values", "items", "nodes", "lines", "entries", "paths", "names", "tokens", "fields", "records"]
ATTRIBUTES = ["size", "count", "start", "width", "limit", "index", "parent", "prefix", "mode", "level"]
ERRORS = ["ValueError", "TypeError", "KeyError", "IndexError", "OSError", "RuntimeError"]


def store(rng):
    a, b, c, d = rng.sample(ATTRIBUTES, 4)
    prompt = f"class Reader:\n    def __init__(self, {a}, {b}):\n        self.{a} = {a}\n        self.{b} ="
    return prompt, [f" {b}\n", f" {a}\n", f" {c}\n", f" {d}\n"]


def loop(rng):
    index = rng.randrange(len(NAMES))
    name, many = NAMES[index], LISTS[index]
    others = rng.sample([n for n in NAMES if n != name], 3)
    return f"    for {name} in {many}:\n        result.append(", [f"{n})\n" for n in (name, *others)]


def returned(rng):
    a, b, c, d = rng.sample(NAMES, 4)
    prompt = f"def get_{a}({b}):\n    {a} = {b}.strip()\n    if not {a}:\n        return None\n    return"
    return prompt, [f" {a}\n", f" {c}\n", f" {d}\n", " self\n"]


def caught(rng):
    error = rng.choice(ERRORS)
    name = rng.choice(NAMES)
    prompt = f"    try:\n        {name} = int({name})\n    except {error} as exc:\n        raise"
    return prompt, [f" {error}(str(exc))\n", f" {error}(int exc)\n", f" as {error}(exc)\n", f" except {error}(exc)\n"]


def opened(rng):
    name = rng.choice(["f", "fp", "stream", "handle"])
    others = [n for n in ["f", "fp", "stream", "handle"] if n != name]
    prompt = f"    with open(filename) as {name}:\n        data ="
    return prompt, [f" {n}.read()\n" for n in (name, *others)]


def closed(rng):
    name = rng.choice(NAMES)
    prompt = f"    if isinstance({name}, (list, tuple)):\n        return [str(x) for x in {name}"
    return prompt, ["]\n", ")\n", "}\n", ":\n"]


def main():
    rng = random.Random(0)
    kinds = [store, loop, returned, caught, opened, closed]
    seen, lines = set(), []
    while len(lines) < 200:
        prompt, choices = kinds[len(lines) % len(kinds)](rng)
        right = choices[0]
        rng.shuffle(choices)
        key = (prompt, *choices)
        if key in seen:
            continue
        seen.add(key)
        lines.append(json.dumps({"prompt": prompt, "choices": choices, "answer": choices.index(right)}))
    Path(__file__).with_name("python_completion.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
