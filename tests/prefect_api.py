"""A stand-in for Prefect's API on loopback that answers as the real one, and on demand hangs, fails or refuses."""

import json
import threading
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakePrefect:
    """`mode` is "well", "hang", "junk" or an HTTP status that every request is answered with."""

    def __init__(self):
        self.mode = "well"
        self.requests, self.states, self.artifacts = [], [], []
        self.runs = {}
        self.lose_next = False  # the connection is closed once, as an idle one is
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                outer.requests.append((outer.mode, self.command, self.path))
                if outer.mode == "hang":
                    outer.released.wait(60)
                lost, outer.lose_next = outer.lose_next, False
                if lost or outer.mode in ("hang", "dead"):
                    self.close_connection = True
                    return
                if outer.mode == "junk":
                    self.reply(200, "<html>a page</html>", "text/html")
                elif isinstance(outer.mode, int):
                    self.reply(outer.mode, json.dumps({"detail": "no"}))
                else:
                    status, value = outer.reply(self.command, self.path.removeprefix("/api"), body)
                    self.reply(status, json.dumps(value))

            def reply(self, status, text, kind="application/json"):
                data = text.encode() if status != 204 else b""
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = answer

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/api"

    def reply(self, method, path, body):
        now = datetime.now(UTC).isoformat()
        if path == "/csrf-token" or path.startswith("/csrf-token?"):
            return 422, {"detail": "CSRF protection is disabled."}
        if path == "/admin/version":
            return 200, "3.8.8"
        if path == "/flows/":
            return 201, {"id": str(uuid.uuid4()), "created": now, "updated": now, **body}
        if path == "/flow_runs/":
            run = {"id": str(uuid.uuid4()), "created": now, "updated": now, "name": "a-run", **body}
            run["state"] = {"id": str(uuid.uuid4()), "timestamp": now, "type": "PENDING", "name": "Pending"}
            self.runs[run["id"]] = run
            return 201, run
        if path.endswith("/set_state"):
            run = self.runs[path.split("/")[2]]
            run["state"] = {"id": str(uuid.uuid4()), "timestamp": now, **body["state"]}
            self.states.append(body["state"]["type"])
            return 201, {"state": run["state"], "status": "ACCEPT", "details": {"type": "accept_details"}}
        if path.startswith("/flow_runs/"):
            return 200, self.runs[path.split("/")[2]]
        if path == "/artifacts/":
            self.artifacts.append(body["key"])
            return 201, {"id": str(uuid.uuid4()), "created": now, "updated": now, **body}
        return 404, {"detail": f"{method} {path}"}

    def die(self):
        """Close the port, as a server that is killed does."""
        self.mode = "dead"  # for connections that are open
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def fake_prefect():
    """A server that runs while the context is open."""
    fake = FakePrefect()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.die()
        thread.join(30)
