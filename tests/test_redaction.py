"""Secrets reach neither errors, logs, MLflow, journals, manifests nor summaries."""

import json
import logging
import os
import pickle
import subprocess
import sys
import urllib.parse

import pytest

from longcat import cli
from longcat.artifact import Facts, Recipe, Workspace
from longcat.config import load_config
from longcat.errors import ConfigError, DataError, LongcatError
from longcat.redaction import redact, redact_error, redact_tree, redacted_records
from longcat.terminal import redirected_output
from longcat.tracking import Tracker, sender

SECRET = "s3cr3t-of-mine"
HUB = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
ADDRESS = f"http://user:{SECRET}@127.0.0.1:9"


@pytest.mark.parametrize(
    "text, clean",
    [
        (f"at http://user:{SECRET}@host:1/x", "at http://***@host:1/x"),
        (f"postgresql+psycopg2://u:{SECRET}@db:5432/mlflow", "postgresql+psycopg2://***@db:5432/mlflow"),
        ("https://ghost@host/repo.git", "https://***@host/repo.git"),
        ("http://u:p@ss@host", "http://***@host"),
        ("http://u:a/b@host/x", "http://***@host/x"),
        ("http://u:p@[::1]:80/", "http://***@[::1]:80/"),
        ("two http://a:b@c and ftp://d:e@f", "two http://***@c and ftp://***@f"),
        (f"{HUB} was refused", "*** was refused"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("{'authorization': 'Basic dTpw'}", "{'authorization': 'Basic ***'}"),
        ("GET /x?token=abc&page=2&X-Amz-Signature=ff", "GET /x?token=***&page=2&X-Amz-Signature=***"),
        ("--set tracking_password=abc steps=3", "--set tracking_password=*** steps=3"),
        ('{"api_key": "a b", "n": 1}', '{"api_key": "***", "n": 1}'),
        ("WANDB_API_KEY=abc HF_TOKEN=x", "WANDB_API_KEY=*** HF_TOKEN=***"),
        ("run --wandb-api-key abc --steps 5", "run --wandb-api-key *** --steps 5"),
    ],
)
def test_a_secret_is_hidden(text, clean):
    assert redact(text) == clean
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "a.person@example.org wrote to b@c.d",
        "git@github.com:owner/name.git",
        "http://127.0.0.1:5000/api/x@y",
        "https://host/a/b@2x.png",
        "s3://bucket/key@v1",
        "file:///home/a@b/c",
        "sqlite:////srv/a@b/mlflow.db",
        "eos_token='</s>' max_tokens=500 token=2",
        '{"pad_token": "<pad>", "tokenizer": "x"}',
        "the password is wrong",
        "training.steps=3 tokens_per_second=1e6",
    ],
)
def test_other_text_stays(text):
    assert redact(text) == text


@pytest.mark.parametrize("name", ["HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_KEY", "AWS_SECRET_ACCESS_KEY"])
def test_values_of_secret_variables_are_hidden_wherever_they_stand(name, monkeypatch):
    monkeypatch.setenv(name, "p/w+of mine")
    assert redact("sent p/w+of mine, p%2Fw%2Bof%20mine") == "sent ***, ***"
    assert redact_tree({"a": ["p/w+of mine", 1], "b": None}) == {"a": ["***", 1], "b": None}


def test_the_password_of_an_address_in_the_environment_is_hidden_alone_as_well(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:un%40common@host")
    assert redact("auth me un@common un%40common uncommon") == "auth me *** *** uncommon"


def test_an_error_of_longcat_holds_no_secret():
    error = DataError(f"cannot reach {ADDRESS}")
    assert SECRET not in f"{error!r} {error} {error.args}"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (DataError, "cannot reach http://***@127.0.0.1:9")


class NoFacts(Facts):
    @property
    def headline(self):
        return ""

    @property
    def figures(self):
        return {}


class NestedError(Exception):
    def __str__(self):
        return f"around {self.args[0]}"


@pytest.mark.parametrize(
    "error",
    [ConnectionError(ADDRESS), OSError(5, "broken", ADDRESS), NestedError(ValueError(ADDRESS)), KeyError(ADDRESS)],
)
def test_errors_of_others_are_cleaned_with_their_causes(error):
    try:
        try:
            raise ValueError(ADDRESS)
        except ValueError as cause:
            raise error from cause
    except Exception as caught:
        redact_error(caught)
        assert SECRET not in str(caught) + str(caught.__cause__)


def test_no_record_holds_a_secret_whichever_handler_gets_it(tmp_path, capfd):
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(logging.Formatter().format(record))
    logger = logging.getLogger("some.library")
    logger.addHandler(handler)
    warned = []
    with redirected_output(tmp_path / "run.log", warned.append):
        print("printed", ADDRESS)
        logger.error("calling %s", ADDRESS)
        logging.getLogger("longcat").warning("calling %s", ADDRESS)
        try:
            raise ConnectionError(ADDRESS)
        except ConnectionError:
            logger.exception("failed")
    logger.removeHandler(handler)
    log = (tmp_path / "run.log").read_text()
    assert log.count("http://***@127.0.0.1:9") == 4
    assert warned == ["calling http://***@127.0.0.1:9"]
    assert records[1:] and "ConnectionError: http://***" in records[-1]
    assert SECRET not in log + "".join(records) + "".join(capfd.readouterr())


def test_records_are_as_before_afterwards():
    before = logging.getLogRecordFactory()
    with redacted_records():
        assert logging.getLogRecordFactory() is not before
    assert logging.getLogRecordFactory() is before


@pytest.mark.parametrize(
    "override, place",
    [
        (f"corpus.cluster=tcp://u:{SECRET}@host:1", "corpus.cluster"),
        (f"experiment={HUB}", "experiment"),
        (f"corpus.sources=[{{kind: files, path: x, licence: 'https://{SECRET}@h'}}]", "corpus.sources.0.licence"),
        (f"experiment=of-{SECRET}", None),
    ],
)
def test_a_configuration_with_a_secret_is_refused(override, place, monkeypatch):
    if place is None:
        assert load_config("smoke", None, [override]).experiment
        monkeypatch.setenv("OUR_SERVICE_TOKEN", f"of-{SECRET}")
        place = "experiment"
    with pytest.raises(ConfigError, match=rf"--set: {place} holds a password or a token") as caught:
        load_config("smoke", None, [override])
    assert SECRET not in str(caught.value) and HUB not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [f"training.steps={HUB}", f"http://u:{SECRET}@h", f"training.api_key={SECRET}", f"no.such=http://u:{SECRET}@h"],
)
def test_no_mistake_in_a_setting_repeats_a_secret(text):
    with pytest.raises(ConfigError) as caught:
        load_config("smoke", None, [text])
    assert SECRET not in str(caught.value) and HUB not in str(caught.value)


