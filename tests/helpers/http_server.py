"""HTTP server that runs within a test."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def http_server(respond: Callable[[BaseHTTPRequestHandler, bytes], int]) -> Iterator[str]:
    """Serve on 127.0.0.1 while the block runs, and provide the URL.

    Args:
        respond: Gets each request and its body, and returns the status; 0 closes the connection without a response.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if status := respond(self, self.rfile.read(int(self.headers.get("Content-Length", 0)))):
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(b"<html>a proxy's error page</html>")

        do_GET = do_POST

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
