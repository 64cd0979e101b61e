"""LongCat-Flash and Flash-Lite in plain MindSpore, for the weights that lie beside this file.

The folder was written by `longcat export --format mindspore`. It holds

    config.json              the model's sizes, under Hugging Face's names
    model*.safetensors       its weights, under the names that the parameters of `Longcat` have; experts are stacked
    checksums.json           sha256 of each file but the programs
    tokenizer.json           and its companions, where the checkpoint has a tokenizer
    longcat_mindspore.py     this file: needs MindSpore 2.10 and numpy below 2, and nothing else
    train_mindspore.py       pre-training with the shards of `longcat preprocess`

Use it in PyNative mode, or compile it into a graph:

    import mindspore
    from longcat_mindspore import load, save

    model = load(".")                             # or load(".", mindspore.bfloat16) on Ascend
    logits = model(tokens)                        # int64 [batch, seq] -> fp32 [batch, seq, vocab]
    logits = mindspore.jit(model)(tokens)         # the same as one graph
    save(model, "elsewhere", ".")                 # a folder like this one, which `longcat import` reads

Shapes are in brackets. Formulas are those of the LongCat-Flash report (arXiv 2509.01322) and, for n-grams, of arXiv 2601.21204.
Two things are simpler than where speed matters: attention makes its whole matrix of scores, and every expert computes every
token, with weight 0 where it was not chosen. On Ascend put MindSpore's flash attention and grouped matrix product there.
"""

import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import numpy

CHECKED_WITH = "2.10"
"""Version of MindSpore that this file was checked with."""
ANY_VERSION = "LONGCAT_ANY_MINDSPORE"
"""Environment variable that accepts another one."""


