#!/usr/bin/env python3
"""vnc_clients.py SERVER - Debian's gvnccapture and a small client of our own look at vnc-server's screen and type on its keyboard."""
import os, select, shutil, socket, struct, subprocess, sys, tempfile, zlib

server = sys.argv[1]
folder = tempfile.mkdtemp(prefix="dp-vnc-")
path = os.path.join(folder, "vnc")
proc = subprocess.Popen([server, path], stdout=subprocess.PIPE, bufsize=0)


def check(what, holds):
    if not holds:
        proc.kill()
        sys.exit("FAIL: " + what)


def pixel(x, y, mask=0):
    return ((x & 255) << 16 | (y & 255) << 8 | ((x ^ y) & 255)) ^ mask


def line():
    check("the server says nothing", select.select([proc.stdout], [], [], 10)[0])
    return proc.stdout.readline().decode().strip()


class Client:
    def __init__(self, sock, encodings):
        self.s = sock
        sock.settimeout(10)
        check("version", self.read(12) == b"RFB 003.008\n")
        sock.sendall(b"RFB 003.008\n")
        check("security types", self.read(2) == b"\1\1")
        sock.sendall(b"\1")
        check("security result", self.read(4) == b"\0\0\0\0")
        sock.sendall(b"\1")
        self.w, self.h = struct.unpack(">HH", self.read(4))
        check("pixel format", self.read(16)[:13] == bytes([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0]))
        self.name = self.read(struct.unpack(">I", self.read(4))[0]).decode()
        self.screen = {}
        self.z = zlib.decompressobj()
        self.keys = False
        sock.sendall(struct.pack(">BxH", 2, len(encodings)) + b"".join(struct.pack(">i", e) for e in encodings))

    def read(self, n):
        data = b""
        while len(data) < n:
            part = self.s.recv(n - len(data))
            check("the connection ended", part)
            data += part
        return data

    def request(self, incremental):
        self.s.sendall(struct.pack(">BBHHHH", 3, incremental, 0, 0, self.w, self.h))

    def update(self):
        kind, count = struct.unpack(">BxH", self.read(4))
        check("message type", kind == 0)
        for _ in range(count):
            x, y, w, h, encoding = struct.unpack(">HHHHi", self.read(12))
            if encoding == -223:
                self.w, self.h, self.screen = w, h, {}
            elif encoding == -258:
                self.keys = True
            elif encoding == 0:
                data = struct.unpack("<%dI" % (w * h), self.read(w * h * 4))
                for i, v in enumerate(data):
                    self.screen[x + i % w, y + i // w] = v
            elif encoding == 16:
                self.zrle(x, y, w, h, self.z.decompress(self.read(struct.unpack(">I", self.read(4))[0])))
            else:
                check("encoding %d" % encoding, False)

    def zrle(self, x0, y0, w, h, d):
        at = 0

        def cpixel():
            nonlocal at
            at += 3
            return d[at - 3] | d[at - 2] << 8 | d[at - 1] << 16
        for ty in range(0, h, 64):
            for tx in range(0, w, 64):
                tw, th = min(64, w - tx), min(64, h - ty)
                sub = d[at]
                at += 1
                check("subencoding %d" % sub, sub <= 16)
                palette = [cpixel() for _ in range(sub)]
                bits = 0 if sub < 2 else 1 if sub == 2 else 2 if sub <= 4 else 4
                for y in range(th):
                    if bits:
                        size = (tw * bits + 7) // 8
                        row = int.from_bytes(d[at:at + size], "big")
                        at += size
                    for x in range(tw):
                        v = cpixel() if sub == 0 else palette[0] if sub == 1 else palette[row >> (size * 8 - bits * (x + 1)) & ((1 << bits) - 1)]
                        self.screen[x0 + tx + x, y0 + ty + y] = v
        check("bytes left in a rectangle", at == len(d))

    def shows(self, mask=0):
        return len(self.screen) == self.w * self.h and all(v == pixel(x, y, mask) for (x, y), v in self.screen.items())

    def key(self, sym, down):
        self.s.sendall(struct.pack(">BBxxI", 4, down, sym))


def unix():
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    return s


host, port = line().rsplit(":", 1)
check("mode of the socket", os.stat(path).st_mode & 0o777 == 0o600)
for connect, encodings in ((unix, [0]), (unix, [16, -223, -258]), (lambda: socket.create_connection((host, int(port))), [7, 16, 0])):
    sock = connect()
    c = Client(sock, encodings)
    check("size and name", (c.w, c.h, c.name) == (320, 200, "fake"))
    c.request(0)
    c.update()
    check("picture with encodings %s" % encodings, c.shows())
    check("extended keys", c.keys == (-258 in encodings))
    if -258 not in encodings:
        sock.close()
        continue
    c.s.sendall(struct.pack(">BBHII", 255, 0, 1, 0xff52, 0xc8) + struct.pack(">BBHII", 255, 0, 0, 0xff52, 0xc8))
    check("extended key", [line(), line()] == ["key 103 1", "key 103 0"])
    c.s.sendall(struct.pack(">BBHII", 255, 0, 1, 0, 0xffffffff))  # no such key: nothing happens
    c.key(ord("a"), 1)
    c.key(ord("a"), 0)
    check("key", [line(), line()] == ["key 30 1", "key 30 0"])
    c.s.sendall(struct.pack(">BBHH", 5, 1, 319, 199) + struct.pack(">BBHH", 5, 8, 0, 0))
    check("pointer", [line(), line()] == ["pointer 32767 32767 0 1", "pointer 0 0 1 0"])
    c.request(1)
    check("an update without news", not select.select([c.s], [], [], 0.2)[0])
    c.key(0xffbf, 1)  # F2: the complement
    c.key(0xffbf, 0)
    line(), line()
    c.update()
    check("incremental update", c.shows(0xffffff))
    c.request(1)
    c.key(0xffbf, 1)
    c.key(0xffbf, 0)
    line(), line()
    c.update()
    c.request(1)
    c.key(0xffbe, 1)  # F1: another size
    line()
    c.update()
    check("new size", (c.w, c.h) == (400, 300))
    c.request(0)
    c.update()
    check("picture of the new size", c.shows())
    c.s.close()
    check("keys are let go", line() == "key 59 0")
    # back to the first size for those who come next
    proc.stdout.close()
    proc.kill()
    proc.wait()
    proc = subprocess.Popen([server, path], stdout=subprocess.PIPE, bufsize=0)  # the socket that was left behind is taken over
    host, port = line().rsplit(":", 1)

tool = shutil.which("gvnccapture")
if tool:
    png = os.path.join(folder, "shot.png")
    env = dict(os.environ, HOME=folder)
    r = subprocess.run([tool, "-q", "%s:%d" % (host, int(port) - 5900), png], env=env, timeout=30, capture_output=True)
    check("gvnccapture: " + r.stderr.decode(), r.returncode == 0)
    data = open(png, "rb").read()
    at, idat, header = 8, b"", None
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        if kind == b"IHDR":
            header = struct.unpack(">IIBBBBB", data[at + 8:at + 8 + size])
        elif kind == b"IDAT":
            idat += data[at + 8:at + 8 + size]
        at += size + 12
    width, height, depth, colour = header[:4]
    check("gvnccapture's picture: %s" % (header,), (width, height, depth) == (320, 200, 8) and colour in (2, 6))
    n = 3 if colour == 2 else 4
    raw, previous = zlib.decompress(idat), bytearray(width * n)
    for y in range(height):
        kind, row = raw[y * (width * n + 1)], bytearray(raw[y * (width * n + 1) + 1:(y + 1) * (width * n + 1)])
        for i in range(len(row)):
            a, b, c3 = row[i - n] if i >= n else 0, previous[i], previous[i - n] if i >= n else 0
            if kind == 4:
                p = a + b - c3
                pa, pb, pc = abs(p - a), abs(p - b), abs(p - c3)
                row[i] = (row[i] + (a if pa <= pb and pa <= pc else b if pb <= pc else c3)) & 255
            elif kind:
                row[i] = (row[i] + (a, b, (a + b) // 2)[kind - 1]) & 255
        for x in range(width):
            check("gvnccapture's pixel %d,%d" % (x, y), row[x * n] << 16 | row[x * n + 1] << 8 | row[x * n + 2] == pixel(x, y))
        previous = row
else:
    print("gvnccapture (package gvncviewer) is not there: only our own client looked")

c = Client(unix(), [0])
c.key(0xffc0, 1)  # F3 ends
check("the server's end", proc.wait(10) == 0)
check("the socket is gone", not os.path.exists(path))
shutil.rmtree(folder)
print("ok")
