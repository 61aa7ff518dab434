"""Files here and behind URLs, served by a real HTTP server and by fsspec's memory."""

import gzip
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from train.data.storage import find, open_binary, state_of, without_compression


@pytest.fixture
def server(tmp_path):
    """An HTTP server of `tmp_path`, by its URL."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path))) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{one.server_port}"
        one.shutdown()
        thread.join()


def test_a_file_behind_http_is_read_and_known_by_its_state(server, tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    url = f"{server}/a.jsonl.gz"
    assert find(url) == ("file", [url])
    with open_binary(url) as file:
        assert file.read() == b"one\ntwo\n"
    assert state_of(url).bytes == (tmp_path / "a.jsonl.gz").stat().st_size
    for gone in (f"{server}/gone.jsonl", "memory://gone.jsonl"):
        with pytest.raises(OSError), open_binary(gone):
            pass


def test_lines_of_bounded_length_and_places_are_read_from_any_storage(server, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"first line\nsecond\n")
    fsspec.filesystem("memory").pipe("/a.txt", b"first line\nsecond\n")
    for url in (f"{server}/a.txt", "memory://a.txt", f"file://{tmp_path}/a.txt", str(tmp_path / "a.txt")):
        with open_binary(url) as file:
            assert [file.readline(6) for _ in range(4)] == [b"first ", b"line\n", b"second", b"\n"]
            file.seek(11)
            assert file.read() == b"second\n" and file.read() == b""


def test_the_ending_names_the_compression():
    assert without_compression("a.jsonl.ZST") == ("a.jsonl", ".zst")
    assert without_compression("b/a.tgz") == ("b/a.tar", ".gz")
    assert without_compression("a.py") == ("a.py", "")
