#!/usr/bin/env python3
"""tests/block/test_nbd_client.py DOPPEL: disks of NBD servers: qemu-nbd's, nbdkit's, doppel's own. Needs qemu-utils (else exit status 77); without nbdkit its part is left out, and said."""
import os, random, shutil, signal, socket, subprocess, sys, tempfile, time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import certificates

DOPPEL = os.path.abspath(sys.argv[1])
passed = failed = 0


def check(good, what):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    if not good:
        print("FAIL: " + what)


def run(*argv):
    p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return p.returncode, p.stdout


def image(*argv):
    return run(DOPPEL, "image", *argv)


class Server:
    def __init__(self, sock, *argv):
        self.sock, self.uri = sock, "nbd+unix:///?socket=" + sock
        if os.path.exists(sock):
            os.unlink(sock)
        self.argv = argv
        self.start()

    def start(self):
        self.p = subprocess.Popen(self.argv, stdout=subprocess.DEVNULL)
        for _ in range(200):
            if os.path.exists(self.sock):
                return
            time.sleep(0.05)

    def end(self, how=signal.SIGTERM):
        self.p.send_signal(how)
        self.p.wait(30)
        if os.path.exists(self.sock):
            os.unlink(self.sock)


def to_and_from(d, server, what):
    """A copy to the server and back; qcow2 in it; what it says of its zeros."""
    source, back = d + "/source", d + "/back"
    rc, text = image("convert", "-n", "-f", "raw", "-O", "raw", source, server.uri)
    check(rc == 0, "%s: a copy to it: %s" % (what, text))
    rc, text = image("compare", "-f", "raw", "-F", "raw", source, server.uri)
    check(rc == 0, "%s: what it has: %s" % (what, text))
    rc, text = image("map", "--output=json", "-f", "raw", server.uri)
    check(rc == 0 and '"zero": true' in text.replace('":true', '": true'), "%s: no zeros in its map: %s" % (what, text[:300]))
    rc, text = image("convert", "-f", "raw", "-O", "raw", server.uri, back)
    check(rc == 0 and open(source, "rb").read() == open(back, "rb").read(), "%s: a copy from it: %s" % (what, text))
    rc, text = image("create", "-f", "qcow2", server.uri, "20M")
    check(rc == 0, "%s: qcow2 in it: %s" % (what, text))
    rc, text = image("convert", "-n", "-f", "raw", "-O", "qcow2", source, server.uri)
    check(rc == 0, "%s: a copy to qcow2 in it: %s" % (what, text))
    rc, text = image("compare", "-f", "raw", "-F", "qcow2", source, server.uri)
    check(rc == 0, "%s: qcow2 in it differs: %s" % (what, text))
    rc, text = image("check", "-f", "qcow2", server.uri)
    check(rc == 0, "%s: the check of qcow2 in it: %s" % (what, text))


def tls(d, disk):
    """nbds:// by doppel's server and by nbdkit: who believes whom."""
    if not shutil.which("openssl"):
        print("no openssl command: no nbds://")
        return
    for name, host in (("good", "localhost"), ("other", "localhost"), ("elsewhere", "elsewhere.test")):
        certificates.make(d + "/" + name, host)
    port = str(20000 + (os.getpid() + 7) % 20000)
    for what in ("doppel", "nbdkit"):
        if not shutil.which(what) and what != "doppel":
            continue
        for name in ("good", "elsewhere"):
            folder = d + "/" + name
            argv = ["nbdkit", "-f", "-i", "127.0.0.1", "-p", port, "--tls=require", "--tls-verify-peer", "--tls-certificates=" + folder, "file", disk]
            if what == "doppel":
                argv = [DOPPEL, "image", "serve", "-f", "raw", "-r", "--bind", "127.0.0.1", "--port", port, "--tls-creds", folder, disk]
            p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(200):
                with socket.socket() as s:
                    if s.connect_ex(("127.0.0.1", int(port))) == 0:
                        break
                time.sleep(0.05)
            for host, ours, words in (("localhost", "good", ""), ("127.0.0.1", "good", ""), ("localhost", "other", "ca-cert.pem"), ("localhost", "elsewhere", "ca-cert.pem"), ("localhost", None, "tls-certificates"),
                                      (None, None, "nbds")):
                uri = "nbds://%s:%s/%s" % (host, port, "?tls-certificates=%s/%s" % (d, ours) if ours else "") if host else "nbd://127.0.0.1:%s/" % port
                rc, text = image("compare", "-f", "raw", "-F", "raw", disk, uri)
                if name == "good" and ours == "good":
                    check(rc == 0, "%s, %s: %s" % (what, uri, text))
                else:
                    check(rc >= 2 and (words in text or name != "good") and text.count("\n") == 1, "%s with a certificate for %s, %s: %d %s" % (what, name, uri, rc, text))
            p.terminate()
            p.wait(30)


