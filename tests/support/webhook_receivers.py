"""A real HTTP receiver of webhooks that can fail in typical ways."""

import base64
import hashlib
import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.waiting import TIMEOUT_S


class Receiver:
    """Listens on loopback. Each call gets one of `answers`, the last one for ever; "hang" hangs."""

    def __init__(self, *answers, port=0):
        self.answers = list(answers) or [204]
        self.calls = []  # (headers, body), also of those that were not taken
        self.taken = []  # data of the bodies that were answered 2xx
        self.silence = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.calls.append((dict(self.headers), body))
                answers = receiver.answers
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if answer == "hang":
                    receiver.silence.wait(TIMEOUT_S)
                    return
                if 200 <= answer < 300:
                    receiver.taken.append(json.loads(body)["data"])
                self.send_response(answer)
                if 300 <= answer < 400:
                    self.send_header("Location", f"{receiver.url}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        self.silence.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(TIMEOUT_S)


def signature(secret_text, headers, body):
    """The correct signature of a call, computed as in the specification."""
    secret = base64.b64decode(secret_text.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
