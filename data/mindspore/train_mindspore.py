"""Pre-train the LongCat model beside this file with MindSpore, on the token shards of `longcat preprocess`.

    python train_mindspore.py TOKENS --steps 320 --output trained --metrics metrics.jsonl

TOKENS is the folder that `longcat preprocess` prints. Batches, losses, AdamW, its schedule and the control of the routers' biases are
those of `longcat pretrain` on one process, so the losses are, too; options are settings of its section `training`, with the same
names and defaults. The result is a folder that `longcat import` reads, and `longcat mfu --log metrics.jsonl` reads the record.
There is no Muon here, no sparse attention, no masking of documents, and no parallelism.

The step is compiled into two graphs, one for losses and gradients, one for the update; `--pynative` runs it operator by operator.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy

try:
    from longcat_mindspore import check_can_be_made, load, read_json, save, sha256  # noqa: I001  (first: it refuses other versions)
    import mindspore
    from mindspore import ParameterTuple, Tensor, nn, ops
except ImportError as error:
    if __name__ != "__main__":
        raise
    print(f"train_mindspore.py: {error}", file=sys.stderr)
    sys.exit(2)

IGNORE, PADDING = -100, -1
"""Target that is not learnt, and number of the document that is padding."""
LOSSES = ("language_model", "mtp", "balance", "importance", "hidden_z")
COUNTS = ("steps", "global_batch_sequences", "balance_groups", "max_skipped_steps")
"""Settings that are at least 1."""
POSITIVE = ("learning_rate", "router_learning_rate_fraction", "epsilon", "max_gradient_norm")
FRACTIONS = ("final_learning_rate_fraction", "router_learning_rate_fraction", "final_bias_update_fraction")
"""Settings that are at most 1."""
BELOW_ONE = ("beta1", "beta2")


@dataclass(frozen=True)
class Settings:
    """Settings of the section `training`, and the seed of the data's order."""

    steps: int = 320
    global_batch_sequences: int = 8
    seed: int = 0
    learning_rate: float = 1e-3
    final_learning_rate_fraction: float = 0.1
    router_learning_rate_fraction: float = 0.1
    warmup_steps: int = 20
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-16
    weight_decay: float = 0.1
    max_gradient_norm: float = 1.0
    target_ffn_experts: float = 0.0  # 0 takes two thirds of moe_topk, or all of it without zero-computation experts
    bias_update_rate: float = 1e-3
    final_bias_update_fraction: float = 0.1
    mtp_weight: float = 0.3
    balance_weight: float = 1e-3
    balance_groups: int = 1
    importance_weight: float = 0.03
    hidden_z_weight: float = 1e-7
    max_skipped_steps: int = 10

    def __post_init__(self):
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            least = 1 if name in COUNTS else 0
            bounds = {
                f"at least {least}": value >= least,
                "more than 0": value > 0 or name not in POSITIVE,
                "at most 1": value <= 1 or name not in FRACTIONS,
                "below 1": value < 1 or name not in BELOW_ONE,
                "finite": value < math.inf,
            }
            broken = [bound for bound, holds in bounds.items() if not holds]
            if broken:
                raise ValueError(f"{name} is {value}, and has to be {broken[0]}")

    def learning_rate_of(self, step):
        """Return the learning rate of a step (0-based): linear warm-up, then half a cosine."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        floor = self.final_learning_rate_fraction
        return self.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)

    def bias_update_of(self, step):
        """Return the step size of the routers' biases."""
        progress = min(1.0, step / max(1, self.steps - 1))
        return self.bias_update_rate * (1 - progress * (1 - self.final_bias_update_fraction))


