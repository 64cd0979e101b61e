"""Ways to guess an answer without understanding the question; each gives a score to every choice, and the highest is guessed."""

import itertools
import re
from collections import Counter
from statistics import median


def words(text):
    return re.findall(r"[a-z]+|\d+|[\u4e00-\u9fff]", text.lower())


def numbers(text):
    return [int(digits) for digits in re.findall(r"\d+", text)]


def size(text):
    """The numbers of a text as one, so that times are in order, and routes as well as they may be."""
    found = numbers(text)
    return found[0] * 100 + found[1] if len(found) > 1 else float(found[0]) if found else 0.0


def overlap(question, choice):
    asked = set(words(question))
    return sum(word in asked for word in words(choice))


def share(question, choice):
    found = words(choice)
    return overlap(question, choice) / len(found)


def characters(question, choice):
    return sum(question.count(character) for character in set(choice))


def last(question, choice):
    return -abs(size(choice) - numbers(question)[-1])


def first_number(question, choice):
    return -abs(size(choice) - numbers(question)[0])


def place(question, choice):
    return question.find(choice)


def alike(choices):
    """How much each choice has in common with the others: near misses made from the answer would give it away."""
    counts = Counter(word for choice in choices for word in set(words(choice)))
    return [sum(counts[word] for word in set(words(choice))) for choice in choices]


def swaps(choices):
    """How near each choice is to the others, position by position."""
    return [sum(a == b for other in choices for a, b in zip(choice, other, strict=False)) for choice in choices]


def middle(choices):
    centre = median(map(size, choices))
    return [-abs(size(choice) - centre) for choice in choices]


def each(score):
    return lambda item: [score(item["question"], choice) for choice in item["choices"]]


def opposite(guess):
    return lambda item: [-score for score in guess(item)]


BOTH_WAYS = {
    "length": each(lambda _, choice: len(choice)),
    "length in words": each(lambda _, choice: len(words(choice))),
    "length in bytes": each(lambda _, choice: len(choice.encode())),
    "unigram overlap": each(overlap),
    "share of known words": each(share),
    "character overlap": each(characters),
    "number": each(lambda _, choice: size(choice)),
    "like the last number": each(last),
    "like the first number": each(first_number),
    "place in the question": each(place),
    "last place in the question": each(lambda question, choice: question.rfind(choice)),
    "alphabet": lambda item: [sorted(item["choices"]).index(choice) for choice in item["choices"]],
    "words in common": lambda item: alike(item["choices"]),
    "letters in common": lambda item: swaps(item["choices"]),
    "middle number": lambda item: middle(item["choices"]),
}
GUESSERS = {
    **BOTH_WAYS,
    **{f"{name}, least": opposite(guess) for name, guess in BOTH_WAYS.items()},
    "first": lambda item: [1, 0, 0, 0],
    "second": lambda item: [0, 1, 0, 0],
    "third": lambda item: [0, 0, 1, 0],
    "fourth": lambda item: [0, 0, 0, 1],
    "yes": each(lambda _, choice: bool(re.search("yes|可以", choice))),
}


def accuracy(guess, items):
    """Return the expected accuracy of a guesser that decides by lot among its best, and how far chance may be from it."""
    total = 0.0
    variance = 0.0
    for item in items:
        scores = guess(item)
        best = [index for index, score in enumerate(scores) if score == max(scores)]
        total += (item["answer"] in best) / len(best)
        # of a fair item: the right answer is any of the four, so it is among the best with probability b / 4
        variance += (1 / len(best)) * 0.25 - 0.25**2
    count = len(items)
    return total / count, variance**0.5 / count


def answers_elsewhere(items):
    """Guess the choice that is most often right in the other half of the items: what a model learns from answers alone."""
    halves = items[::2], items[1::2]
    known = [Counter(item["choices"][item["answer"]] for item in half) for half in halves]
    shapes = [Counter(re.sub(r"\d", "0", item["choices"][item["answer"]]) for item in half) for half in halves]

    def guess(index):
        def scores(item):
            return [(known[1 - index][c], shapes[1 - index][re.sub(r"\d", "0", c)]) for c in item["choices"]]

        return scores

    results = [accuracy(guess(index), half) for index, half in enumerate(halves)]
    return sum(score for score, _ in results) / 2, sum(error**2 for _, error in results) ** 0.5 / 2


def words_elsewhere(items):
    """Guess by which words, digits and letters right answers of the other half have more often than wrong ones."""
    halves = items[::2], items[1::2]

    def features(choice):
        tokens = words(choice)
        return [
            *tokens,
            *(f"{a} {b}" for a, b in itertools.pairwise(tokens)),
            f"from {tokens[0]}",
            f"to {choice[-1]}",
        ]

    def rates(half):
        right, offered = Counter(), Counter()
        for item in half:
            for index, choice in enumerate(item["choices"]):
                for feature in set(features(choice)):
                    offered[feature] += 1
                    right[feature] += index == item["answer"]
        return {feature: (right[feature] + 2.5) / (offered[feature] + 10) for feature in offered}

    known = [rates(half) for half in halves]

    def guess(index):
        def scores(item):
            return [
                sum(known[1 - index].get(f, 0.25) for f in set(features(c))) / len(set(features(c)))
                for c in item["choices"]
            ]

        return scores

    results = [accuracy(guess(index), half) for index, half in enumerate(halves)]
    return sum(score for score, _ in results) / 2, sum(error**2 for _, error in results) ** 0.5 / 2
