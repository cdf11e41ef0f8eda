#!/usr/bin/env python3
"""tests/block/test_nbd.py DOPPEL: `doppel image serve` as qemu's and libnbd's clients see it, several clients, and clients that misbehave. Needs qemu-utils (else exit status 77)."""
import os, shutil, signal, socket, struct, subprocess, sys, tempfile, time

DOPPEL = os.path.abspath(sys.argv[1])
passed = failed = 0


def check(good, what):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print("FAIL: " + what)


def run(*argv):
    p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return p.returncode, p.stdout


class Server:
    def __init__(self, d, image, *args):
        self.sock = d + "/nbd.sock"
        self.p = subprocess.Popen([DOPPEL, "image", "serve", "--socket", self.sock, *args, image], stdout=subprocess.PIPE, text=True)
        self.uri = self.p.stdout.readline().strip()

    def end(self):
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGTERM)
        return self.p.wait(30)

    def connect(self):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        s.connect(self.sock)
        return s


def read(s, n):
    data = b""
    while len(data) < n:
        got = s.recv(n - len(data))
        if not got:
            raise OSError("closed")
        data += got
    return data


def go(server, name=b""):
    """A connection that is past negotiation (simple replies)."""
    s = server.connect()
    read(s, 18)
    s.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, 6 + len(name)) + struct.pack(">I", len(name)) + name + struct.pack(">H", 0))
    while True:
        _, _, kind, size = struct.unpack(">QIII", read(s, 20))
        read(s, size)
        if kind == 1:
            return s
        if kind >> 31:
            raise OSError("refused")


def request(kind, offset, length, flags=0, cookie=1):
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset, length)


def closed(s):
    try:
        while s.recv(65536):
            pass
        return True
    except socket.timeout:
        return False
    except OSError:
        return True