def _refuse_versions():
    """Refuse what the model was not checked with, before MindSpore is loaded: with numpy 2 it fails in odd ways later."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("mindspore")
    except PackageNotFoundError:
        raise ImportError(f"there is no MindSpore; pip install mindspore=={CHECKED_WITH}.0 'numpy<2'") from None
    if int(numpy.__version__.split(".")[0]) >= 2:
        raise ImportError(
            f"MindSpore {CHECKED_WITH} does not work with numpy {numpy.__version__}; pip install 'numpy<2' beside it"
        )
    if found.rsplit(".", 1)[0] != CHECKED_WITH and not os.environ.get(ANY_VERSION):
        raise ImportError(
            f"longcat_mindspore.py was checked with MindSpore {CHECKED_WITH}, this is {found}; "
            f"pip install mindspore=={CHECKED_WITH}.0, or set {ANY_VERSION}=1 to go on with it"
        )


_refuse_versions()

import mindspore  # noqa: E402
from mindspore import Parameter, Tensor, nn, ops  # noqa: E402
from mindspore.common.initializer import initializer  # noqa: E402

CONFIG, WEIGHTS, INDEX, CHECKSUMS = (
    "config.json", "model.safetensors", "model.safetensors.index.json", "checksums.json"
)  # fmt: skip
LORA_NORM_EPS = 1e-6
"""Epsilon of the two norms inside attention, whatever the configuration says."""


class Linear(nn.Cell):
    """Multiplies `[..., inputs]` by a weight `[outputs, inputs]`."""

    def __init__(self, inputs, outputs, bias=False):
        super().__init__()
        self.weight = _zeros(outputs, inputs)
        self.bias = _zeros(outputs) if bias else None

    def construct(self, x):
        y = ops.matmul(x, self.weight.T)
        return y if self.bias is None else y + self.bias


class Embedding(nn.Cell):
    """Looks up rows of a weight `[rows, width]`."""

    def __init__(self, rows, width):
        super().__init__()
        self.weight = _zeros(rows, width)

    def construct(self, numbers):
        return ops.gather(self.weight, numbers, 0)


class RMSNorm(nn.Cell):
    """Divides by the root of the mean square, in fp32, and multiplies by a weight and a constant."""

    def __init__(self, size, eps, scale=1.0):
        super().__init__()
        self.weight = _zeros(size)
        self.eps, self.scale = eps, scale

    def construct(self, x):
        wide = x.astype(mindspore.float32)
        size = ops.rsqrt(ops.mean(ops.square(wide), -1, keep_dims=True) + self.eps)
        return (wide * size).astype(x.dtype) * (self.weight * self.scale)


class FeedForward(nn.Cell):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_proj = Linear(hidden, inner)
        self.up_proj = Linear(hidden, inner)
        self.down_proj = Linear(inner, hidden)

    def construct(self, x):
        return self.down_proj(_silu(self.gate_proj(x)) * self.up_proj(x))


class LatentAttention(nn.Cell):
    """Causal attention with compressed query, key and value (MLA), whose compressed parts are scaled."""

    def __init__(self, config):
        super().__init__()
        hidden, bias = config["hidden_size"], config["attention_bias"]
        query, latent = config["q_lora_rank"], config["kv_lora_rank"]
        self.heads, self.rank = config["num_attention_heads"], latent
        self.nope, self.rope, self.value = (
            config[f"{name}_head_dim"] for name in ("qk_nope", "qk_rope", "v")
        )  # fmt: skip
        self.scale = (self.nope + self.rope) ** -0.5 * _sharpening(config)
        query_scale = math.sqrt(hidden / query) if config["mla_scale_q_lora"] else 1.0
        latent_scale = math.sqrt(hidden / latent) if config["mla_scale_kv_lora"] else 1.0
        self.q_a_proj = Linear(hidden, query, bias)
        self.q_a_layernorm = RMSNorm(query, LORA_NORM_EPS, query_scale)
        self.q_b_proj = Linear(query, self.heads * (self.nope + self.rope))
        self.kv_a_proj_with_mqa = Linear(hidden, latent + self.rope, bias)
        self.kv_a_layernorm = RMSNorm(latent, LORA_NORM_EPS, latent_scale)
        self.kv_b_proj = Linear(latent, self.heads * (self.nope + self.value))
        self.o_proj = Linear(self.heads * self.value, hidden, bias)

    def construct(self, x, cos, sin, hidden_keys):
        """Attend from `[batch, seq, hidden]`; `hidden_keys` bool `[seq, seq]` says which keys a query must not read."""
        batch, seq, _ = x.shape
        query = self._by_head(self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))), self.nope + self.rope)
        compressed = self.kv_a_proj_with_mqa(x)
        up = self._by_head(self.kv_b_proj(self.kv_a_layernorm(compressed[..., : self.rank])), self.nope + self.value)
        rotated_key = _rotate(compressed[..., self.rank :].reshape(batch, 1, seq, self.rope), cos, sin)
        rotated_query = _rotate(query[..., self.nope :], cos, sin)
        scores = ops.matmul(query[..., : self.nope], up[..., : self.nope].transpose(0, 1, 3, 2))
        scores = scores + ops.matmul(rotated_query, rotated_key.transpose(0, 1, 3, 2))
        scores = ops.masked_fill(scores.astype(mindspore.float32) * self.scale, hidden_keys, -1e30)
        read = ops.matmul(ops.softmax(scores, -1).astype(x.dtype), up[..., self.nope :])
        return self.o_proj(read.transpose(0, 2, 1, 3).reshape(batch, seq, self.heads * self.value))

    def _by_head(self, x, width):
        """Cut `[batch, seq, heads * width]` into `[batch, heads, seq, width]`."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, width).transpose(0, 2, 1, 3)


class Router(nn.Cell):
    """Chooses the experts with the largest probability plus bias; the weight of a chosen one is its scaled probability."""

    def __init__(self, config):
        super().__init__()
        self.experts = config["n_routed_experts"] + config["zero_expert_num"]
        self.top_k, self.scale = config["moe_topk"], config["routed_scaling_factor"]
        self.classifier = Linear(config["hidden_size"], self.experts)
        self.e_score_correction_bias = _zeros(self.experts)
        self.e_score_correction_bias.requires_grad = False

    def construct(self, x):
        """Return weights, choice (0 or 1) and probabilities of all experts for `[tokens, hidden]`, fp32 `[tokens, experts]`."""
        probabilities = ops.softmax(self.classifier(x.astype(mindspore.float32)), -1)
        _, best = ops.topk(ops.stop_gradient(probabilities) + self.e_score_correction_bias, self.top_k)
        one, zero = Tensor(1.0, mindspore.float32), Tensor(0.0, mindspore.float32)
        chosen = ops.one_hot(best.astype(mindspore.int32), self.experts, one, zero).sum(1)
        return probabilities * chosen * self.scale, chosen, probabilities


