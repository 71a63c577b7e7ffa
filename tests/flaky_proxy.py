"""Stands in front of a store, and lets requests fail or wait."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class FlakyProxy:
    """Passes requests on to a URL: every `nth` is answered 503, each waits for `seconds`.

    Attributes
    ----------
    failed
        How many were not passed on.
    """

    def __init__(self, target: str, nth: int = 0, seconds: float = 0.0) -> None:
        self.failed = 0
        self.nth, self.seconds = nth, seconds
        self.fail_from(None)
        host = urlsplit(target).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                time.sleep(proxy.seconds)
                number = next(proxy._numbers)
                if (proxy.nth and number % proxy.nth == 0) or number > proxy._last:
                    proxy.failed += 1
                    self._answer(503, [], _SLOW_DOWN)
                    return
                passed_on = http.client.HTTPConnection(host, timeout=60)
                headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
                passed_on.request(self.command, self.path, body, headers)
                answer = passed_on.getresponse()
                content = answer.read()
                kept = [
                    (name, value)
                    for name, value in answer.getheaders()
                    if name.lower() not in ("connection", "transfer-encoding")
                ]
                self._answer(answer.status, kept, content)
                passed_on.close()

            def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                if not any(name.lower() == "content-length" for name, _ in headers):
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fail_from(self, number: int | None) -> None:
        """Let so many requests through from now on, and all others fail; None for all through."""
        self._last = float("inf") if number is None else number
        self._numbers = itertools.count(1)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
