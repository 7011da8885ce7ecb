import http.server
import json
import logging
import os
import socketserver
import threading

import pytest


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("TW_", "MESOPHYLL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    # Commands send the log to the stderr of their test, which is gone afterwards.
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = before


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def server(tmp_path):
    """A server on `control.sock` that answers what the test put into ``answers`` and keeps what it was asked."""
    asked, answers = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((self.command, self.path, json.loads(body) if body else None))
            status, reply = answers.pop(0)
            data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *_):
            pass

        def address_string(self):
            return "control"

    with _Server(str(tmp_path / "control.sock"), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield asked, answers
        running.shutdown()
        thread.join()
