"""Which artifacts each field of the configuration moves, and how configurations are read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from longcat.artifact import Artifact, Workspace
from longcat.benchmark.measurement import measure
from longcat.config import (
    RUNTIME,
    ModelConfig,
    PipelineConfig,
    SourceConfig,
    all_keys,
    identity,
    load_config,
    preset_names,
)
from longcat.corpus.stage import preprocess
from longcat.corpus.tokenizer import train_tokenizer
from longcat.errors import ConfigError
from longcat.training.stage import pretrain


class Asked(Exception):
    """Carries the recipe that a stage would have built."""


class Recorder(Workspace):
    def materialize(self, recipe, build, **_):
        raise Asked(recipe)


def digest_of(stage, *arguments, workspace):
    with pytest.raises(Asked) as asked:
        stage(*arguments, workspace=workspace)
    return asked.value.args[0].digest


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for number in range(40):
        words = " ".join(f"some words {i * number % 97}" for i in range(60 + 4 * number))
        (folder / f"{number}.txt").write_text(f"Text {number}. {words}")
    return folder


def base(corpus_file):
    return load_config(
        "smoke",
        overrides=[
            f"corpus.sources={corpus_file}",
            "training.processes=2",
            "training.micro_batch_sequences=4",
            "model.num_layers=3",
            "parallel.embedding=true",
            "corpus.near_duplicates={threshold: 1.0}",
            "corpus.quality={function: 'builtins:len', minimum: 1}",
            "corpus.long_documents={min_tokens: 500, fraction: 0.5}",
            "model.ngram={vocab_size_ratio: 3.5, neighbor_num: 3, split_num: 2}",
            "model.sparse_attention={index_topk: 64, index_head_dim: 16, index_init_tokens: 2, index_local_tokens: 8}",
            "model.rope_scaling={factor: 4.0, original_max_position_embeddings: 64}",
        ],
    )


@pytest.fixture(scope="module")
def tokens(corpus_file, tmp_path_factory):
    return preprocess(base(corpus_file), workspace=Workspace(tmp_path_factory.mktemp("workspace")))


@pytest.fixture
def digests(tokens, tmp_path):
    """Digests of the artifacts that stages would make from a configuration."""
    recorder = Recorder(tmp_path / "recorder")

    def of(config):
        # the second stage gets the first one's digest as its parent, whatever it is made from, and the end of text it needs
        index = json.loads((tokens.path / "index.json").read_text())
        (tmp_path / "index.json").write_text(json.dumps({**index, "end_of_text": config.model.end_of_text}))
        parent = replace(tokens, digest=digest_of(preprocess, config, workspace=recorder), path=tmp_path)
        checkpoint = replace(tokens, kind="checkpoint", digest=digest_of(pretrain, config, parent, workspace=recorder))
        return {
            "tokens": parent.digest,
            "checkpoint": checkpoint.digest,
            "measurement": digest_of(measure, config, parent, checkpoint, workspace=recorder),
        }

    return of


ALL = {"tokens", "checkpoint", "measurement"}
TRAINED = {"checkpoint", "measurement"}
# field -> another valid value, and what it moves. A new field fails the test below until it is entered here.
FIELDS = {
    "preset": ("other", set()),
    "seed": (1, TRAINED),
    "accelerator": ("cpu", set()),
    "experiment": ("other", set()),
    "price_per_device_hour": (2.5, set()),
    "corpus.max_bad_fraction": (0.5, ALL),
    "corpus.min_characters": (100, ALL),
    "corpus.max_characters": (90_000, ALL),
    "corpus.filters": (["gopher_bullets"], ALL),
    "corpus.mask": (["email"], ALL),
    "corpus.languages": (["en", "zh"], ALL),
    "corpus.near_duplicates.threshold": (0.5, ALL),
    "corpus.near_duplicates.shingle_words": (3, ALL),
    "corpus.near_duplicates.bands": (4, ALL),
    "corpus.near_duplicates.rows": (4, ALL),
    "corpus.decontaminate": (["data"], ALL),
    "corpus.held_out_fraction": (0.2, ALL),
    "corpus.vocabulary_size": (500, ALL),
    "corpus.digits_per_token": (1, ALL),
    "corpus.tokenizer_sample_bytes": (1000, ALL),
    "corpus.sequence_length_tokens": (32, ALL),
    "corpus.shard_sequences": (7, ALL),
    "corpus.encodings": (["utf-8", "gb18030"], ALL),
    "corpus.repair_encoding": (True, ALL),
    "corpus.quality.function": ("math:log10", ALL),
    "corpus.quality.minimum": (2.0, ALL),
    "corpus.repeated_paragraph_characters": (50, ALL),
    "corpus.tokenizer": ("tokenizer.json", ALL),
    "corpus.end_of_text": ("<longcat_s>", ALL),
    "corpus.block_bytes": (1000, ALL),
    "corpus.max_padding": (0.1, ALL),
    "corpus.mixture_tokens": (100, ALL),
    "corpus.max_repeats": (2.0, ALL),
    "corpus.long_documents.min_tokens": (9, ALL),
    "corpus.long_documents.fraction": (0.3, ALL),
    "corpus.runner": ("dask", set()),
    "corpus.cluster": ("tcp://somewhere:1", set()),
    "corpus.workers": (3, set()),
    "corpus.hang_timeout_s": (7.0, set()),
    "model.vocab_size": (600, TRAINED),
    "model.eos_token_id": (7, TRAINED),
    "model.bos_token_id": (5, TRAINED),
    "model.hidden_size": (32, TRAINED),
    "model.num_layers": (2, TRAINED),
    "model.num_attention_heads": (4, TRAINED),
    "model.q_lora_rank": (8, TRAINED),
    "model.kv_lora_rank": (8, TRAINED),
    "model.qk_nope_head_dim": (8, TRAINED),
    "model.qk_rope_head_dim": (4, TRAINED),
    "model.v_head_dim": (8, TRAINED),
    "model.ffn_hidden_size": (64, TRAINED),
    "model.expert_ffn_hidden_size": (16, TRAINED),
    "model.n_routed_experts": (8, TRAINED),
    "model.zero_expert_num": (4, TRAINED),
    "model.moe_topk": (2, TRAINED),
    "model.routed_scaling_factor": (3.0, TRAINED),
    "model.attention_bias": (True, TRAINED),
    "model.rms_norm_eps": (1e-6, TRAINED),
    "model.rope_theta": (1e4, TRAINED),
    "model.rope_scaling.factor": (2.0, TRAINED),
    "model.rope_scaling.original_max_position_embeddings": (32, TRAINED),
    "model.rope_scaling.beta_fast": (16.0, TRAINED),
    "model.rope_scaling.beta_slow": (2.0, TRAINED),
    "model.rope_scaling.mscale": (0.5, TRAINED),
    "model.rope_scaling.mscale_all_dim": (0.5, TRAINED),
    "model.rope_scaling.attention_factor": (1.5, TRAINED),
    "model.rope_scaling.truncate": (False, TRAINED),
    "model.max_position_embeddings": (512, TRAINED),
    "model.mla_scale_q_lora": (False, TRAINED),
    "model.mla_scale_kv_lora": (False, TRAINED),
    "model.initializer_range": (0.01, TRAINED),
    "model.proxy_hidden_size": (32, TRAINED),
    "model.sparse_attention.index_n_heads": (2, TRAINED),
    "model.sparse_attention.index_head_dim": (32, TRAINED),
    "model.sparse_attention.index_topk": (32, TRAINED),
    "model.sparse_attention.index_init_tokens": (1, TRAINED),
    "model.sparse_attention.index_local_tokens": (4, TRAINED),
    "model.sparse_attention.hierarchical_from_tokens": (128, TRAINED),
    "model.sparse_attention.index_page_tokens": (64, TRAINED),
    "model.sparse_attention.index_block_tokens": (4, TRAINED),
    "model.sparse_attention.index_pages": (8, TRAINED),
    "model.sparse_attention.hierarchical_after_layers": (0, TRAINED),
    "model.mtp_num_layers": (1, TRAINED),
    "model.ngram.vocab_size_ratio": (4.5, TRAINED),
    "model.ngram.neighbor_num": (2, TRAINED),
    "model.ngram.split_num": (1, TRAINED),
    "model.ngram.allow_near_multiple": (True, TRAINED),
    "training.steps": (13, TRAINED),
    "training.global_batch_sequences": (16, TRAINED),
    "training.micro_batch_sequences": (2, TRAINED),
    "training.activation_checkpointing": ("full", TRAINED),
    "training.processes": (1, {"measurement"}),
    "parallel.embedding": (False, {"measurement"}),
    "parallel.expert": (1, {"measurement"}),
    "parallel.replicate": (2, {"measurement"}),
    "parallel.shard": (2, {"measurement"}),
    "parallel.pipeline": (2, {"measurement"}),
    "parallel.schedule": ("interleaved", {"measurement"}),
    "parallel.context": (2, {"measurement"}),
    "parallel.tensor": (2, {"measurement"}),
    "parallel.chunks": (2, {"measurement"}),
    "parallel.two_level": (True, {"measurement"}),
    "parallel.devices_per_node": (2, {"measurement"}),
    "training.launcher": ("join", set()),
    "training.nodes": (2, set()),
    "training.min_nodes": (1, set()),
    "training.node_names": (["a"], set()),
    "training.node_wait_s": (30, set()),
    "training.head": ("127.0.0.1:29400", set()),
    "training.slurm.queue_wait_s": (30, set()),
    "training.slurm.partition": ("a", set()),
    "training.slurm.account": ("a", set()),
    "training.slurm.time": ("1:00", set()),
    "training.slurm.arguments": (["--exclusive"], set()),
    "training.precision": ("fp32", TRAINED),
    "training.compile": (True, TRAINED),
    "training.reference_operators": (["rotary"], TRAINED),
    "training.mask_documents": (True, TRAINED),
    "training.answers_after": (["Answer:"], TRAINED),
    "training.init_from": ("1" * 32, TRAINED),
    "training.init_optimizer": (True, TRAINED),
    "training.optimizer.name": ("muon", TRAINED),
    "training.optimizer.momentum": (0.8, TRAINED),
    "training.optimizer.learning_rate": (1e-4, TRAINED),
    "training.optimizer.router_learning_rate_fraction": (0.5, TRAINED),
    "training.losses.importance_weight": (0.5, TRAINED),
    "training.held_out_every_steps": (7, set()),
    "training.held_out_sequences": (7, set()),
    "training.sample_prompt": ("class ", set()),
    "training.sample_tokens": (7, set()),
    "training.optimizer.final_learning_rate_fraction": (0.5, TRAINED),
    "training.optimizer.warmup_steps": (7, TRAINED),
    "training.optimizer.schedule": ("wsd", TRAINED),
    "training.optimizer.decay_fraction": (0.5, TRAINED),
    "training.optimizer.decay_form": ("linear", TRAINED),
    "training.optimizer.beta1": (0.8, TRAINED),
    "training.optimizer.beta2": (0.8, TRAINED),
    "training.optimizer.epsilon": (1e-8, TRAINED),
    "training.optimizer.weight_decay": (0.2, TRAINED),
    "training.optimizer.max_gradient_norm": (2.0, TRAINED),
    "training.optimizer.offload": (True, {"measurement"}),
    "training.optimizer.lazy_ngram_moments": (True, TRAINED),
    "training.balance.target_ffn_experts": (1.5, TRAINED),
    "training.balance.bias_update_rate": (1e-2, TRAINED),
    "training.balance.final_bias_update_fraction": (1.0, TRAINED),
    "training.losses.mtp_weight": (0.1, TRAINED),
    "training.losses.indexer_weight": (0.1, TRAINED),
    "training.losses.balance_weight": (0.1, TRAINED),
    "training.losses.balance_groups": (2, TRAINED),
    "training.losses.hidden_z_weight": (0.1, TRAINED),
    "training.dense_attention_steps": (1, TRAINED),
    "training.indexer_warmup_steps": (1, TRAINED),
    "training.max_skipped_steps": (3, TRAINED),
    "training.loss_spikes": ("rewind", TRAINED),
    "training.spike_deviations": (3.0, TRAINED),
    "training.spike_window_steps": (30, TRAINED),
    "training.log_every_steps": (3, set()),
    "training.checkpoint_every_steps": (3, set()),
    "training.keep_checkpoints": (3, set()),
    "training.keep_every_steps": (3, set()),
    "training.asynchronous_checkpoints": (False, set()),
    "training.checkpoint_local": ("fast", set()),
    "training.checkpoint_timeout_s": (30, set()),
    "training.max_restarts": (3, set()),
    "training.collective_timeout_s": (30, set()),
    "training.check_every_steps": (3, set()),
    "training.hang_timeout_s": (30, set()),
    "training.deadline_s": (30, set()),
    "training.grace_s": (3, set()),
    "benchmark.warmup_steps": (2, {"measurement"}),
    "benchmark.windows": (4, {"measurement"}),
    "benchmark.window_steps": (5, {"measurement"}),
    "benchmark.reference_rows": (3, set()),
    "benchmark.profiled_steps": (1, {"measurement"}),
    "benchmark.kernel_seconds": (0.1, {"measurement"}),
    "benchmark.collective_bytes": ([64], {"measurement"}),
    "benchmark.sweep.micro_batch_sequences": ([1], {"measurement"}),
    "benchmark.sweep.sequence_length_tokens": ([32], {"measurement"}),
    "benchmark.sweep.activation_checkpointing": (["full"], {"measurement"}),
    "benchmark.sweep.processes": ([1], {"measurement"}),
    "evaluation.suites": (["held_out"], set()),
    "evaluation.held_out_sequences": (8, set()),
    "evaluation.ngram_order": (3, set()),
    "evaluation.tasks": (["other"], set()),
    "evaluation.task_paths": (["folder"], set()),
    "evaluation.task_limit": (3, set()),
    "evaluation.few_shot": (2, set()),
    "evaluation.chat_template": (True, set()),
    "evaluation.system_prompt": ("Be brief.", set()),
    "evaluation.generation.max_gen_toks": (9, set()),
    "evaluation.generation.until": (["."], set()),
    "evaluation.generation.do_sample": (True, set()),
    "evaluation.generation.temperature": (0.5, set()),
    "evaluation.generation.top_k": (7, set()),
    "evaluation.generation.top_p": (0.5, set()),
    "evaluation.run_generated_code": (True, set()),
    "evaluation.batch_sequences": (3, set()),
    "evaluation.precision": ("bf16", set()),
    "evaluation.processes": (2, set()),
}
SOURCE_FIELDS = {
    "kind": ("stdlib", True),
    "path": (None, False),  # another place for the same files, see the test
    "package": ("apt:x", True),
    "members": ("*.txt", True),
    "licence": ("MIT", False),
    "function": ("a:b", False),  # of a source of one's own, see tests/flows/test_extensions.py
    "arguments": ({"times": 3}, False),
    "name": ("x", True),
    "subset": ("x", True),
    "split": ("x", True),
    "revision": ("x", True),
    "language": ("zh", True),
    "count": (9, True),
    "seed": (1, True),
    "tasks": (["intent"], True),
    "forms": (["plain"], True),
    "text_field": ("x", True),
    "documents": ("lines", True),
    "max_documents": (30, True),
    "max_tokens": (3000, True),
    "weight": (2.0, True),
    "tokenizer_weight": (2.0, True),
}


def changed(config, key, value):
    tree = config.model_dump()
    *sections, name = key.split(".")
    part = tree
    for section in sections:
        part = part[section]
    assert part[name] != value
    part[name] = value
    if key == "training.nodes":
        part["launcher"] = "join"
    if key == "corpus.vocabulary_size":
        tree["model"]["vocab_size"] = None  # follows the corpus, as it does where nobody sets it
    if key == "corpus.end_of_text":
        tree["model"]["eos_token_id"] = None
    if key == "model.eos_token_id":  # which never differs from the tokenizer's
        return config.model_copy(update={"model": config.model.model_copy(update={name: value})})
    return PipelineConfig.model_validate(tree)


def checkpoint_named(config, _workspace):
    """Stand in for the checkpoint whose digest a configuration names."""
    digest = config.training.init_from
    return None if digest is None else Artifact("checkpoint", digest, Path(), {}, facts=None)


def leaves(section=PipelineConfig):
    keys = set(all_keys(section))
    nested = {key for key in keys if any(other.startswith(f"{key}.") for other in keys)}
    return {key for key in keys - nested if not key.startswith(("corpus.sources", "evaluation.gates"))}


def test_every_field_is_entered_here():
    assert leaves() == set(FIELDS)
    assert set(SourceConfig.model_fields) == set(SOURCE_FIELDS)


@pytest.mark.parametrize("key", FIELDS)
def test_field_moves_what_it_can_change(key, corpus_file, digests, tmp_path, monkeypatch):
    value, moves = FIELDS[key]
    monkeypatch.chdir(tmp_path)
    train_tokenizer(["some words"], 300).save("tokenizer.json")
    config = base(corpus_file)
    monkeypatch.setattr("longcat.training.stage.given_start", checkpoint_named)
    monkeypatch.setattr("longcat.training.stage.check_tokens", lambda *_: None)
    if key == "training.init_optimizer":
        config = changed(config, "training.init_from", "2" * 32)
    if key == "corpus.end_of_text":
        config = changed(config, "corpus.tokenizer", "tokenizer.json")
    before, after = digests(config), digests(changed(config, key, value))
    assert {kind for kind in ALL if before[kind] != after[kind]} == moves


@pytest.mark.parametrize("key", sorted(set(SOURCE_FIELDS) - {"path"}))
def test_field_of_a_source_moves_the_tokens(key, corpus_file, digests):
    value, moves = SOURCE_FIELDS[key]
    config = base(corpus_file)
    source = config.corpus.sources[0].model_copy(update={key: value})
    other = config.model_copy(update={"corpus": config.corpus.model_copy(update={"sources": [source]})})
    assert (digests(other)["tokens"] != digests(config)["tokens"]) is moves


def test_place_of_the_files_moves_nothing(corpus_file, digests, tmp_path):
    (tmp_path / "elsewhere").symlink_to(corpus_file)
    assert digests(base(tmp_path / "elsewhere")) == digests(base(corpus_file))


def test_runtime_fields_are_in_no_identity():
    def check(section):
        for name, field in type(section).model_fields.items():
            assert (name in identity(section)) is (RUNTIME not in field.metadata)
            if isinstance(getattr(section, name), BaseModel):
                check(getattr(section, name))

    check(load_config("tiny"))


def test_identity_refuses_what_has_no_canonical_form():
    class Section(BaseModel):
        place: Path = Path("x")

    with pytest.raises(TypeError, match="place: a PosixPath"):
        identity(Section())


# ---------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_complete(name):
    config = load_config(name)
    assert config.preset == name
    assert config.model.vocabulary == config.corpus.vocabulary_size


@pytest.mark.parametrize(
    "text", ["5307e903", "12345678", "0123", "1e-3", "1_000", "1:30:00", "2026-11-27", "yes", "nan", "0x1F"]
)
def test_a_text_is_what_was_written_whatever_yaml_takes_it_for(text):
    settings = [f"training.{key}={text}" for key in ("init_from", "sample_prompt", "slurm.time")]
    training = load_config("smoke", overrides=[*settings, f"corpus.sources={text}"]).training
    assert [training.init_from, training.sample_prompt, training.slurm.time] == [text] * 3
    assert load_config("smoke", overrides=[f"corpus.sources={text}"]).corpus.sources[0].path == text
    assert load_config("smoke", overrides=[f'training.init_from="{text}"']).training.init_from == text


def test_a_text_that_is_written_does_not_hide_another_mistake():
    with pytest.raises(ConfigError, match=r"^preset smoke with --set: training\.steps: [^;]*$"):
        load_config("smoke", overrides=["training.init_from=5307e903", "training.steps=-1"])
    with pytest.raises(ConfigError, match=r'init_from: Input should be a valid string \(found \["a"\]\)'):
        load_config("smoke", overrides=["training.init_from=[a]"])


def test_file_over_preset_and_override_over_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("preset: smoke\ntraining: {steps: 5, optimizer: {beta1: 0.5}}\n")
    config = load_config(file=file, overrides=["training.optimizer.learning_rate=3e-4", "seed=7"])
    assert (config.preset, config.training.steps, config.training.global_batch_sequences) == ("smoke", 5, 8)
    optimizer = config.training.optimizer
    assert (optimizer.beta1, optimizer.warmup_steps, optimizer.learning_rate, config.seed) == (0.5, 2, 3e-4, 7)
    assert load_config("tiny", file=file).corpus.sequence_length_tokens == 256
    assert load_config("tiny", file=file).training.steps == 5


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("stdlib", {"kind": "stdlib"}),
        ("hub:org/name", {"kind": "hub", "name": "org/name"}),
        ("data/a.jsonl", {"kind": "files", "path": "data/a.jsonl"}),
    ],
)
def test_short_form_of_a_source(value, expected):
    [source] = load_config("smoke", overrides=[f"corpus.sources={value}"]).corpus.sources
    assert source == SourceConfig(**expected)


@pytest.mark.parametrize("field", ["filters", "mask", "languages", "encodings", "decontaminate"])
def test_a_single_name_is_a_list_of_one(field):
    value = {"mask": "email", "encodings": "gb18030"}.get(field, "data")
    assert getattr(load_config("smoke", overrides=[f"corpus.{field}={value}"]).corpus, field) == [value]


def test_the_end_of_text_is_that_of_the_tokenizer(tmp_path):
    train_tokenizer(["some words"], 300).save(str(tmp_path / "tokenizer.json"))
    own = f"corpus.tokenizer={tmp_path / 'tokenizer.json'}"
    assert load_config("smoke").model.eos_token_id == 2
    assert load_config("smoke", overrides=[own]).model.eos_token_id == 2
    config = load_config("smoke", overrides=[own, "corpus.end_of_text=<longcat_s>"])
    assert config.model.eos_token_id == 1
    (tmp_path / "tokenizer.json").unlink()  # a settled configuration needs the file no more, wherever it is read
    assert PipelineConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ConfigError, match="cannot read tokenizer"):
        load_config("smoke", overrides=[own])


def test_an_end_of_text_beyond_the_corpus_vocabulary_names_the_setting_to_change(tmp_path):
    tokenizer = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 700, "content": "<end>", "special": True}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    own = [f"corpus.tokenizer={tmp_path / 'tokenizer.json'}", "corpus.end_of_text=<end>"]
    with pytest.raises(ConfigError, match=r"token 700; corpus\.vocabulary_size=512 has to be larger"):
        load_config("smoke", overrides=own)
    assert load_config("smoke", overrides=[*own, "corpus.vocabulary_size=701"]).model.eos_token_id == 700


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.batch_sequences=8"], r"did you mean 'training.global_batch_sequences'\?"),
        (["training.recompute=full"], r"did you mean 'training.activation_checkpointing'\?"),
        (["benchmark.sweep.recompute=[full]"], r"did you mean 'benchmark.sweep.activation_checkpointing'\?"),
        (
            ["training.optimizer.final_learning_rate_share=1"],
            r"did you mean 'training.optimizer.final_learning_rate_fraction'\?",
        ),
        (
            ["training.balance.final_bias_update_share=1"],
            r"did you mean 'training.balance.final_bias_update_fraction'\?",
        ),
        (["trainin.steps=1"], r"unknown key 'trainin'; did you mean 'training'\?"),
        (["training.step=1"], r"unknown key 'training.step'; did you mean 'training.steps'\?"),
        (["training.learning_rate=1"], r"did you mean 'training.optimizer.learning_rate'\?"),
        (["corpus.held_out_fraction=0.9"], r"corpus.held_out_fraction: .*less than 0.5 \(found 0.9\)"),
        (["training.steps"], "expected KEY=VALUE"),
        (["training.steps=[1"], "not valid YAML"),
        (["model.moe_topk=7"], "moe_topk=7 exceeds n_routed_experts"),
        (["model.vocab_size=10"], "model.vocab_size=10 is smaller than corpus.vocabulary_size"),
        (["corpus.sequence_length_tokens=512"], "exceeds model.max_position_embeddings=256"),
        (["parallel.expert=3"], "parallel.expert=3 does not divide model.n_routed_experts=4"),
        (["training.expert_parallel=2"], r"unknown key 'training.expert_parallel'; did you mean 'parallel.expert'\?"),
        (["training.indexer_warmup_steps=3"], "indexer_warmup_steps=3, but there are no indexers"),
        (["training.dense_attention_steps=3"], r"training\.dense_attention_steps=3, but there are no indexers"),
        (["evaluation.suites=[held_out, held_out]"], "held_out more than once"),
        (
            ["model.sparse_attention={}", "training.indexer_warmup_steps=3", "training.losses.indexer_weight=0"],
            "trains nothing but the indexers",
        ),
        (["corpus.sources=[{kind: files}]"], "needs `path`"),
        (["corpus.sources=[]"], "corpus.sources"),
        (["training.optimizer.learning_rate=.nan"], "training.optimizer.learning_rate"),
        (
            ["model.eos_token_id=7"],
            "model.eos_token_id=7, but the tokenizer that preprocessing trains ends a document with",
        ),
        (
            ["corpus.end_of_text=<eos>"],
            "end_of_text='<eos>' is a token of a `tokenizer` of your own, and none is given",
        ),
        (["corpus.tokenizer=nowhere.json"], r"corpus\.tokenizer: cannot read tokenizer nowhere\.json: No such file"),
        (["corpus.sources=hub:"], r"corpus\.sources\.0: YAML reads `hub: ` as a mapping; write hub:NAME"),
        (["corpus.sources=[hub: org/name]"], "write hub:org/name, without a space"),
        (["corpus.sources=[apt:]"], "write apt:NAME"),
        (["corpus.sources='hub:'"], "'hub:' names nothing; write hub:NAME"),
        (["corpus.sources='pip:_'"], "expected apt:NAME or pip:NAME==VERSION"),
        (["corpus.sources={path: a.jsonl}"], "needs `kind`"),
        (["corpus.sources=[null]"], "expected a source: `stdlib`, a path"),
        (["corpus.sources={kind: files, path: a, revision: b}"], "`revision` is for sources of kind 'hub'"),
        (["corpus.sources=[{kind: local_services, language: zh}]"], "needs `count`"),
        (["corpus.sources=[{kind: local_services, count: 9}]"], "needs `language`"),
        (["corpus.sources=[{kind: local_services, language: fr, count: 9}]"], "'zh' or 'en'"),
        (["corpus.sources=[{kind: local_services, language: zh, count: 0}]"], "greater than or equal to 1"),
        (["corpus.sources=[{kind: stdlib, seed: 3}]"], "`seed` is for sources of kind 'local_services'"),
        (["corpus.sources=[{kind: stdlib, tasks: [intent]}]"], "`tasks` is for sources of kind 'local_services'"),
        (["corpus.sources=[{kind: stdlib, forms: plain}]"], "`forms` is for sources of kind 'local_services'"),
        (
            ["corpus.sources=[{kind: local_services, language: zh, count: 9, tasks: [intent, dispatch, intent]}]"],
            "intent more than once",
        ),
        (["corpus.digits_per_token=0"], "greater than or equal to 1"),
        (["training.answers_after=['']"], "at least 1 character"),
        (["training.answers_after=['A:']", "model.mtp_num_layers=1"], "reads the targets that it leaves out"),
        (["corpus.sources=[{kind: stdlib, weight: 1}, stdlib]"], "sources.1 has no `weight`; give one to every source"),
        (["corpus.languages=[no]"], "YAML reads no as false"),
        (["corpus.encodings=[utf-9]"], "'utf-9' is no encoding"),
        (["corpus.encodings=[base64]"], "'base64' is no encoding of text"),
        (["corpus.max_characters=10"], "max_characters=10 is less than min_characters=200"),
        (["corpus.mixture_tokens=64"], "mixture_tokens=64 does not fill one sequence"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config("smoke", overrides=overrides)


def test_mistakes_in_files_are_named(tmp_path):
    file = tmp_path / "a.yaml"
    with pytest.raises(ConfigError, match=r"cannot read configuration .*a\.yaml: No such file"):
        load_config(file=file)
    for content, message in [
        ("a: [", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("seed: 1", "model is missing"),
    ]:
        file.write_text(content)
        with pytest.raises(ConfigError, match=rf"a\.yaml.*{message}"):
            load_config(file=file)
    with pytest.raises(ConfigError, match=r"unknown preset 'smok'; did you mean 'smoke'\?; there are: .*smoke"):
        load_config("smok")


def test_configuration_cannot_be_changed_afterwards():
    with pytest.raises(ValidationError):
        load_config("smoke").seed = 3


def test_vocabulary_without_a_corpus():
    model = ModelConfig.model_validate({**load_config("smoke").model.model_dump(), "vocab_size": None})
    with pytest.raises(ConfigError, match=r"model\.vocab_size is not set"):
        _ = model.vocabulary