class Experts(nn.Cell):
    """SwiGLU experts, their weights stacked along the first axis."""

    def __init__(self, config):
        super().__init__()
        hidden, self.inner = config["hidden_size"], config["expert_ffn_hidden_size"]
        self.gate_up_proj = _zeros(config["n_routed_experts"], 2 * self.inner, hidden)
        self.down_proj = _zeros(config["n_routed_experts"], hidden, self.inner)

    def construct(self, x, weights):
        """Sum up the outputs for `[tokens, hidden]` with weights `[tokens, routed experts]`."""
        gate_up = ops.matmul(x.expand_dims(0), self.gate_up_proj.transpose(0, 2, 1))
        inner = _silu(gate_up[..., : self.inner]) * gate_up[..., self.inner :]
        inner = inner * weights.T.expand_dims(-1).astype(x.dtype)
        return ops.matmul(inner, self.down_proj.transpose(0, 2, 1)).sum(0)


class MixtureOfExperts(nn.Cell):
    """Routed experts, and zero-computation experts that return their input."""

    def __init__(self, config):
        super().__init__()
        self.routed = config["n_routed_experts"]
        self.router = Router(config)
        self.experts = Experts(config)

    def construct(self, x, real):
        """Transform `[batch, seq, hidden]`.

        `real` fp32 `[batch * seq, 1]` is 0 for padding. Also returns the sums over other tokens of each expert's probability
        and of the slots it was given, both fp32 `[experts]`.
        """
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen, probabilities = self.router(tokens)
        zero_share = weights[:, self.routed :].sum(-1, keepdims=True).astype(x.dtype)
        out = self.experts(tokens, weights[:, : self.routed]) + tokens * zero_share
        return out.reshape(x.shape), (probabilities * real).sum(0), (chosen * real).sum(0)


class Layer(nn.Cell):
    """Two attention and two dense sublayers; the mixture reads the first dense one's input and is added at the end."""

    def __init__(self, config):
        super().__init__()
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        self.mlp = MixtureOfExperts(config)
        self.self_attn = nn.CellList([LatentAttention(config) for _ in range(2)])
        self.mlps = nn.CellList([FeedForward(hidden, config["ffn_hidden_size"]) for _ in range(2)])
        self.input_layernorm = nn.CellList([RMSNorm(hidden, eps) for _ in range(2)])
        self.post_attention_layernorm = nn.CellList([RMSNorm(hidden, eps) for _ in range(2)])

    def construct(self, x, cos, sin, hidden_keys, real):
        x = x + self.self_attn[0](self.input_layernorm[0](x), cos, sin, hidden_keys)
        h = self.post_attention_layernorm[0](x)
        mixed, probability, load = self.mlp(h, real)
        x = x + self.mlps[0](h)
        x = x + self.self_attn[1](self.input_layernorm[1](x), cos, sin, hidden_keys)
        x = x + self.mlps[1](self.post_attention_layernorm[1](x))
        return x + mixed, probability, load


