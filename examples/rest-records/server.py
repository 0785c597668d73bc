"""A service that knows three details of every customer, and has trouble with 7, 8 and 9 until it is mended."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Rest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        customer = self.path[1:]
        trouble = 0 if os.path.exists("mended") else int(customer) % 50
        details = [
            {"id": f"{customer}-{rank}", "relevanceScore": rank / 10, "relevanceRank": rank}
            for rank in range(3)
        ]
        body = json.dumps({} if trouble == 9 else {"details": details}).encode()
        if trouble == 8:
            body = b"{not json"
        self.send_response(500 if trouble == 7 else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 64


Server(("127.0.0.1", 8099), Rest).serve_forever()