class Rows:
    """Training rows of the shards, in the order of `longcat pretrain`.

    `index.json` names the shards: SPLIT-N.npy holds rows of one token more than the model sees, SPLIT-N.spans.npy the row,
    column and offset in its document of each piece of a document, and offset -1 where padding begins.
    """

    def __init__(self, directory, seed, batch_sequences):
        self.directory, self.seed, self.batch_sequences = Path(directory), seed, batch_sequences
        self.index = read_json(self.directory / "index.json")
        try:
            self.shards = [
                (self._open(shard["file"]), self._open(shard["spans_file"]))
                for shard in self.index["splits"]["train"]["shards"]
            ]
            self.length = self.index["sequence_length"]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{self.directory}/index.json: {error} is missing; is it a folder of longcat preprocess?"
            ) from None
        self.ends = numpy.cumsum([len(rows) for rows, _ in self.shards])
        if not sum(len(rows) for rows, _ in self.shards):
            raise ValueError(f"{self.directory}: has no rows to train on")

    def batch(self, step):
        """Return tokens, targets (`IGNORE` where nothing is learnt) and document numbers of a step, int64 `[rows, seq]`."""
        made = [self._row(int(index)) for index in self._indices(step)]
        return tuple(numpy.stack(of) for of in zip(*made))

    def _row(self, index):
        shard = int(numpy.searchsorted(self.ends, index, side="right"))
        rows, spans = self.shards[shard]
        row = index - int(self.ends[shard]) + len(rows)
        begin, end = numpy.searchsorted(spans[:, 0], [row, row + 1])
        columns, offsets = spans[begin:end, 1], spans[begin:end, 2]
        tokens = rows[row].astype(numpy.int64)
        names = numpy.where(offsets == PADDING, PADDING, numpy.arange(len(offsets)))
        documents = numpy.repeat(names, numpy.diff(columns, append=len(tokens)))
        ignored = documents == PADDING
        ignored[columns[offsets > 0]] = True  # was the last target of the row that the document was cut at
        return tokens[:-1], numpy.where(ignored, IGNORE, tokens)[1:], documents[:-1]

    def _indices(self, step):
        """Permute the rows anew in each epoch: a Feistel network over the smallest even number of bits that holds a row."""
        size = int(self.ends[-1])
        places = step * self.batch_sequences + numpy.arange(self.batch_sequences)
        return [_shuffled(place % size, size, self.seed, place // size) for place in places.tolist()]

    def _open(self, name):
        try:
            return numpy.load(self.directory / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {self.directory / name}: {error}") from None


def _shuffled(place, size, seed, epoch, rounds=6):
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = numpy.random.SeedSequence([seed, epoch]).generate_state(rounds, numpy.uint64).tolist()
    while True:
        left, right = place >> half, place & mask
        for key in keys:
            left, right = right, left ^ (_mix(right + key) & mask)
        place = left << half | right
        if place < size:
            return place


def _mix(value):
    """Apply splitmix64's finalizer."""
    value &= (1 << 64) - 1
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> shift)) * factor & ((1 << 64) - 1)
    return value ^ (value >> 31)


class Losses(nn.Cell):
    """The weighted loss of a batch, and what it consists of."""

    def __init__(self, model, settings):
        super().__init__()
        config = model.config
        self.model, self.groups = model, settings.balance_groups
        self.mtp_weight, self.hidden_z_weight = settings.mtp_weight, settings.hidden_z_weight
        self.balance_weight, self.importance_weight = settings.balance_weight, settings.importance_weight
        self.depths, self.end_of_text = config.get("mtp_num_layers") or 0, config["eos_token_id"]
        self.routed, self.zero, self.top_k = config["n_routed_experts"], config["zero_expert_num"], config["moe_topk"]
        self.target = target_ffn_experts(config, settings)
        if self.routed % self.groups:
            raise ValueError(
                f"balance_groups is {self.groups}, which does not divide the model's {self.routed} experts"
            )
        if self.target > self.top_k:
            raise ValueError(f"target_ffn_experts is {self.target}, and a token has {self.top_k} experts in all")

    def construct(self, tokens, targets, real):
        """Return the weighted loss, the unweighted ones in the order of `LOSSES`, and the slots of experts `[layers, experts]`.

        `tokens` and `targets` are int64 `[batch, seq]`, `real` fp32 of the same shape is 0 for padding.
        """
        last, probability, load = self.model.model(tokens, real.reshape(-1, 1))
        hidden = self.model.model.norm(last)
        count = ops.maximum((targets != IGNORE).astype(mindspore.float32).sum(), 1.0)
        language_model = self._unlikelihood(hidden, targets) / count
        mtp = language_model * 0.0
        if self.depths:
            states = self.model.model.ahead(tokens, hidden, targets)
            for i in range(self.depths):
                mtp = mtp + self._unlikelihood(states[i], self._ahead(targets, i + 1)) / (count * self.depths)
        squares = ops.square(ops.logsumexp(ops.abs(last.astype(mindspore.float32)), -1))
        hidden_z = (squares * real).sum() / ops.maximum(real.sum(), 1.0)
        balance, importance = self._balance(probability, load)
        total = language_model + self.balance_weight * balance + self.importance_weight * importance
        total = total + self.mtp_weight * mtp + self.hidden_z_weight * hidden_z
        return total, ops.stack([language_model, mtp, balance, importance, hidden_z]), load

    def _unlikelihood(self, hidden, targets):
        """Sum -log p of the targets."""
        flat, learnt = (
            ops.maximum(targets, 0).reshape(-1, 1),
            (targets != IGNORE).astype(mindspore.float32).reshape(-1, 1),
        )
        log_p = ops.log_softmax(self.model.predict(hidden).reshape(flat.shape[0], -1), -1)
        return -(ops.gather_elements(log_p, 1, flat) * learnt).sum()

    def _ahead(self, targets, depth):
        """Shift targets to those of a depth; what is behind the row, and what follows an end of text meanwhile, is ignored."""
        nothing = ops.full_like(targets, IGNORE)
        ended = targets == self.end_of_text
        shifted = ops.cat([targets[:, 1:], nothing[:, :1]], 1)
        for _ in range(1, depth):
            ended = ops.logical_or(ended, shifted == self.end_of_text)
            shifted = ops.cat([shifted[:, 1:], nothing[:, :1]], 1)
        return ops.where(ended, nothing, shifted)

    def _balance(self, probability, load):
        """Return the balance and the importance loss (arXiv 2509.01322; arXiv 1701.06538, eq. 7), summed over layers."""
        groups = self.groups
        tokens = ops.maximum(load.sum(1, keepdims=True) / self.top_k, 1.0)
        mean, share = probability / tokens, load / tokens
        per_group = share[:, : self.routed].reshape(load.shape[0], groups, -1).sum(2) * (groups / self.target)
        balance = (per_group * mean[:, : self.routed].reshape(load.shape[0], groups, -1).sum(2)).sum()
        fraction = self.target / self.top_k
        importance = ops.square(mean[:, : self.routed]).sum(1) * (self.routed / fraction)
        if self.zero and fraction < 1:
            zero_mean, zero_share = mean[:, self.routed :].sum(1), share[:, self.routed :].sum(1)
            balance = balance + (zero_share * zero_mean).sum() / (self.top_k - self.target)
            importance = importance + ops.square(zero_mean) / (1 - fraction)
        return balance, (importance - 1).sum()


class Update(nn.Cell):
    """One step of AdamW (arXiv 1711.05101), and of the routers' selection biases."""

    def __init__(self, model, settings):
        super().__init__()
        self.beta1, self.beta2, self.epsilon = settings.beta1, settings.beta2, settings.epsilon
        self.weights = ParameterTuple([weight for weight in model.get_parameters() if weight.requires_grad])
        self.first = self.weights.clone("first_moment", init="zeros")
        self.second = self.weights.clone("second_moment", init="zeros")
        self.biases = ParameterTuple([layer.mlp.router.e_score_correction_bias for layer in model.model.layers])
        self.routed = model.config["n_routed_experts"]
        self.wanted = target_ffn_experts(model.config, settings) / model.config["moe_topk"] / self.routed
        rests = ("embed_tokens", "ngram_embeddings.tables")
        self.decays = [
            settings.weight_decay if len(weight.shape) > 1 and not any(part in weight.name for part in rests) else 0.0
            for weight in self.weights
        ]
        router = settings.router_learning_rate_fraction
        self.scales = [router if ".router." in weight.name else 1.0 for weight in self.weights]

    def construct(self, gradients, load, numbers):
        """Move everything by fp32 `numbers`: factor on gradients, learning rate, 1 - beta^step twice, step of the biases."""
        factor, rate, first_part, second_part, bias_step = numbers
        beta1, beta2 = self.beta1, self.beta2
        for i in range(len(self.weights)):
            gradient, own_rate = gradients[i] * factor, rate * self.scales[i]
            first = ops.assign(self.first[i], beta1 * self.first[i] + (1 - beta1) * gradient)
            second = ops.assign(self.second[i], beta2 * self.second[i] + (1 - beta2) * ops.square(gradient))
            size = ops.sqrt(second) / ops.sqrt(second_part) + self.epsilon
            kept = self.weights[i] * (1 - own_rate * self.decays[i])
            ops.assign(self.weights[i], kept - own_rate / first_part * (first / size))
        for i in range(len(self.biases)):
            slots = load[i].sum()
            step = bias_step * (self.wanted * slots - load[i][: self.routed]) / ops.maximum(slots, 1.0)
            ops.assign(self.biases[i], self.biases[i] + ops.cat([step, ops.zeros_like(load[i][self.routed :])]))
        return rate


def target_ffn_experts(config, settings):
    """Return the mean number of routed experts of a token that balance aims at."""
    return settings.target_ffn_experts or config["moe_topk"] * (2 / 3 if config["zero_expert_num"] else 1.0)


class Trainer:
    """Model, optimizer and training step, compiled into graphs unless it is told not to."""

    def __init__(self, model, settings, graph=True):
        self.model, self.settings = model, settings
        self.update = Update(model, settings)
        self.weights = self.update.weights
        self.compute = gradients_of(Losses(model, settings), self.weights)
        """Makes losses, expert load, gradient norm and gradients of tokens, targets and what is real."""
        if graph:
            self.compute, self.update = mindspore.jit(self.compute), mindspore.jit(self.update)
        self.taken = 0
        """Steps of the optimizer."""

    def step(self, step, tokens, targets, documents):
        """Train on a batch, and return what there is to say of it; without finite numbers nothing moves."""
        real = (documents != PADDING).astype(numpy.float32)
        parts, load, norm, gradients = self.compute(Tensor(tokens), Tensor(targets), Tensor(real))
        found, norm = dict(zip(LOSSES, parts.asnumpy().tolist())), float(norm)
        rate = self.settings.learning_rate_of(step)
        skipped = not (math.isfinite(norm) and all(map(math.isfinite, found.values())))
        if not skipped:
            self.taken += 1
            limit = self.settings.max_gradient_norm
            numbers = (
                limit / norm if norm > limit else 1.0,
                rate,
                1 - self.settings.beta1**self.taken,
                1 - self.settings.beta2**self.taken,
                self.settings.bias_update_of(step),
            )
            # a graph is compiled anew for other constants, which tuples are unless they are mutable
            tensors = tuple(Tensor(number, mindspore.float32) for number in numbers)
            self.update(mindspore.mutable(gradients), load, mindspore.mutable(tensors))
        return {
            "step": step + 1,
            "train/loss": found.pop("language_model"),
            **{f"train/{name}_loss": value for name, value in found.items()},
            "train/gradient_norm": norm,
            "train/learning_rate": rate,
            "train/skipped": skipped,
        }


def gradients_of(losses, weights):
    """Return a function that computes losses, load, gradient norm and gradients of a batch."""
    differentiated = mindspore.value_and_grad(losses, None, weights, has_aux=True)

    def compute(tokens, targets, real):
        (_, parts, load), gradients = differentiated(tokens, targets, real)
        square = ops.square(gradients[0]).sum()
        for gradient in gradients[1:]:
            square = square + ops.square(gradient).sum()
        return parts, load, ops.sqrt(square), gradients

    return compute


def check_fits(folder, rows, model):
    """Refuse tokens that are not of the model's tokenizer, and rows that are too long for it.

    Raises:
        ValueError: they are not.
    """
    tokenizer = Path(folder) / "tokenizer.json"
    longest = model.config.get("max_position_embeddings", rows.length)
    if rows.length > longest:
        raise ValueError(
            f"{rows.directory}: rows have {rows.length} tokens, more than max_position_embeddings {longest}"
        )
    if rows.index.get("vocabulary_size", 0) > model.config["vocab_size"]:
        raise ValueError(
            f"{rows.directory}: has {rows.index['vocabulary_size']} kinds of tokens, the model {model.config['vocab_size']}"
        )
    if tokenizer.exists() and sha256(tokenizer) != rows.index.get("tokenizer_sha256"):
        raise ValueError(f"{rows.directory}: its tokens are not of {tokenizer}; preprocess with that tokenizer")


def main(arguments=None):
    """Train, and return the exit code."""
    parser = argparse.ArgumentParser(prog="train_mindspore.py", description=__doc__.splitlines()[0])
    parser.add_argument("tokens", help="folder of longcat preprocess")
    parser.add_argument(
        "--model", default=str(Path(__file__).parent), help="folder of longcat export (default: this one)"
    )
    parser.add_argument("--output", help="folder to write the trained model to; must not exist")
    parser.add_argument("--metrics", help="file to append a JSON object a step to")
    parser.add_argument("--stop-after", type=int, metavar="STEPS", help="end earlier, on the schedule of all --steps")
    parser.add_argument("--pynative", action="store_true", help="run operator by operator instead of compiled graphs")
    for field in fields(Settings):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, default=field.default)
    asked = parser.parse_args(arguments)
    try:
        settings = Settings(**{field.name: getattr(asked, field.name) for field in fields(Settings)})
        if asked.stop_after is not None and asked.stop_after < 1:
            raise ValueError(f"--stop-after is {asked.stop_after}, and has to be at least 1")
        if asked.output:
            check_can_be_made(Path(asked.output))
        if asked.metrics:
            _append(asked.metrics, "")
        model, rows = load(asked.model), Rows(asked.tokens, settings.seed, settings.global_batch_sequences)
        check_fits(asked.model, rows, model)
        _train(Trainer(model, settings, graph=not asked.pynative), rows, asked)
        if asked.output:
            save(model, asked.output, asked.model)
            print(asked.output)
    except ValueError as error:
        print(f"train_mindspore.py: {error}", file=sys.stderr)
        return 2
    return 0


def _train(trainer, rows, asked):
    tokens, skipped, most_skipped = rows.length * rows.batch_sequences, 0, trainer.settings.max_skipped_steps
    for step in range(min(asked.steps, asked.stop_after or asked.steps)):
        began = time.perf_counter()
        record = trainer.step(step, *rows.batch(step))
        record["perf/tokens_per_second"] = tokens / (time.perf_counter() - began)
        print(
            f"step {record['step']:,} of {asked.steps:,}, loss {record['train/loss']:.3f}, "
            f"gradient norm {record['train/gradient_norm']:.3g}, {record['perf/tokens_per_second']:,.0f} tokens/s",
            flush=True,
        )
        if asked.metrics:
            _append(asked.metrics, json.dumps(record) + "\n")
        skipped = skipped + 1 if record["train/skipped"] else 0
        if skipped == most_skipped:
            raise ValueError(
                f"{skipped} steps in a row up to step {record['step']} were not finite, and no model is written; try a smaller "
                "--learning-rate"
            )


def _append(path, text):
    try:
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