class NgramEmbedding(nn.Cell):
    """Averages a word's embedding with projected rows of hash tables, one for each n-gram branch.

    Branch b = (n - 2) K + j of K tables for each length n = 2..N has M_b = int(ratio * V) + 2b + 1 rows, and the row of a
    token is (sum over k < n of the token k before it times V^k mod M_b) mod M_b. Tokens before the start of the row count as
    0, and so do an end of text among the previous tokens and all before it.
    """

    def __init__(self, config):
        super().__init__()
        vocabulary, ratio = config["vocab_size"], config["ngram_vocab_size_ratio"]
        self.neighbors, splits = config["emb_neighbor_num"], config["emb_split_num"]
        self.branches, self.end_of_text = (self.neighbors - 1) * splits, config["eos_token_id"]
        rows = [int(ratio * vocabulary) + 2 * branch + 1 for branch in range(self.branches)]
        powers = [
            [pow(vocabulary, back, size) if back < 2 + branch // splits else 0 for branch, size in enumerate(rows)]
            for back in range(self.neighbors)
        ]
        self.modulus, self.powers = Tensor(rows, mindspore.int64), Tensor(powers, mindspore.int64)
        self.begins = Tensor(numpy.cumsum([0, *rows[:-1]]), mindspore.int64)
        self.tables = Embedding(sum(rows), config["hidden_size"] // self.branches)
        self.projection = Linear(config["hidden_size"], config["hidden_size"])

    def construct(self, words, tokens):
        found = self.tables(self._rows(tokens))
        return (words + self.projection(found.reshape(words.shape))) / (1 + self.branches)

    def _rows(self, tokens):
        """Find the rows of int64 `[batch, seq]` in the stacked tables, `[batch, seq, branches]`."""
        hashed = tokens.expand_dims(-1) * self.powers[0]
        reaches = ops.ones_like(tokens)
        for back in range(1, self.neighbors):
            before = ops.cat([ops.zeros_like(tokens[:, :back]), tokens], 1)[:, : tokens.shape[1]]
            reaches = reaches * (before != self.end_of_text).astype(mindspore.int64)
            hashed = hashed + (before * reaches).expand_dims(-1) * self.powers[back]
        return hashed % self.modulus + self.begins


class MultiTokenPrediction(nn.Cell):
    """One dense layer, chained: depth k joins the state of depth k - 1 with the word k ahead and predicts the one after."""

    def __init__(self, config):
        super().__init__()
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        self.depths = config["mtp_num_layers"]
        self.enorm, self.hnorm = RMSNorm(hidden, eps), RMSNorm(hidden, eps)
        self.eh_proj = Linear(2 * hidden, hidden)
        self.input_layernorm = RMSNorm(hidden, eps)
        self.self_attn = LatentAttention(config)
        self.post_attention_layernorm = RMSNorm(hidden, eps)
        self.mlp = FeedForward(hidden, config["ffn_hidden_size"])
        self.norm = RMSNorm(hidden, eps)

    def construct(self, hidden, words, cos, sin, hidden_keys):
        """Return the normed state of each depth.

        `hidden` is the model's normed output `[batch, seq, hidden]`, `words` the embeddings of the word after each position.
        """
        states = []
        for _ in range(self.depths):
            x = self.eh_proj(ops.cat([self.enorm(words), self.hnorm(hidden)], -1))
            x = x + self.self_attn(self.input_layernorm(x), cos, sin, hidden_keys)
            x = x + self.mlp(self.post_attention_layernorm(x))
            hidden = self.norm(x)
            states.append(hidden)
            words = ops.cat([words[:, 1:], ops.zeros_like(words[:, :1])], 1)
        return states


class Backbone(nn.Cell):
    """Embedding, layers, the norm behind them, and multi-token prediction where the model has it."""

    def __init__(self, config):
        super().__init__()
        self.frequencies, self.turned_size = _frequencies(config)
        self.embed_tokens = Embedding(config["vocab_size"], config["hidden_size"])
        self.ngram_embeddings = NgramEmbedding(config) if config.get("ngram_vocab_size_ratio") else None
        self.layers = nn.CellList([Layer(config) for _ in range(config["num_layers"])])
        self.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.mtp = MultiTokenPrediction(config) if config.get("mtp_num_layers") else None

    def construct(self, tokens, real):
        """Return the layers' output, and the experts' probabilities and slots `[layers, experts]`."""
        cos, sin, hidden_keys = self.places(tokens)
        x = self.embed_tokens(tokens)
        if self.ngram_embeddings is not None:
            x = self.ngram_embeddings(x, tokens)
        probabilities, loads = [], []
        for layer in self.layers:
            x, probability, load = layer(x, cos, sin, hidden_keys, real)
            probabilities.append(probability)
            loads.append(load)
        return x, ops.stack(probabilities), ops.stack(loads)

    def ahead(self, tokens, hidden, targets):
        """Return the states of multi-token prediction; `targets` are the words after `tokens`."""
        cos, sin, hidden_keys = self.places(tokens)
        return self.mtp(hidden, self.embed_tokens(ops.maximum(targets, 0)), cos, sin, hidden_keys)

    def places(self, tokens):
        """Return cosine and sine of each position `[seq, rope / 2]`, and which keys a query must not read, `[seq, seq]`."""
        positions = ops.arange(tokens.shape[1])
        angles = positions.astype(mindspore.float32).expand_dims(-1) * self.frequencies
        dtype = self.norm.weight.dtype
        cos, sin = ops.cos(angles) * self.turned_size, ops.sin(angles) * self.turned_size
        return cos.astype(dtype), sin.astype(dtype), positions.expand_dims(0) > positions.expand_dims(1)


class Longcat(nn.Cell):
    """The whole model, for the `config.json` of the folder as a dictionary."""

    def __init__(self, config):
        super().__init__()
        refuse(config)
        self.config = dict(config)
        self.model = Backbone(self.config)
        self.lm_head = Linear(config["hidden_size"], config["vocab_size"])

    def construct(self, tokens):
        """Compute fp32 logits `[batch, seq, vocab]` of int64 tokens `[batch, seq]`."""
        x, _, _ = self.model(tokens, ops.ones((tokens.shape[0] * tokens.shape[1], 1), mindspore.float32))
        return self.predict(self.model.norm(x))

    def predict(self, hidden):
        """Compute fp32 logits of normed states `[..., hidden]`."""
        return self.lm_head(hidden).astype(mindspore.float32)


def refuse(config):
    """Refuse a model that this file does not compute.

    Raises:
        ValueError: with the key of config.json.
    """
    if config.get("index_topk"):
        raise ValueError("config.json: index_topk: sparse attention (LongCat-2.0) is not in longcat_mindspore.py")
    needed = (
        "vocab_size hidden_size num_layers num_attention_heads q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim "
        "v_head_dim ffn_hidden_size expert_ffn_hidden_size n_routed_experts zero_expert_num moe_topk routed_scaling_factor "
        "rms_norm_eps attention_bias mla_scale_q_lora mla_scale_kv_lora rope_parameters eos_token_id"
    )
    missing = [name for name in needed.split() if name not in config]
    if missing:
        raise ValueError(
            f"config.json: missing {', '.join(missing)}; is the folder one of longcat export --format mindspore?"
        )
    rope = config["rope_parameters"]
    kind = rope.get("rope_type") if isinstance(rope, dict) else None
    if kind not in ("default", "yarn"):
        raise ValueError(
            f"config.json: rope_parameters.rope_type: {kind} is not in longcat_mindspore.py; default and yarn are"
        )
    needed = ("rope_theta", "factor", "original_max_position_embeddings")[: 3 if kind == "yarn" else 1]
    missing = [name for name in needed if name not in rope]
    if missing:
        raise ValueError(f"config.json: rope_parameters: missing {', '.join(missing)}")


def load(directory, dtype=mindspore.float32):
    """Read the model of a folder, to compute in `dtype`; routers stay fp32.

    Raises:
        ValueError: a file is missing or was changed, or the weights are not those of the model.
    """
    directory = Path(directory)
    check(directory)
    config = read_json(directory / CONFIG)
    model = Longcat(config)
    found = {}
    for file in _weight_files(directory):
        try:
            found.update(mindspore.load_checkpoint(str(directory / file), format="safetensors"))
        except Exception as error:
            raise ValueError(f"cannot read {directory / file}: {_first_line(error)}") from None
    for name, parameter in model.parameters_and_names():
        if name not in found:
            raise ValueError(f"{directory}: {name} is missing")
        value = found.pop(name)
        if value.shape != parameter.shape:
            raise ValueError(f"{directory}: {name} has shape {list(value.shape)}, expected {list(parameter.shape)}")
        if value.dtype not in (mindspore.float32, mindspore.bfloat16, mindspore.float16):
            raise ValueError(f"{directory}: {name} is stored as {value.dtype}, expected fp32, bf16 or fp16")
        kept = mindspore.float32 if ".router." in name else dtype
        parameter.set_dtype(kept)  # which set_data would keep, and convert the numbers to
        parameter.set_data(Tensor(value).astype(kept))
    if found:
        raise ValueError(f"{directory}: {min(found)} belongs to no part of the model in {CONFIG}")
    return model


def save(model, directory, source):
    """Write a model as a folder that `load` and `longcat import` read; what is no weight is copied from the `source` folder.

    It appears only when it is whole.

    Raises:
        ValueError: the directory is there already, or cannot be written.
    """
    directory, source = Path(directory), Path(source)
    check_can_be_made(directory)
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        for path in source.iterdir():
            if path.is_file() and path.suffix != ".safetensors" and path.name not in (CONFIG, INDEX, CHECKSUMS):
                shutil.copyfile(path, temporary / path.name)
        dtype = str(model.model.norm.weight.dtype).lower()
        write_json(temporary / CONFIG, {**model.config, "dtype": dtype})
        parameters = [{"name": name, "data": parameter} for name, parameter in model.parameters_and_names()]
        mindspore.save_checkpoint(parameters, str(temporary / WEIGHTS), format="safetensors")
        (temporary / WEIGHTS).chmod(0o644)
        files = [path for path in sorted(temporary.iterdir()) if path.suffix != ".py"]
        write_json(temporary / CHECKSUMS, {path.name: sha256(path) for path in files})
        temporary.rename(directory)
    except Exception as error:
        raise ValueError(f"cannot write {directory}: {_first_line(error)}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_can_be_made(directory):
    """Refuse a folder that cannot be made, by making it and removing it.

    Raises:
        ValueError: it is there already, or its parent takes no folder.
    """
    if os.path.lexists(directory):
        raise ValueError(f"{directory} is there already; choose another folder")
    try:
        directory.mkdir(parents=True)
        directory.rmdir()
    except OSError as error:
        raise ValueError(f"cannot write {directory}: {_first_line(error)}") from None


def check(directory):
    """Compare the files of a folder with their checksums, if it has any.

    Raises:
        ValueError: one is missing or was changed.
    """
    if not (directory / CONFIG).is_file():
        raise ValueError(f"{directory}: no {CONFIG}; it is no folder of longcat export --format mindspore")
    if not (directory / CHECKSUMS).exists():
        return
    for name, expected in read_json(directory / CHECKSUMS).items():
        path = directory / name
        if not path.is_file():
            raise ValueError(f"{path} is missing, which {CHECKSUMS} names; export the checkpoint again")
        if sha256(path) != expected:
            raise ValueError(
                f"{path} was changed since it was written; export the checkpoint again, or delete {CHECKSUMS} if it is meant so"
            )


def sha256(path):
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path):
    """Read a JSON file.

    Raises:
        ValueError: it is missing or no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected an object, found {type(values).__name__}")
    return values


def write_json(path, values):
    """Write a JSON file as longcat does."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _weight_files(directory):
    """Name the files of a folder that the weights lie in."""
    if not (directory / INDEX).exists():
        return [WEIGHTS]
    places = read_json(directory / INDEX).get("weight_map")
    if not isinstance(places, dict):
        raise ValueError(f"{directory / INDEX}: weight_map is missing, which names the file of each parameter")
    return sorted(set(map(str, places.values())))


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _zeros(*shape):
    return Parameter(initializer("zeros", shape, mindspore.float32))


def _silu(x):
    return x * ops.sigmoid(x)


def _rotate(x, cos, sin):
    """Rotate the pairs (2i, 2i + 1) of `[batch, heads, seq, rope]`; first halves, then second halves come out."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return ops.cat([even * cos - odd * sin, odd * cos + even * sin], -1)


def _frequencies(config):
    """Return the rotary frequencies, fp32 `[rope / 2]`, and YaRN's factor on the rotated part (arXiv 2309.00071)."""
    rope, dim = config["rope_parameters"], config["qk_rope_head_dim"]
    theta = rope["rope_theta"]
    exponents = numpy.arange(0, dim, 2, dtype=numpy.float32) / numpy.float32(dim)
    frequencies = numpy.float32(1.0) / numpy.power(numpy.float32(theta), exponents)
    if rope["rope_type"] == "default":
        return Tensor(frequencies, mindspore.float32), 1.0

    def pair_that_turns(times):
        return dim * math.log(rope["original_max_position_embeddings"] / (times * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_that_turns(rope.get("beta_fast", 32.0)), pair_that_turns(rope.get("beta_slow", 1.0))
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    slowed = (numpy.arange(len(frequencies), dtype=numpy.float32) - first) / (last - first or 0.001)
    slowed = numpy.clip(slowed, 0, 1)
    frequencies = frequencies * (1 - slowed) + frequencies / rope["factor"] * slowed
    return Tensor(frequencies, mindspore.float32), _turned_size(rope)


def _turned_size(rope):
    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return _mscale(rope, rope["mscale"]) / _mscale(rope, rope["mscale_all_dim"])
    return _mscale(rope, 1.0)


def _sharpening(config):
    """Return YaRN's factor on the scores of attention."""
    rope = config["rope_parameters"]
    return _mscale(rope, rope["mscale_all_dim"]) ** 2 if rope.get("mscale_all_dim") else 1.0


def _mscale(rope, m):
    return 0.1 * m * math.log(rope["factor"]) + 1.0
