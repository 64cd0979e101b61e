"""Addresses: a store in memory, and a server on loopback that knows no ranges."""

import functools
import gzip
import pickle
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longcat.config import SourceConfig
from longcat.corpus.addresses import RemoteFile
from longcat.corpus.sources import check_source, resolve
from longcat.errors import DataError

LINES = b"".join(b'{"text": "line %d"}\n' % number for number in range(40))
TEXTS = [f"line {number}" for number in range(40)]


def source(path, block_bytes=1 << 24):
    return resolve(SourceConfig(kind="files", path=str(path)), block_bytes)


def records(found):
    blocks = pickle.loads(pickle.dumps(found.blocks))
    return [record for block in blocks for record in block.records(["detect"], 1 << 20)]


@pytest.fixture
def memory():
    store = fsspec.filesystem("memory")
    store.pipe(
        {
            "/corpus/a.jsonl": LINES,
            "/corpus/deep/b.txt.gz": gzip.compress(b"two"),
            "/corpus/c.pdf": b"",
            "/corpus/.d.txt": b"x",
        }
    )
    yield store
    store.rm("/corpus", recursive=True)


def test_a_folder_a_file_and_a_pattern_of_a_store(memory):
    with pytest.warns(UserWarning, match="files that are not read"):
        found = source("memory://corpus", 100)
    assert len(found.blocks) > 5
    assert records(found) == [*TEXTS, "two"]
    assert found.left_out == {".pdf": 1, "hidden": 1}
    assert records(source("memory://corpus/a.jsonl")) == TEXTS
    assert records(source("memory://corpus/**/*.gz")) == ["two"]


def test_a_store_that_states_nothing_is_pinned_by_content(memory, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    pin = source("memory://corpus/a.jsonl").pin
    assert pin == source(tmp_path / "a.jsonl").pin == source(f"file://{tmp_path}/a.jsonl").pin
    memory.pipe("/corpus/a.jsonl", LINES + b"\n\n")
    assert source("memory://corpus/a.jsonl").pin != pin


def test_a_remote_file_that_changes_meanwhile_is_noticed(memory):
    found = source("memory://corpus/a.jsonl")
    memory.pipe("/corpus/a.jsonl", LINES + b'{"text": "more"}\n')
    with pytest.raises(DataError, match=r"memory://corpus/a\.jsonl was changed while it was read"):
        records(found)


def test_what_is_not_there(memory):
    for address in ("memory://corpus/absent.jsonl", "memory://nowhere"):
        with pytest.raises(DataError, match=f"corpus source {address} does not exist"):
            source(address)
    with pytest.raises(DataError, match=r"names no file that can be read; there are 1 \.pdf"):
        source("memory://corpus/c.pdf")


@pytest.fixture
def server(tmp_path):
    """The address of a server of a folder, and the headers that it adds."""
    headers = {}

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def end_headers(self):
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "a.jsonl").write_bytes(LINES)
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "www" / "b.parquet", row_group_size=3)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path / "www")))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{httpd.server_port}", headers
    httpd.shutdown()
    httpd.server_close()
    thread.join(10)


def test_files_of_a_server(server, tmp_path):
    host, headers = server
    for name in ("a.jsonl", "b.parquet"):
        found = source(f"http://{host}/{name}", 100)
        assert len(found.blocks) == 1
        assert records(found) == TEXTS
        assert found.pin == source(tmp_path / "www" / name).pin
    assert records(source(f"http://{host}/")) == TEXTS * 2
    headers["ETag"] = '"one"'
    stated = source(f"http://{host}/a.jsonl")
    headers["ETag"] = '"two"'
    assert source(f"http://{host}/a.jsonl").pin != stated.pin
    with pytest.raises(DataError, match="was changed while it was read"):
        records(stated)


def test_secrets_of_addresses_are_in_no_message(server):
    host, _ = server
    address = f"http://{host}/a.jsonl?X-Amz-Signature=abcdef0123456789"
    found = source(address)
    assert records(found) == TEXTS
    assert found.name == f"http://{host}/a.jsonl?X-Amz-Signature=***"
    assert "abcdef" not in repr(found)
    assert "abcdef" not in str(RemoteFile(address, address))
    with pytest.raises(DataError) as error:
        source(address.replace("a.jsonl", "absent.jsonl"))
    assert "abcdef" not in str(error.value)


def test_a_server_that_is_not_there():
    with pytest.raises(
        DataError, match=r"corpus source http://127\.0\.0\.1:9/a\.jsonl (cannot be read|does not exist)"
    ):
        source("http://127.0.0.1:9/a.jsonl")
    check_source(SourceConfig(kind="files", path="http://127.0.0.1:9/a.jsonl"))  # asks nobody