def test_a_file_that_yaml_makes_endless_is_refused(tmp_path):
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    (tmp_path / "laughs.yaml").write_text("\n".join(["preset: smoke", *laughs]))
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000 + "]" * 5000)
    for name in ("laughs", "deep"):
        with pytest.raises(ConfigError, match=name):
            load_config(None, tmp_path / f"{name}.yaml", ())


@pytest.mark.parametrize("debug", ["", "1"])
def test_the_command_line_prints_no_secret(debug, monkeypatch, capsys):
    def fail(**_):
        raise ConnectionError(f"HTTPConnectionPool: {ADDRESS} refused")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setenv("LONGCAT_DEBUG", debug)
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert "http://***@127.0.0.1:9 refused" in said
    assert SECRET not in said


def test_a_manifest_holds_no_secret(tmp_path):
    recipe = Recipe(kind="x", facts=NoFacts, version=1, identity={"cluster": ADDRESS})
    artifact = Workspace(tmp_path).materialize(recipe, lambda _: NoFacts())
    assert SECRET not in (artifact.path / "manifest.json").read_text()


def test_neither_journal_nor_warning_holds_a_secret(tmp_path, monkeypatch):
    monkeypatch.setattr(sender, "END_S", 0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESS)
    monkeypatch.setenv("HF_TOKEN", HUB)
    config = load_config("smoke").model_copy(update={"experiment": HUB})
    tracker = Tracker(Workspace(tmp_path), config, "secrets")
    with pytest.raises(LongcatError), tracker.stage("pretrain") as run:
        run.log_params({"address": ADDRESS, "deep": {"list": [HUB]}})
        run.set_tags({"address": ADDRESS})
        raise LongcatError(f"of {ADDRESS} and {HUB}")
    warning = tracker.close("FAILED")
    kept = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert kept.count("http://***@127.0.0.1:9") >= 3
    assert "http://***@127.0.0.1:9" in warning
    for secret in (SECRET, HUB):
        assert secret not in kept + warning


@pytest.mark.slow
def test_a_run_leaves_no_secret_anywhere(tmp_path):
    """Everything that a run prints and leaves, Prefect's database and the logs of processes included."""
    secrets = {
        "MLFLOW_TRACKING_URI": ADDRESS,
        "MLFLOW_TRACKING_TOKEN": "token-for-mlflow",
        "HF_TOKEN": HUB,
        "AWS_SECRET_ACCESS_KEY": "key+of/aws",
    }
    done = subprocess.run(
        [sys.executable, "-m", "longcat.cli", "pretrain", "-p", "smoke", "--set", "training.steps=2", "-w", "ws", "--json"],
        cwd=tmp_path, env={**os.environ, **secrets}, capture_output=True, text=True, timeout=500, check=True,
    )  # fmt: skip
    summary = json.loads(done.stdout)
    assert summary["mlflow"]["tracking_uri"] == "http://***@127.0.0.1:9"
    files = [path for path in (tmp_path / "ws").rglob("*") if path.is_file()]
    assert {"summary.json", "manifest.json", "run.log", "prefect.db", "rank-0.log"} <= {path.name for path in files}
    looked_for = [SECRET, "token-for-mlflow", HUB, "key+of/aws", urllib.parse.quote("key+of/aws", safe="")]
    for secret in looked_for:
        assert secret not in done.stdout + done.stderr
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
