"""What `longcat doctor` finds wrong."""

import pytest

from longcat.doctor import cann_version, check_packages, check_triple, examine
from longcat.tables import print_diagnosis


def test_this_environment_is_complete(tmp_path):
    facts = examine(tmp_path / "not" / "there" / "yet")
    assert facts["problems"] == []
    assert facts["environment"]["packages"]["torch"] is not None
    assert facts["accelerator"]["processes"] >= 1


def test_full_disk_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1e9, "total": 2e9}))
    (problem,) = examine(tmp_path)["problems"]
    assert "1.0 GB left" in problem and "--workspace" in problem


def test_missing_and_unfit_packages_are_named():
    versions, problems = check_packages(
        ["numpy>=1", "pytest<1", "no-such-package", "absent-dev; extra == 'dev'", "absent-npu; extra == 'npu'"]
    )
    assert versions["numpy"] and versions["no-such-package"] is None
    assert "absent-dev" not in versions and versions["absent-npu"] is None
    assert len(problems) == 2
    assert problems[0].startswith("pytest ") and "<1 is needed" in problems[0]
    assert problems[1].startswith("no-such-package is not installed")


@pytest.mark.parametrize(
    ("triple", "words"),
    [
        (("2.13.0+cpu", None, None, None), []),
        (("2.13.0+cpu", "2.13.0", "8.5.0", "Ascend 25.2"), []),
        (("2.13.0", "2.13.0.post1", "8.5.0", "Ascend 25.2"), []),
        (("2.12.1", "2.13.0", "8.5.0", "Ascend 25.2"), ["do not belong together"]),
        (("2.13.0", "2.13.0", None, "Ascend 25.2"), ["set_env.sh"]),
        (("2.13.0", "2.13.0", "8.5.0", None), ["driver is not"]),
        (("2.13.0", None, None, "Ascend 25.2"), ["torch_npu is not: "]),
    ],
)
def test_torch_torch_npu_cann_and_driver_have_to_fit(triple, words):
    problems = check_triple(*triple)
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))


def test_cann_version_is_read_where_the_environment_points(tmp_path, monkeypatch):
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    assert cann_version() is None
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    assert cann_version() == str(tmp_path)
    (tmp_path / "aarch64-linux").mkdir()
    (tmp_path / "aarch64-linux" / "ascend_toolkit_install.info").write_text(
        "package_name=Ascend-cann-toolkit\nversion=8.5.0\narch=aarch64\n"
    )
    assert cann_version() == "8.5.0"


def test_a_cpu_is_told_what_it_is_good_for(tmp_path):
    said = examine(tmp_path)["conclusion"]
    assert "no Ascend NPU" in said and "runs use the CPU" in said and "longcat emulate" in said


def test_a_diagnosis_is_plain_lines_where_it_is_narrow(tmp_path, monkeypatch, capsys):
    facts = examine(tmp_path)
    monkeypatch.setenv("COLUMNS", "40")
    print_diagnosis(facts)
    narrow = capsys.readouterr().out
    assert "machine:\n  cores: " in narrow and not set("│┃") & set(narrow) and "\x1b" not in narrow
    monkeypatch.setenv("COLUMNS", "80")
    print_diagnosis(facts)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if "│" in line) <= 80
    assert lines[-1] == "Nothing is missing for that." and lines[-2].startswith("On this machine: ")
