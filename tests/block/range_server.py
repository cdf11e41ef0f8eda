"""range_server.py - a web server for tests: one file, by ranges; counts what it sends, and can misbehave."""
import os, re, socketserver, ssl, threading, time
from http.server import BaseHTTPRequestHandler


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """mode: "good"; "whole" (no ranges); "cut" (each answer breaks off in the middle); "busy" (503); "other" (another range); "gzip".
    tls: a folder of certificates.py: it is https. plain: where /plain leads to."""
    allow_reuse_address, daemon_threads = True, True

    def __init__(self, path, port=0, tls=None):
        self.path, self.etag, self.mode, self.sent, self.requests, self.lock = path, '"one"', "good", 0, 0, threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)
        self.url = "%s://127.0.0.1:%d/" % ("https" if tls else "http", self.server_address[1])
        self.context = None
        if tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(tls + "/server-cert.pem", tls + "/server-key.pem")
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def finish_request(self, request, address):
        """In the connection's thread: a client that is slow, or refuses us, holds up nobody."""
        if self.context:
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, address)

    def handle_error(self, request, address):
        pass

    def end(self):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def reply(self, status, *headers, body=b""):
        self.send_response(status)
        for k, v in headers + (("Content-Length", str(len(body))),):
            self.send_header(k, v)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        s, size = self.server, os.path.getsize(self.server.path)
        with s.lock:
            s.requests += 1
        if self.path == "/moved":
            return self.reply(302, ("Location", s.url + "disk"))
        if self.path == "/plain":
            return self.reply(302, ("Location", s.plain + "disk"))
        if self.path == "/nothing":
            return self.reply(404)
        m = re.match(r"bytes=(\d+)-(\d+)$", self.headers.get("Range", ""))
        if s.mode == "busy":
            return self.reply(503)
        if s.mode == "whole" or not m:
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(bytes(1 << 16))
            self.close_connection = True
            return
        first, last = int(m[1]), min(int(m[2]), size - 1)
        if first >= size:
            return self.reply(416, ("Content-Range", "bytes */%d" % size))
        if s.mode == "other":
            first, last = first + 1, last + 1
        self.send_response(206)
        self.send_header("ETag", s.etag)
        self.send_header("Content-Range", "bytes %d-%d/%d" % (first, last, size))
        self.send_header("Content-Length", str(last - first + 1))
        if s.mode == "gzip":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        left = last - first + 1
        if s.mode == "cut" and left > 1:
            left, self.close_connection = left // 2, True
        with open(s.path, "rb") as f:
            f.seek(first)
            while left:
                data = f.read(min(left, 1 << 16))
                self.wfile.write(data)
                left -= len(data)
                with s.lock:
                    s.sent += len(data)