def clients(d, fmt):
    image, other = "%s/disk.%s" % (d, fmt), d + "/raw"
    with open(other, "wb") as f:
        for i in range(48):
            f.write(os.urandom(1 << 20) if i % 3 else bytes(1 << 20))
    run("qemu-img", "create", "-f", fmt, image, "48M")
    s = Server(d, image, "-f", fmt, "-x", "disk")
    check(s.uri == "nbd+unix:///disk?socket=" + s.sock, "the address: " + s.uri)
    check(run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", other, s.uri)[0] == 0, "qemu-img cannot write to us")
    rc, out = run("qemu-img", "compare", "-f", "raw", "-F", "raw", other, s.uri)
    check(rc == 0, "what qemu-img reads: " + out)
    rc, out = run("qemu-io", "-f", "raw", "-c", "write -P 17 1000 70001", "-c", "read -P 17 1000 70001", "-c", "write -z 2M 1M", "-c", "read -P 0 2M 1M", "-c", "discard 4M 1M", "-c",
                  "flush", "-c", "write -f -P 3 47M 1M", "-c", "aio_write -P 9 8M 64k", "-c", "aio_read -P 3 47M 1M", "-c", "aio_flush", s.uri)
    check(rc == 0 and "failed" not in out, "qemu-io: " + out)
    rc, out = run("qemu-img", "map", "--output=json", s.uri)
    check(rc == 0 and '"zero": true' in out and '"data": true' in out, "extents: " + out)
    if shutil.which("nbdinfo"):
        rc, out = run("nbdinfo", "--list", "--json", "nbd+unix:///?socket=" + s.sock)
        check(rc == 0 and '"export-name": "disk"' in out and "base:allocation" in out, "nbdinfo: " + out)
    rc, _ = run("qemu-img", "info", "nbd+unix:///nothing?socket=" + s.sock)
    check(rc != 0, "an export that is not there is served")
    check(run("qemu-io", "-f", fmt, "-c", "write 0 512", image)[0] != 0, "the image is not locked")
    check(s.end() == 0, "the server's status")
    check(not os.path.exists(s.sock), "the socket stays")
    rc, out = run("qemu-img", "check", "-f", fmt, image) if fmt == "qcow2" else (0, "")
    check(rc == 0, "the image afterwards: " + out)
    rc, _ = run("qemu-io", "-f", fmt, "-c", "read -P 17 1000 70001", "-c", "read -P 3 47M 1M", image)
    check(rc == 0, "what was written is not there")


def readonly(d):
    image = d + "/disk.raw"
    s = Server(d, image, "-f", "raw", "-r")
    c = go(s)
    c.sendall(request(1, 0, 4) + b"abcd" + request(6, 0, 512) + request(0, 0, 16))
    for want in (1, 1, 0):
        check(struct.unpack(">II", read(c, 16)[:8])[1] == want, "an error code of a read-only export")
    read(c, 16)
    c.close()
    check(s.end() == 0, "the server's status")


def moved(d):
    """A large read that is not taken yet, while its place is given up and used again: what comes is what was there, or the zeros of afterwards, never another place's."""
    image = d + "/moved.qcow2"
    for change in (4, 6):  # trim, write zeroes
        run("qemu-img", "create", "-f", "qcow2", image, "128M")
        run("qemu-io", "-f", "qcow2", "-c", "write -P 65 0 16M", image)
        s = Server(d, image, "-f", "qcow2")
        a, b = go(s), go(s)
        a.sendall(request(0, 0, 16 << 20))
        time.sleep(0.5)
        b.sendall(request(change, 0, 16 << 20) + request(3, 0, 0))
        read(b, 32)
        for i in range(128):
            b.sendall(request(1, (64 << 20) + i * (128 << 10), 128 << 10) + b"Z" * (128 << 10))
            read(b, 16)
        read(a, 16)
        data = read(a, 16 << 20)
        check(data.count(b"A") + data.count(b"\0") == len(data), "a read got %d bytes of another place (request %d)" % (data.count(b"Z"), change))
        check(s.end() == 0, "the server's status")


def silence(d):
    """Clients that say nothing do not keep others out for ever."""
    s = Server(d, d + "/disk.raw", "-f", "raw", "-e", "3")
    silent = [s.connect() for _ in range(3)]
    end = time.monotonic() + 40
    while True:
        try:
            go(s).close()
            check(True, "")
            break
        except OSError:
            if time.monotonic() > end:
                check(False, "three silent clients keep everybody out")
                break
            time.sleep(0.5)
    for c in silent:
        c.close()
    check(s.end() == 0, "the server's status")


def misbehaviour(d):
    image = d + "/disk.raw"
    s = Server(d, image, "-f", "raw", "-e", "4")
    good = go(s)
    for what in (b"", b"GET / HTTP/1.0\r\n\r\n", struct.pack(">I", 0xffffffff), struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, 0x7fffffff), struct.pack(">I", 3) + b"WHATOPTS" + bytes(8),
                 struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, 2) + b"ab"):
        c = s.connect()
        c.sendall(what)
        c.shutdown(socket.SHUT_WR)
        check(closed(c), "who says nonsense stays: %r" % what)
        c.close()
    for what in (b"\0" * 28, request(1, 0, 0xffffffff), request(1, 0, 100) + b"short"):
        c = go(s)
        c.sendall(what)
        c.shutdown(socket.SHUT_WR)
        check(closed(c), "who asks for nonsense stays")
        c.close()
    c = go(s)
    wrong = [(0, 1 << 40, 512, 22), (0, 0, 33 << 20, 75), (1, (48 << 20) - 2, 4, 28), (3, 5, 0, 22), (7, 0, 512, 22), (99, 0, 0, 22), (4, 1 << 63, 4, 28)]
    for kind, offset, length, code in wrong:
        c.sendall(request(kind, offset, length) + (b"data" if kind == 1 else b""))
        check(struct.unpack(">II", read(c, 16)[:8])[1] == code, "the error of request %d" % kind)
    for kind, flags in ((0, 0x8000), (6, 16), (1, 2), (4, 8)):
        c.sendall(request(kind, 0, 4, flags) + (b"data" if kind == 1 else b""))
        check(struct.unpack(">II", read(c, 16)[:8])[1] == 22, "request %d with flags %d is taken" % (kind, flags))
    c.sendall(request(0, 0, 0))
    check(struct.unpack(">II", read(c, 16)[:8])[1] == 0, "a read of nothing")
    lazy = go(s)  # asks for a lot and reads nothing: nobody else waits for it
    lazy.sendall(request(0, 0, 32 << 20) * 20)
    for i in range(50):
        good.sendall(request(0, i * 4096, 4096, cookie=i))
        h = read(good, 16 + 4096)
        check(struct.unpack(">IIQ", h[:16]) == (0x67446698, 0, i), "an answer to another request")
    many = [s.connect() for _ in range(8)]
    time.sleep(0.2)
    check(sum(1 for m in many if closed_now(m)) >= 4, "more clients than allowed are served")
    status = s.end()
    check(status == 0, "the server ends with status %s while clients hang" % status)


def closed_now(s):
    s.settimeout(1)
    try:
        return s.recv(1) == b""
    except OSError:
        return False


def once(d):
    s = Server(d, d + "/disk.raw", "-f", "raw", "--once")
    run("qemu-img", "info", s.uri)
    try:
        check(s.p.wait(20) == 0, "--once: status")
    except subprocess.TimeoutExpired:
        check(False, "--once does not end")
        s.end()


if run("sh", "-c", "command -v qemu-io")[0]:
    print("nbd: NOT RUN: qemu-io is not there (package qemu-utils)")
    sys.exit(77)
