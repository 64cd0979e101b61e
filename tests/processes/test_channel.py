"""What strangers send to a launcher's port is no message and no proof, and raises nothing else."""

import socket

import pytest

from longcat.processes.channel import Channel, Closed, proof, proves


@pytest.mark.parametrize("sent", [b"[" * 100_000 + b"\n", b"\xff\n", b"3\n", b"{}{}\n", b"x" * (2 << 20), b""])
def test_what_is_no_message_ends_the_connection(sent):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)
        theirs.settimeout(0.5)
        try:
            theirs.sendall(sent)
        except TimeoutError:  # more than the other side takes before it reads
            pass
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(Closed):
            Channel(ours).receive(30)


@pytest.mark.parametrize("shown", ["", "ü", "\ud800", 3, None, ["x"], {"a": 1}])
def test_nothing_but_the_proof_is_one(shown):
    assert not proves(b"key", "node", "once", {"proof": shown})
    assert not proves(b"key", "node", "once", {})
    assert proves(b"key", "node", "once", {"proof": proof(b"key", "node", "once")})
