"""`longcat mfu` as a user meets it."""

import json
import subprocess
import sys

import pytest

from longcat.benchmark.mfu_inputs import check_layout

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture
def mfu(tmp_path, longcat):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(LLAMA))

    def run(*arguments, model=config):
        model = ("--model", model) if model else ()
        return longcat("mfu", "--sequence-length", "2048", *model, *arguments, COLUMNS="100")

    return run


A100 = ("--device", "a100-80gb", "--devices", "8")


def test_the_figures(mfu):
    found = json.loads(mfu(*A100, "--tokens-per-second", "21000", "--json").stdout)
    layers = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 4096 * 32000
    flops = 6 * layers + 12 * 32 * 4096 * 1024  # half the square of scores
    assert sum(found["flops_per_token"].values()) == pytest.approx(flops)
    assert found["mfu"] == pytest.approx(21000 * flops / (8 * 312e12)) == pytest.approx(found["hfu"])
    assert found["mfu_full_attention"] > found["mfu"]
    assert found["peak_flops"] == 312e12
    assert "A100 SXM 80GB" in found["peak_source"]
    assert found["mfu_by_convention"]["six_n"] == pytest.approx(
        21000 * 6 * layers / (8 * 312e12), rel=1e-3
    )  # norms too
    assert len(found["comparison"]["matches"]) == 6
    assert found["comparison"]["fair"]


def test_for_people(mfu):
    found = mfu(*A100, "--step-time", "2", "--batch-tokens", "30000", "--recompute", "full")
    assert found.returncode == 0
    assert "24.8%, causal attention" in found.stdout
    assert "recomputation full" in found.stdout
    assert "Verdict: outside 15 %" in found.stdout


def test_from_a_log(mfu, tmp_path):
    log = tmp_path / "train.log"
    log.write_text("step: 1 loss: 7 tps: 2,000\nstep: 2 loss: 7 tps: 2,625\n")
    found = json.loads(mfu(*A100, "--log", str(log), "--json").stdout)
    assert found["log"]["kind"] == "torchtitan"
    assert found["tokens_per_second"] == 8 * 2312.5


def test_presets_and_measured_experts(mfu):
    few, many = (
        json.loads(
            mfu(*A100, "--tokens-per-second", "9", "--ffn-experts", number, "--json", model="longcat-flash").stdout
        )
        for number in ("6", "9")
    )
    assert few["mfu"] < many["mfu"]
    assert few["family"] == "longcat"
    found = mfu(*A100, "--tokens-per-second", "9", "--ffn-experts", "40", model="longcat-flash")
    assert (found.returncode, found.stderr) == (2, "error: 40 routed experts per token: this model allows 0 to 12\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "a100-80", "--tokens-per-second", "3"), "did you mean a100-80gb"),
        (("--device", "Ascend 910C", "--tokens-per-second", "3"), "did you mean Ascend 910C die or "),
        ((*A100, "--tokens-per-second", "-3"), "tokens per second must be above 0, found -3"),
        (
            (*A100, "--tokens-per-second", "1e9"),
            "the speed is at most 60,504.6 tokens/s, or there are at least 132,222 devices",
        ),
        ((*A100, "--step-time", "0", "--batch-tokens", "4096"), "--step-time must be above 0, found 0"),
        ((*A100, "--step-time", "1"), "--step-time needs --batch-tokens"),
        ((*A100, "--step-time", "1", "--batch-tokens", "64"), "--batch-tokens 64 are fewer than one sequence of 2048"),
        ((*A100, "--tokens-per-second", "3", "--mtp"), "llama has no layers of multi-token prediction"),
        (("--device", "h20", "--devices", "0", "--tokens-per-second", "3"), "devices must be above 0, found 0"),
        (("--device", "h20", "--devices", "eight", "--tokens-per-second", "3"), "error: Invalid value for '--devices'"),
        (("--devices", "8", "--tokens-per-second", "3"), "error: Missing option '--device'; see"),
        ((*A100, "--tokens-per-second", "3", "--nosuch"), "error: No such option: --nosuch"),
        (A100, "exactly one of --tokens-per-second, --step-time, --log and --mlflow-run"),
        ((*A100, "--tokens-per-second", "3", "--recompute", "some"), "there are none, selective and full"),
        ((*A100, "--tokens-per-second", "3", "--precision", "int4"), "there are bf16, fp16, fp32 and fp8"),
        ((*A100, "--tokens-per-second", "3", "--precision", "fp8"), "the fp8 peak of A100 SXM 80GB is not known"),
        ((*A100, "--tokens-per-second", "3", "--layout", "tp3"), "--layout tp3 takes 3 devices or a multiple, not"),
        ((*A100, "--tokens-per-second", "3", "--layout", "tp2,dp2"), "takes 4 devices, not --devices 8"),
        ((*A100, "--tokens-per-second", "3", "--layout", "two"), "'two' is not a degree such as tp8"),
        ((*A100, "--tokens-per-second", "3", "--layout", "tp2,tp4"), "has the degree tp twice"),
        ((*A100, "--tokens-per-second", "3", "--layout", "tp²"), "'tp²' is not a degree such as tp8"),
        (
            (*A100, "--tokens-per-second", "3", "--layout", "xx4"),
            "unknown degree xx; there are: dp, dp_shard, dp_replicate, fsdp, tp",
        ),
        ((*A100, "--tokens-per-second", "3", "--layout", "tp8,ep3"), "experts take 3 devices or a multiple, not"),
        ((*A100, "--tokens-per-second", "3", "--layout", "pp4,ep4"), "experts take 16 devices or a multiple, not"),
        ((*A100, "--tokens-per-second", "5e4", "--recompute", "full"), "recomputation full does not fit above it"),
        ((*A100, "--tokens-per-second", "3", "--parameters", "7e9"), "one of --model and --parameters"),
        ((*A100, "--tokens-per-second", "3", "--layers", "7"), "--layers can only be used with --parameters"),
        ((*A100, "--mlflow-run", "abc", "--workspace", "nowhere"), "there is no MLflow store at"),
    ],
)
def test_mistakes(mfu, arguments, message):
    found = mfu(*arguments)
    assert (found.returncode, found.stdout) == (2, "")
    assert message in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("layout", ["tp8,ep8", "dp=2,tp=2,pp=2,ep=4", "dp_shard4,pp2,vpp4", "cp2"])
