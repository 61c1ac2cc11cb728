"""A server of this machine that stands in for the cloud: it knows ranges, and can be slow, busy or cut off.

It runs as a process of its own, since GDAL may hold Python's lock while it waits for an answer:
``python cloud_server.py FOLDER`` prints its port. What happens to coming requests for a file is POSTed to
``/-/faults`` as ``{name: [fault, ...]}``, and GET ``/-/sent`` tells the bytes that were sent, by file.
"""

import json
import re
import sys
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SENT, FAULTS = Counter(), {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        FAULTS.clear()
        FAULTS.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        SENT.clear()
        self.reply(200, b"")

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name = self.path.lstrip("/").partition("?")[0]
        if name == "-/sent":
            return self.reply(200, json.dumps(SENT).encode())
        fault = FAULTS[name].pop(0) if FAULTS.get(name) else None
        if isinstance(fault, int):
            return self.reply(fault, b"")
        if fault in ("slow", "silent"):
            time.sleep(0.3 if fault == "slow" else 5)
        file = Path(sys.argv[1], name)
        if not file.is_file():
            return self.reply(404, b"")
        content = file.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not found:
            return self.reply(200, content, name)
        begin, end = int(found[1]), min(int(found[2]) + 1, len(content))
        where = f"bytes {begin}-{end - 1}/{len(content)}"
        return self.reply(206, content[begin:end], name, where, cut=fault == "cut")

    def reply(self, code, body, name="", where="", cut=False):
        self.send_response(code)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        if where:
            self.send_header("Content-Range", where)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut:
            body, self.close_connection = body[: len(body) // 2], True
        self.wfile.write(body)
        if name:
            SENT[name] += len(body)


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
