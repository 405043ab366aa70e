"""A language model's server on this machine, as well or badly behaved as a test wants."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from likeness.pipelines.sketch.ask import program_for

GOOD = "```latex\n% object: a cup\n\\fill (1,1) rectangle (2,2);\n```"
BROKEN = "\\drow (1,1) rectangle (2,2);"


class Model:
    """A server that speaks the protocol. `script`: what it does with each request in turn, the last
    one for all that follow: a text to answer with, or a function of the handler.
    """

    def __init__(self):
        self.requests = []
        self.script = [GOOD]
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model.requests.append((self.path, dict(self.headers), body))
                step = model.script[min(len(model.requests), len(model.script)) - 1]
                if callable(step):
                    step(self)
                else:
                    message = {"role": "assistant", "content": step}
                    send(self, 200, {"choices": [{"message": message}]})

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}/v1"

    def ask(self, scene="a cup", **options):
        given = {"width": 64, "height": 32, **options}
        return program_for(scene, given.pop("address", self.url), "tiny", **given)

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def send(handler, status, content, headers=()):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    for name, value in headers:
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