def test_layouts_that_fit(layout):
    check_layout(layout, 8)


def test_a_model_that_is_none(mfu, tmp_path):
    found = mfu(*A100, "--tokens-per-second", "3", model="lama")
    assert found.returncode == 2
    assert "neither a file nor a preset; the presets are longcat-2.0" in found.stderr
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({key: value for key, value in LLAMA.items() if key != "hidden_size"}))
    assert "no hidden_size" in mfu(*A100, "--tokens-per-second", "3", model=broken).stderr


def test_torch_is_not_loaded():
    code = (
        "import sys; from longcat.cli import app; "
        "app(['mfu', '--model', 'tiny', '--device', 'h20', '--tokens-per-second', '9', '--sequence-length', '99'],"
        " standalone_mode=False); print(*sorted({'torch', 'prefect', 'mlflow'} & set(sys.modules)), 'none of them')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1].strip() == "none of them"


def test_sizes_stand_for_a_model(mfu):
    """The same as the config.json says, but for norms."""
    speed = (*A100, "--tokens-per-second", "21000", "--layout", "tp2,pp4", "--json")
    sizes = ("--layers", "32", "--hidden-size", "4096", "--vocabulary", "32000")
    ours = json.loads(mfu(*speed, "--parameters", "6738415616", *sizes, model=None).stdout)
    theirs = json.loads(mfu(*speed).stdout)
    assert ours["mfu"] == pytest.approx(theirs["mfu"], rel=1e-4)
    assert ours["assumptions"] == []
    as_wide = (*sizes, "--attention-width", "8192")
    wide = json.loads(mfu(*speed, "--parameters", "6738415616", *as_wide, model=None).stdout)
    assert wide["mfu"] - ours["mfu"] == pytest.approx(21000 * 6 * 32 * 4096 * 2048 / 8 / 312e12, rel=1e-6)
    alone = mfu(*speed, "--parameters", "7e9", "--attention-width", "8192", model=None)
    assert (alone.returncode, alone.stdout) == (2, "")
    assert "--attention-width needs --layers" in alone.stderr
    bare = json.loads(mfu(*speed, "--parameters", "3e9", "--total-parameters", "9e9", model=None).stdout)
    assert bare["kind"] == "moe"
    assert len(bare["assumptions"]) == 2


def test_as_a_page(mfu, tmp_path):
    page = tmp_path / "page.html"
    assert mfu(*A100, "--tokens-per-second", "21000", "--html", str(page)).returncode == 0
    assert "Model FLOPs utilisation on a100-80gb" in page.read_text()
    found = mfu(*A100, "--tokens-per-second", "21000", "--html", str(tmp_path / "no" / "page.html"))
    assert found.returncode == 2
    assert "no/page.html" in found.stderr


def test_from_an_mlflow_run(mfu, tmp_path):
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    run = client.create_run(client.create_experiment("e", str(tmp_path / "artifacts")))
    for step, value in enumerate((1.0, 20000.0, 22000.0)):
        client.log_metric(run.info.run_id, "throughput/tokens_per_sec", value, step=step)
    asked = (*A100, "--tracking-uri", uri, "--json", "--mlflow-run")
    found = json.loads(mfu(*asked, run.info.run_id).stdout)
    assert found["tokens_per_second"] == 21000
    assert found["log"]["kind"] == "llm-foundry"
    missing = mfu(*asked, "0" * 32)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "cannot be read from sqlite:" in missing.stderr
    nowhere = mfu(*A100, "--tracking-uri", "bogus://x", "--mlflow-run", "abc")
    assert (nowhere.returncode, nowhere.stdout) == (2, "")
    assert "MLflow run abc cannot be read from bogus://x" in nowhere.stderr
    empty = client.create_run(run.info.experiment_id).info.run_id
    assert f"run {empty} has logged no throughput" in mfu(*asked, empty).stderr


def test_total_flos_of_a_mixture_are_of_all_its_experts(mfu, tmp_path):
    """transformers multiplies all parameters but the embedding with 6 and the tokens, whichever experts they visit."""
    mixtral = {
        "model_type": "mixtral", "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 2, "vocab_size": 1000,
        "num_attention_heads": 8, "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2,
    }  # fmt: skip
    (tmp_path / "mixtral.json").write_text(json.dumps(mixtral))
    counted = 2 * (4 * 1024**2 + 8 * 3 * 1024 * 2048 + 8 * 1024 + 2 * 1024) + 1024 + 1024 * 1000
    state = {
        "log_history": [{"total_flos": 6 * counted * 32000, "train_runtime": 16.0, "train_samples_per_second": 1.0}]
    }
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    arguments = ("--device", "a100-80gb", "--log", str(tmp_path / "trainer_state.json"), "--json")
    found = json.loads(mfu(*arguments, model=tmp_path / "mixtral.json").stdout)
    assert found["tokens_per_second"] == pytest.approx(2000)
