"""What nodes are given, and where their processes meet."""

from longcat.training.members import meeting_place, variables_of
from tests.training.nodes import node


def test_threads_are_by_the_cores_of_a_node(monkeypatch):
    monkeypatch.delenv("LONGCAT_LEASES", raising=False)
    common = {"OMP_NUM_THREADS": "1", "OTHER": "x"}
    named = {"LONGCAT_NODE": "a"}
    assert variables_of(common, node("a"), 2) == named | {"OMP_NUM_THREADS": "4", "OTHER": "x"}
    assert variables_of(common, node("a", threads="3"), 2) == named | {"OTHER": "x"}
    assert variables_of({"OTHER": "x"}, node("a"), 2) == named | {"OTHER": "x"}
    monkeypatch.setenv("LONGCAT_LEASES", "{}")
    assert variables_of({}, node("a"), 2) == named | {"LONGCAT_LEASES": "{}"}


def test_the_store_opens_where_nodes_reach_it():
    with meeting_place([node("a"), node("b")], 60) as port:
        from longcat.training.rendezvous import Rendezvous

        meeting = Rendezvous("attempt-0", 1, 2, f"127.0.0.1:{port}", 60).next_rendezvous()
        assert (meeting.rank, meeting.world_size) == (1, 2)
        meeting.store.set("key", "value")
        assert meeting.store.get("key") == b"value"