def tls(d):
    """nbds: certificates and keys; who has none, or others, learns nothing."""
    if not shutil.which("openssl"):
        print("no openssl command: no TLS")
        return
    subprocess.run([os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "net", "certs"), d, "good", "other"], check=True)
    image, copy = d + "/tls.raw", d + "/tls.copy"
    with open(image, "wb") as f:
        f.write(os.urandom(20 << 20) + bytes(4 << 20))
    with open(d + "/keys", "w") as f:
        f.write("alice:" + "5a" * 32 + "\n")
    with open(d + "/wrong", "w") as f:
        f.write("alice:" + "5b" * 32 + "\n")
    s = Server(d, image, "-f", "raw", "-x", "disk", "--tls-creds", d + "/good")
    check(s.uri == "nbds+unix:///disk?socket=" + s.sock, "the address: " + s.uri)
    qemu = lambda creds, what="endpoint=client,verify-peer=on": ("--object", "tls-creds-x509,id=t,dir=%s/%s,%s" % (d, creds, what))
    where = "driver=nbd,server.type=unix,server.path=%s,export=disk,tls-creds=t,tls-hostname=localhost" % s.sock
    rc, out = run("qemu-img", "compare", *qemu("good"), "--image-opts", "driver=raw,file.driver=file,file.filename=" + image, "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=%s,"
                  "file.export=disk,file.tls-creds=t,file.tls-hostname=localhost" % s.sock)
    check(rc == 0, "qemu-img compare by TLS: " + out)
    rc, out = run("qemu-io", *qemu("good"), "--image-opts", "-c", "write -P 7 1M 3M", "-c", "read -P 7 1M 3M", "-c", "write -P 8 100 5000", "-c", "flush", where)
    check(rc == 0 and "failed" not in out, "qemu-io by TLS: " + out)
    rc, out = run("qemu-io", *qemu("other"), "--image-opts", "-c", "read 0 512", where)
    check(rc != 0, "a client of another CA is served: " + out)
    rc, out = run("qemu-img", "info", s.uri.replace("nbds", "nbd"))
    check(rc != 0, "a client without TLS is served: " + out)
    if shutil.which("nbdcopy"):
        rc, out = run("nbdcopy", s.uri + "&tls-certificates=%s/good&tls-hostname=localhost" % d, copy)
        if "tls-hostname" in out:
            rc, out = run("nbdcopy", s.uri + "&tls-certificates=%s/good" % d, copy)
        check(rc == 0, "nbdcopy: " + out)
        if rc == 0:
            check(open(image, "rb").read() == open(copy, "rb").read(), "what nbdcopy got is something else")
        check(run("nbdcopy", "--", s.uri + "&tls-certificates=%s/other" % d, "null:")[0] != 0, "nbdcopy of another CA is served")
    # What is said before TLS: nothing is told, and nothing said then counts as said with it.
    c = s.connect()
    read(c, 18)
    opt = lambda n, data=b"": b"IHAVEOPT" + struct.pack(">II", n, len(data)) + data
    c.sendall(struct.pack(">I", 3) + opt(3) + opt(7, bytes(6)) + opt(8) + opt(10, bytes(8)))
    for n in (3, 7, 8, 10):
        _, option, kind, size = struct.unpack(">QIII", read(c, 20))
        text = read(c, size)
        check(option == n and kind == 0x80000005 and b"disk" not in text, "option %d without TLS: %#x %r" % (n, kind, text))
    c.sendall(opt(5) + opt(3))
    check(closed(c), "words behind STARTTLS are taken")
    c = s.connect()
    read(c, 18)
    c.sendall(struct.pack(">I", 3) + opt(1, b"disk"))
    check(closed(c), "an export without TLS")
    c = s.connect()
    read(c, 18)
    c.sendall(struct.pack(">I", 3) + opt(5))
    check(struct.unpack(">QIII", read(c, 20))[2] == 1, "STARTTLS")
    c.sendall(os.urandom(2000))
    check(closed(c), "noise for a handshake")
    silent = s.connect()
    read(silent, 18)
    silent.sendall(struct.pack(">I", 3) + opt(5))
    silent.settimeout(20)
    check(closed(silent), "who says nothing within a handshake stays")
    check(s.end() == 0, "the server's status")
    s = Server(d, image, "-f", "raw", "--tls-psk", d + "/keys")
    if shutil.which("nbdcopy"):
        for keys, good in (("keys", True), ("wrong", False)):
            rc, out = run("nbdcopy", "--", s.uri.replace("///", "//alice@/") + "&tls-psk-file=%s/%s" % (d, keys), "null:")
            check((rc == 0) == good, "nbdcopy with %s: %s" % (keys, out))
    check(s.end() == 0, "the server's status")
    s = Server(d, image, "-f", "raw", "-r")
    c = s.connect()
    read(c, 18)
    c.sendall(struct.pack(">I", 3) + opt(5))
    check(struct.unpack(">QIII", read(c, 20))[2] == 0x80000001, "STARTTLS without TLS")
    c.close()
    check(s.end() == 0, "the server's status")
    check(run(DOPPEL, "image", "serve", "-f", "raw", "--tls-creds", d + "/nowhere", image)[0] == 125, "credentials that are not there")


with tempfile.TemporaryDirectory(prefix="doppel-nbd-") as d:
    clients(d, "raw")
    clients(d, "qcow2")
    readonly(d)
    moved(d)
    silence(d)
    misbehaviour(d)
    once(d)
    tls(d)
print("%d passed, %d failed" % (passed, failed))
sys.exit(1 if failed else 0)
