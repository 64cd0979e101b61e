"""Dense families with grouped queries: one description of a layer, with what each family adds to it or leaves out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from longcat.costs.attention import Attention
from longcat.costs.decoder import Decoder
from longcat.costs.families.fields import EXPERTS, Family, Fields, shown
from longcat.costs.products import Product
from longcat.costs.workload import Workload
from longcat.errors import ConfigError


@dataclass(frozen=True)
class Heads:
    """Width and depth of a decoder, and the heads of one layer."""

    hidden: int
    layers: int
    queries: int
    keys: int
    """Heads of keys and values."""
    dim: int


def read_heads(f: Fields, *, grouped: bool = True, own_dim: bool = True) -> Heads:
    """Return the width, depth and heads that a config.json gives.

    Args:
        f: its fields.
        grouped: whether `num_key_value_heads` says anything; every query has keys of its own otherwise.
        own_dim: whether `head_dim` says anything; the heads share the hidden size otherwise, and where it is missing.

    Raises:
        ConfigError: a field is missing, or does not divide another.
    """
    hidden, layers, queries = f.size("hidden_size"), f.size("num_hidden_layers"), f.size("num_attention_heads")
    keys = f.size("num_key_value_heads", default=queries) if grouped else queries
    f.divided(queries, keys, "the heads of queries,", "num_key_value_heads")
    own = own_dim and f.find("head_dim")[1] is not None
    return Heads(
        hidden,
        layers,
        queries,
        keys,
        f.size("head_dim") if own else f.divided(hidden, queries, "the hidden size"),
    )


def windowed_layers(f: Fields, layers: int, full_every: int | None = None, *, from_first: bool = False) -> int:
    """Return how many layers have a window: those that `layer_types` names, otherwise all but each `full_every`-th.

    The first layer is one of these with `from_first`; otherwise the last of so many is.

    Raises:
        ConfigError: `layer_types` has another length, or other types.
    """
    kinds = f.each("layer_types", str, layers)
    if kinds is None:
        full = 0 if not full_every else -(-layers // full_every) if from_first else layers // full_every
        return layers - full
    if others := sorted(set(kinds) - {"sliding_attention", "full_attention"}):
        raise ConfigError(
            f"{f.source}: layer_types has {shown(others[0])}; sliding_attention and full_attention are known here"
        )
    return kinds.count("sliding_attention")


def softmax_layers(heads: Heads, windowed: int, window: int | None) -> tuple[Attention, ...]:
    """Return the attentions of so many layers with a window, and of the others without."""
    shapes = ((windowed, window), (heads.layers - windowed, None))
    return tuple(Attention(count, heads.queries, heads.dim, heads.dim, size) for count, size in shapes if count)


def dense(
    f: Fields,
    family: str,
    heads: Heads | None = None,
    *,
    ffn: int | None = None,
    gated: bool = True,
    norms: int = 2,
    norm_vectors: int = 1,
    head_norms: int = 0,
    qkv_bias: bool = False,
    output_bias: bool = False,
    up_bias: bool = False,
    down_bias: bool = False,
    head_bias: bool = False,
    other_vectors: int = 0,
    outer_vectors: int | None = None,
    positions: int = 0,
    embedding_width: int | None = None,
    windowed: int = 0,
    window: int | None = None,
    tied: bool = False,
) -> Workload:
    """Return the workload of a dense decoder.

    Args:
        f: its config.json.
        family: model type.
        heads: width, depth and heads, where they are not simply those of the file.
        ffn: width of the feed-forward network; `intermediate_size` if None.
        gated: whether the feed-forward network has three matrices, or two.
        norms: of the hidden size, in each layer.
        norm_vectors: parameters of a norm, in hidden sizes: 1 for a scale, 2 with a bias, 0 for none.
        head_norms: parameters of the norms of queries and keys in each layer, in head dimensions.
        qkv_bias: whether queries, keys and values have biases.
        output_bias: whether the output of the attention has one.
        up_bias: whether the first matrices of the feed-forward network have biases.
        down_bias: whether its last matrix has one.
        head_bias: whether the head has one.
        other_vectors: further parameters of a layer that are no matrix.
        outer_vectors: parameters of the norms outside the layers; one norm if None.
        positions: learned ones.
        embedding_width: of embedding and head, with a projection before and behind the layers; the hidden size if None.
        windowed: layers whose attention has a window.
        window: keys that these read; `sliding_window` of the file if None.
        tied: whether the head is the embedding where the file does not say so.

    Raises:
        ConfigError: a field is missing or impossible, or the file has experts.
    """
    one = heads or read_heads(f)
    h, layers = one.hidden, one.layers
    for name in EXPERTS:
        if f.count(name, 0) > 1:
            raise ConfigError(
                f"{f.source}: {name} {f.values[name]}, but only {family} models without experts are known"
            )
    if windowed and window is None:
        window = f.size("sliding_window")
    ffn, vocabulary = ffn or f.size("intermediate_size"), f.size("vocab_size")
    biases = qkv_bias * one.dim * (one.queries + 2 * one.keys) + output_bias * h
    biases += up_bias * (1 + gated) * ffn + down_bias * h
    vectors = norms * norm_vectors * h + head_norms * one.dim + biases + other_vectors
    width = embedding_width or h
    outer = norm_vectors * h if outer_vectors is None else outer_vectors
    return Decoder(
        family=family,
        layers=layers,
        hidden_size=width,
        vocabulary=vocabulary,
        matrices={
            "attention_projections": layers * 2 * h * one.dim * (one.queries + one.keys),
            "dense_ffn": layers * (2 + gated) * h * ffn,
            "lm_head": width * vocabulary,
        }
        | ({} if width == h else {"embedding_projections": 2 * width * h}),
        mixers=softmax_layers(one, windowed, window),
        embedding_parameters=vocabulary * width + positions * h,
        norm_and_bias_parameters=layers * vectors + outer + head_bias * vocabulary,
        tied=f.flag("tie_word_embeddings", tied),
        shapes=(
            Product("attention_projections", layers, h, one.dim * (one.queries + 2 * one.keys), "outputs", kept=True),
            Product("attention_projections", layers, one.dim * one.queries, h, "inputs"),
            Product("dense_ffn", layers, h, (1 + gated) * ffn, "outputs", kept=True),
            Product("dense_ffn", layers, ffn, h, "inputs"),
            Product("lm_head", 1, width, vocabulary, "outputs", kept=True),
        ),
    ).workload()


def _windowed(f: Fields, full_every: int | None = None, *, from_first: bool = False) -> int:
    """Return the layers with a window of a family that has none where `sliding_window` is null."""
    layers = f.size("num_hidden_layers")
    return 0 if f.find("sliding_window")[1] is None else windowed_layers(f, layers, full_every, from_first=from_first)


def _biased(f: Fields, family: str, **kind: int) -> Workload:
    """Biases in all of the attention and in all of the feed-forward network, by a flag each."""
    attention, ffn = f.flag("attention_bias", False), f.flag("mlp_bias", False)
    return dense(f, family, qkv_bias=attention, output_bias=attention, up_bias=ffn, down_bias=ffn, **kind)  # type: ignore[arg-type]


def _all_biased(f: Fields, family: str, biased: bool, heads: Heads | None = None, **kind: int) -> Workload:
    """Biases in every matrix of a layer, or in none."""
    return dense(f, family, heads, qkv_bias=biased, output_bias=biased, up_bias=biased, down_bias=biased, **kind)  # type: ignore[arg-type]


def _phi(f: Fields) -> Workload:
    norms = 4 * f.flag("qk_layernorm", False)
    return _all_biased(f, "phi", True, gated=False, norms=1, norm_vectors=2, head_norms=norms, head_bias=True)


def _persimmon(f: Fields) -> Workload:
    norms = 4 * f.flag("qk_layernorm", True)
    heads = read_heads(f, grouped=False, own_dim=False)
    return _all_biased(f, "persimmon", True, heads, gated=False, norm_vectors=2, head_norms=norms)


def _stablelm(f: Fields) -> Workload:
    heads, norms = read_heads(f, own_dim=False), 2 - f.flag("use_parallel_residual", False)
    own = (heads.queries + heads.keys) * f.flag("qk_layernorm", False)
    return dense(
        f, "stablelm", heads, norms=norms, norm_vectors=2, head_norms=own, qkv_bias=f.flag("use_qkv_bias", False)
    )


def _gptj(f: Fields, family: str) -> Workload:
    heads = read_heads(f, grouped=False, own_dim=False)
    return dense(
        f, family, heads, gated=False, ffn=f.size("n_inner", default=4 * heads.hidden), norms=1, norm_vectors=2, up_bias=True,
        down_bias=True, head_bias=True,
    )  # fmt: skip


def _gpt_bigcode(f: Fields) -> Workload:
    heads = read_heads(f, grouped=False, own_dim=False)
    heads = replace(heads, keys=1 if f.flag("multi_query", True) else heads.queries)
    return dense(
        f, "gpt_bigcode", heads, gated=False, ffn=f.size("n_inner", default=4 * heads.hidden), norm_vectors=2,
        qkv_bias=True, output_bias=True, up_bias=True, down_bias=True, tied=True,
        positions=f.size("n_positions", "max_position_embeddings"),
    )  # fmt: skip


def _gpt_neo(f: Fields) -> Workload:
    heads = read_heads(f, grouped=False, own_dim=False)
    layers = heads.layers
    kinds = f.each("attention_layers", str, layers)
    local = layers // 2 if kinds is None else kinds.count("local")
    groups = f.each("attention_types", list) if kinds is None else None
    if groups is not None:
        shaped = all(
            len(group) == 2 and isinstance(group[0], list) and isinstance(group[1], int) and group[1] > 0
            for group in groups
        )
        if not shaped or sum(len(group[0]) * group[1] for group in groups) != layers:
            raise ConfigError(
                f"{f.source}: attention_types must be pairs of a list of types and a number, of {layers} layers in all"
            )
        local = sum(group[0].count("local") * group[1] for group in groups)
    return dense(
        f, "gpt_neo", heads, gated=False, ffn=f.size("intermediate_size", default=4 * heads.hidden), norm_vectors=2, output_bias=True,
        up_bias=True, down_bias=True, tied=True, positions=f.size("max_position_embeddings"), windowed=local,
        window=f.size("window_size"),
    )  # fmt: skip


def _cohere(f: Fields) -> Workload:
    heads, bias = read_heads(f), f.flag("attention_bias", False)
    own = (heads.queries + heads.keys) * f.flag("use_qk_norm", False)
    return dense(f, "cohere", heads, norms=1, head_norms=own, qkv_bias=bias, output_bias=bias, tied=True)


def _cohere2(f: Fields) -> Workload:
    windowed = _windowed(f, f.size("sliding_window_pattern", default=4))
    return _biased(f, "cohere2", norms=1, windowed=windowed, tied=True)


def _smollm3(f: Fields) -> Workload:
    layers, windowed = f.size("num_hidden_layers"), 0
    if f.flag("use_sliding_window", False) and f.find("sliding_window")[1] is not None:
        rotary = f.each("no_rope_layers", int, layers)
        default = layers // f.size("no_rope_layer_interval") if rotary is None else rotary.count(0)
        windowed = default if f.find("layer_types")[1] is None else windowed_layers(f, layers)
    return _biased(f, "smollm3", windowed=windowed, tied=True)


def _exaone4(f: Fields) -> Workload:
    pattern = f.find("sliding_window_pattern")[1]
    every = len(pattern) if isinstance(pattern, str) and pattern else f.count("sliding_window_pattern", 0)
    return dense(f, "exaone4", head_norms=2, windowed=_windowed(f, every or None))


def _olmo2(f: Fields, family: str, windowed: int = 0) -> Workload:
    heads, bias = read_heads(f), f.flag("attention_bias", False)
    norms = heads.queries + heads.keys
    return dense(f, family, heads, head_norms=norms, qkv_bias=bias, output_bias=bias, windowed=windowed)


def _seed_oss(f: Fields) -> Workload:
    ffn = f.flag("mlp_bias", False)
    return dense(
        f, "seed_oss", qkv_bias=f.flag("attention_bias", True), output_bias=f.flag("attention_out_bias", False),
        up_bias=ffn, down_bias=ffn,
    )  # fmt: skip


def _jais2(f: Fields) -> Workload:
    attention, ffn = f.flag("attention_bias", True), f.flag("mlp_bias", True)
    return dense(
        f, "jais2", gated=False, norm_vectors=2, qkv_bias=attention, output_bias=attention, up_bias=ffn, down_bias=ffn
    )


def _cwm(f: Fields) -> Workload:
    ffn = f.flag("mlp_bias", False)
    return dense(f, "cwm", up_bias=ffn, down_bias=ffn, windowed=_windowed(f, 4, from_first=True))


def _granite_swa(f: Fields) -> Workload:
    sinks = f.size("num_attention_heads")
    return _biased(f, "granite_swa", other_vectors=sinks, windowed=_windowed(f, 4, from_first=True), tied=True)


def _xglm(f: Fields) -> Workload:
    heads = read_heads(f, grouped=False, own_dim=False)
    return _all_biased(f, "xglm", True, heads, gated=False, norm_vectors=2, tied=True)


def _helium(f: Fields) -> Workload:
    heads = read_heads(f)
    if heads.queries * heads.dim != heads.hidden:  # its last projection is square
        raise ConfigError(
            f"{f.source}: {heads.queries} heads of head_dim {heads.dim} are not the hidden size {heads.hidden}"
        )
    ffn = f.flag("mlp_bias", False)
    return dense(f, "helium", heads, qkv_bias=f.flag("attention_bias", False), up_bias=ffn, down_bias=ffn)


def _bitnet(f: Fields) -> Workload:
    inner = f.size("hidden_size") + f.size("intermediate_size")
    return _biased(f, "bitnet", other_vectors=inner)


_GPTJ = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
FAMILIES = {
    "glm": Family(
        lambda f: dense(f, "glm", qkv_bias=f.flag("attention_bias", True)),
        ("GlmForCausalLM",),
        {"num_key_value_heads": 2, "head_dim": 128},
    ),
    "glm4": Family(
        lambda f: dense(f, "glm4", norms=4, qkv_bias=f.flag("attention_bias", True)),
        ("Glm4ForCausalLM",),
        {"num_key_value_heads": 2, "head_dim": 128},
    ),
    "internlm3": Family(
        lambda f: _biased(f, "internlm3"),
        ("InternLM3ForCausalLM",),
        {"num_key_value_heads": 2, "head_dim": 128},
        {"attention_bias": "qkv_bias", "mlp_bias": "bias"},
    ),
    "phi": Family(_phi, ("PhiForCausalLM",)),
    "phi3": Family(lambda f: dense(f, "phi3", windowed=_windowed(f)), ("Phi3ForCausalLM",)),
    "stablelm": Family(
        _stablelm, ("StableLmForCausalLM", "StableLMEpochForCausalLM"), {"num_key_value_heads": 32}
    ),
    "starcoder2": Family(
        lambda f: _all_biased(
            f, "starcoder2", f.flag("use_bias", True), gated=False, norm_vectors=2, windowed=_windowed(f), tied=True
        ),
        ("Starcoder2ForCausalLM",),
        {"num_key_value_heads": 2},
    ),
    "gpt_bigcode": Family(_gpt_bigcode, ("GPTBigCodeForCausalLM",), {"n_positions": 1024}, _GPTJ),
    "gptj": Family(lambda f: _gptj(f, "gptj"), ("GPTJForCausalLM",), {}, _GPTJ),
    "codegen": Family(lambda f: _gptj(f, "codegen"), ("CodeGenForCausalLM",), {}, _GPTJ),
    "gpt_neo": Family(
        _gpt_neo,
        ("GPTNeoForCausalLM",),
        {"max_position_embeddings": 2048, "window_size": 256},
        {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
    ),
    "cohere": Family(_cohere, ("CohereForCausalLM",)),
    "cohere2": Family(_cohere2, ("Cohere2ForCausalLM",), {"sliding_window": 4096}),
    "nemotron": Family(lambda f: _biased(f, "nemotron", gated=False, norm_vectors=2), ("NemotronForCausalLM",)),
    "smollm3": Family(_smollm3, ("SmolLM3ForCausalLM",), {"num_key_value_heads": 4, "no_rope_layer_interval": 4}),
    "seed_oss": Family(_seed_oss, ("SeedOssForCausalLM",), {"num_key_value_heads": 8, "head_dim": 128}),
    "exaone4": Family(
        _exaone4,
        ("Exaone4ForCausalLM",),
        {"num_key_value_heads": 32, "sliding_window": 4096, "sliding_window_pattern": 4},
    ),
    "olmo": Family(lambda f: _biased(f, "olmo", norm_vectors=0), ("OlmoForCausalLM",)),
    "olmo2": Family(lambda f: _olmo2(f, "olmo2"), ("Olmo2ForCausalLM",)),
    "olmo3": Family(
        lambda f: _olmo2(f, "olmo3", _windowed(f, 4)), ("Olmo3ForCausalLM",), {"sliding_window": 4096}
    ),
    "granite": Family(lambda f: _biased(f, "granite"), ("GraniteForCausalLM",)),
    "ministral": Family(
        lambda f: dense(f, "ministral", windowed=_windowed(f)),
        ("MinistralForCausalLM",),
        {"num_key_value_heads": 8, "sliding_window": 4096},
    ),
    "ministral3": Family(
        lambda f: dense(f, "ministral3", windowed=_windowed(f)),
        ("Ministral3ForCausalLM",),
        {"num_key_value_heads": 8, "head_dim": 128},
    ),
    "arcee": Family(lambda f: _biased(f, "arcee", gated=False), ("ArceeForCausalLM",)),
    "apertus": Family(
        lambda f: _biased(f, "apertus", gated=False, head_norms=2, other_vectors=2), ("ApertusForCausalLM",)
    ),
    "ernie4_5": Family(
        lambda f: _all_biased(f, "ernie4_5", f.flag("use_bias", False), tied=True),
        ("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
        {"num_key_value_heads": 2, "head_dim": 128},
    ),
    "hunyuan_v1_dense": Family(
        lambda f: _biased(f, "hunyuan_v1_dense", head_norms=2), ("HunYuanDenseV1ForCausalLM",)
    ),
    "hyperclovax": Family(
        lambda f: _biased(f, "hyperclovax", norms=4 if f.flag("use_post_norm", True) else 2),
        ("HyperCLOVAXForCausalLM",),
    ),
    "jais2": Family(_jais2, ("Jais2ForCausalLM",)),
    "cwm": Family(_cwm, ("CwmForCausalLM",), {"num_key_value_heads": 8, "head_dim": 128, "sliding_window": 8192}),
    "granite_swa": Family(
        _granite_swa, ("GraniteSWAForCausalLM",), {"num_key_value_heads": 4, "sliding_window": 128}
    ),
    "xglm": Family(
        _xglm,
        ("XGLMForCausalLM",),
        {},
        {
            "hidden_size": "d_model", "num_hidden_layers": "num_layers", "num_attention_heads": "attention_heads",
            "intermediate_size": "ffn_dim",
        },
    ),
    "persimmon": Family(_persimmon, ("PersimmonForCausalLM",)),
    "helium": Family(_helium, ("HeliumForCausalLM",), {"num_key_value_heads": 20, "head_dim": 128}),
    "nanochat": Family(
        lambda f: _biased(f, "nanochat", gated=False, norm_vectors=0),
        ("NanoChatForCausalLM",),
    ),
    "bitnet": Family(_bitnet, ("BitNetForCausalLM",), {"num_key_value_heads": 5}),
}  # fmt: skip
