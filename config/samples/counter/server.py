"""A server like any other: it counts its visitors in memory and in a file, and knows nothing of sleep.

GET /         both counts, who it is, and since when this process runs
GET /healthz  200 as soon as it serves
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STARTED = time.strftime("%H:%M:%S", time.gmtime())
VISITS = Path("/data/visits")
lock = threading.Lock()
in_memory = 0


def visit():
    global in_memory
    with lock:
        in_memory += 1
        in_file = int(VISITS.read_text()) + 1 if VISITS.exists() else 1
        VISITS.write_text(str(in_file))
        return in_memory, in_file


def actor():
    try:
        return Path("/run/ate/actor-id").read_text()
    except FileNotFoundError:
        return "nobody: not in a sandbox"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, "ok\n")
        if self.path != "/":
            return self.answer(404, "there is only /\n")
        memory, file = visit()
        told = {"actor": actor(), "memory": memory, "file": file, "started": STARTED}
        self.answer(200, json.dumps(told) + "\n")

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if text.startswith("{") else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    VISITS.parent.mkdir(exist_ok=True)
    ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
