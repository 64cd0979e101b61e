"""Versions of torch, torch_npu and CANN against the published table."""

import pytest

from longcat.doctor.versions import judge, published


def test_the_table_names_each_release_with_its_source():
    rows = published()
    assert len({(row.torch_npu, row.cann) for row in rows}) == len(rows) > 40
    assert all(row.source and row.torch_npu.startswith(row.torch) for row in rows)


@pytest.mark.parametrize(
    ("versions", "said", "problem"),
    [
        (("2.9.0+cpu", "2.9.0", "8.5.0"), "a published pair", None),
        (("2.12.0", "2.12.0.post2", "9.1.3"), "a published pair", None),
        (("2.9.0", "2.9.0", "9.1.0"), "was published for CANN 8.5.0", "or torch_npu 2.9.0.post8"),
        (("2.9.0", "2.9.0", "8.5"), "was published for CANN 8.5.0", "install CANN 8.5.0"),
        (("2.13.0", "2.13.0", "9.1.0"), "no published table names torch_npu 2.13.0; 2.13.0rc1", None),
        (("2.12.0", "2.13.0", "9.1.0"), "do not pair", "install torch_npu 2.12.0"),
        (("2.13.0", None, None), "no torch_npu", None),
        (("2.9.0", "2.9.0", None), "CANN is not set up", None),
    ],
)
def test_a_contradiction_to_the_table_is_a_problem(versions, said, problem):
    line, trouble = judge(*versions)
    assert said in line
    assert (trouble is None) == (problem is None) and (problem or "") in (trouble or "")