with tempfile.TemporaryDirectory(prefix="doppel-nbd-client-") as d:
    disk, sock = d + "/disk", d + "/sock"
    random.seed(2)
    with open(d + "/source", "wb") as f:
        for i in range(8):
            f.write(random.randbytes(1 << 20) + bytes(1 << 20))

    # the source is as long as the disk, so that copies compare
    with open(d + "/source", "ab") as f:
        f.truncate(20 << 20)

    rc, text = image("info", "-f", "raw", "nbd+unix:///?socket=" + d + "/none")
    if "built without" in text:
        print("nbd client: NOT RUN: " + text)
        sys.exit(77)
    check(rc and text.count("\n") == 1, "no server: " + text)
    servers = {"doppel": [DOPPEL, "image", "serve", "-f", "raw", "--socket", sock, disk]}
    if shutil.which("qemu-nbd"):
        servers["qemu-nbd"] = ["qemu-nbd", "-t", "-f", "raw", "-k", sock, disk]
    if shutil.which("nbdkit"):
        servers["nbdkit"] = ["nbdkit", "-f", "-U", sock, "file", disk]
        servers["nbdkit, blocks of 4096"] = ["nbdkit", "-f", "-U", sock, "--filter=blocksize-policy", "file", disk, "blocksize-minimum=4096", "blocksize-preferred=4096",
                                             "blocksize-maximum=1M", "blocksize-error-policy=error"]
        servers["nbdkit, no extents, no zero, no trim"] = ["nbdkit", "-f", "-U", sock, "--filter=nozero", "--filter=noextents", "file", disk]
    for what, argv in servers.items():
        with open(disk, "wb") as f:
            f.truncate(20 << 20)
        s = Server(sock, *argv)
        if "no extents" not in what:
            to_and_from(d, s, what)
        else:
            rc, text = image("convert", "-n", "-f", "raw", "-O", "raw", d + "/source", s.uri)
            check(rc == 0 and image("compare", "-f", "raw", "-F", "raw", d + "/source", s.uri)[0] == 0, what + ": " + text)
        s.end()
    # TCP, an export's name, one that only reads
    p = subprocess.Popen([DOPPEL, "image", "serve", "-f", "raw", "-r", "-x", "name", "--port", str(20000 + os.getpid() % 20000), disk], stdout=subprocess.PIPE, text=True)
    uri = p.stdout.readline().strip()
    rc, text = image("compare", "-f", "raw", "-F", "raw", disk, uri)
    check(rc == 0, "by TCP: " + text)
    rc, text = image("convert", "-n", "-f", "raw", "-O", "raw", d + "/source", uri)
    check(rc and "ro" in text, "a server that only reads is written: " + text)
    rc, text = image("info", "-f", "raw", uri.replace("/name", "/other"))
    check(rc and text.count("\n") == 1, "another export: " + text)
    p.terminate()
    p.wait(30)
    tls(d, disk)
    # a server that goes away and comes back: reads go on
    if "nbdkit" in servers:
        s = Server(sock, "nbdkit", "-f", "-U", sock, "--filter=delay", "file", disk, "rdelay=100ms")
        copy = subprocess.Popen([DOPPEL, "image", "convert", "-f", "raw", "-O", "raw", s.uri, d + "/back"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(0.4)
        s.end(signal.SIGKILL)
        s.start()
        text = copy.communicate(timeout=60)[0]
        # between the kill and the new server a connection is refused: then the copy ends with an error, never with other bytes
        check(copy.returncode == 125 or open(d + "/back", "rb").read() == open(disk, "rb").read(), "a server that comes back: %d %s" % (copy.returncode, text))
        s.end()
    else:
        print("nbdkit is not there (package nbdkit): its cases were left out")
print("%d passed, %d failed" % (passed, failed))
sys.exit(1 if failed else 0)
