# SPDX-License-Identifier: Apache-2.0
"""A web server that answers each GET with what it saw of it, as JSON: the client's address and the headers; and who answers.

    answerer.py --port 8080     in a VM or outside host
    answerer.py --unix PATH     in place of neutron-metadata-agent, behind the L3 agent's proxies
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import socket
import socketserver


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        client = self.client_address[0] if self.client_address else ""
        body = json.dumps({"host": socket.gethostname(), "client": client, "path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values) -> None:
        pass


class TcpServer(http.server.ThreadingHTTPServer):
    def server_bind(self) -> None:
        # HTTPServer would look up its own name.
        socketserver.TCPServer.server_bind(self)


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def main() -> None:
    parser = argparse.ArgumentParser()
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int)
    where.add_argument("--unix")
    options = parser.parse_args()
    if options.unix:
        server: socketserver.BaseServer = UnixServer(options.unix, Handler)
        os.chmod(options.unix, 0o666)
    else:
        server = TcpServer(("0.0.0.0", options.port), Handler)
    assert isinstance(server.socket, socket.socket)
    server.serve_forever()


if __name__ == "__main__":
    main()
