"""What is told of a service that fails: one line, of the system's own words where a client has many."""

from http.client import RemoteDisconnected

import pytest
from urllib3.exceptions import MaxRetryError, ProtocolError

from longcat.best_effort import reason

ADDRESS = "/api/2.0/mlflow/experiments/search"


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (RemoteDisconnected("Remote end closed connection"), "Remote end closed connection"),
    ],
)
def test_the_systems_error_is_told_that_a_client_of_http_has_wrapped(inner, said):
    """Clients raise from it, or hold it as an argument of their own error."""
    for wrapped in (inner, ProtocolError("Connection aborted.", inner)):
        with pytest.raises(RuntimeError) as found:
            try:
                raise MaxRetryError(None, ADDRESS, wrapped) from wrapped
            except MaxRetryError as error:
                raise RuntimeError(f"API request failed with exception {'words ' * 40}") from OSError(error)
        assert reason(found.value) == f"RuntimeError: {said}"


def test_a_short_error_is_told_as_it_is_and_a_long_one_ends_with_a_word():
    with pytest.raises(RuntimeError) as found:
        raise RuntimeError("short") from ConnectionRefusedError(111, "Connection refused")
    assert reason(found.value) == "RuntimeError: short"
    assert reason(ValueError("word " * 90)).endswith("word …")
