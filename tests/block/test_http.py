#!/usr/bin/env python3
"""tests/block/test_http.py DOPPEL PROGRAM: disks by HTTP: what is read, servers that misbehave, files that change, local copies (PROGRAM, http_tool.c, is a disk's user
that can be killed). A doppel without libcurl must say so; then the rest is not run (status 77)."""
import os, random, shutil, signal, subprocess, sys, tempfile, time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import certificates
from range_server import Server

DOPPEL, TOOL = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
os.environ["no_proxy"] = "127.0.0.1"
passed = failed = 0
SIZE = (5 << 20) + 777


def check(good, what):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    if not good:
        print("FAIL: " + what)


def run(*argv):
    p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return p.returncode, p.stdout


def tool(url, *args):
    return run(TOOL, url, *[str(a) for a in args])


def data(path):
    with open(path, "rb") as f:
        return f.read()


def reading(d, s):
    out = d + "/out"
    for url in (s.url + "disk", s.url + "moved"):
        rc, text = run(DOPPEL, "image", "convert", "-f", "raw", "-O", "raw", url, out)
        check(rc == 0 and data(out) == data(s.path), "the copy of %s: %s" % (url, text))
    s.sent = s.requests = 0
    rc, text = tool(s.url, "-", "read", 100, 5000, "read", 64 << 10, 4096, "read", 100, 5000)
    check(rc == 0 and s.sent <= (192 << 10) + 1, "a few blocks take %d bytes: %s" % (s.sent, text))
    s.mode, s.requests = "cut", 0
    rc, text = run(DOPPEL, "image", "convert", "-f", "raw", "-O", "raw", s.url, out)
    check(rc == 0 and data(out) == data(s.path) and s.requests > 20, "connections that break off: " + text)
    for mode, words in (("whole", "ranges"), ("other", "another part"), ("gzip", "compresses"), ("busy", "503")):
        s.mode = mode
        rc, text = run(DOPPEL, "image", "info", "-f", "raw", s.url)
        check(rc and words in text and text.count("\n") == 1, "a server that is %s: %d %s" % (mode, rc, text))
    s.mode = "good"
    for url, words in ((s.url + "nothing", "no such file"), ("http://127.0.0.1:1/x", "onnect"), ("http://a:b@127.0.0.1/x", ".netrc"), ("ftp://127.0.0.1/x", "no disk")):
        rc, text = run(DOPPEL, "image", "info", "-f", "raw", url)
        check(rc and words in text and "a:b" not in text, "%s: %s" % (url, text))
    rc, text = run(DOPPEL, "run", "--timeout", "1", "--disk", s.url, "-k", "/dev/null")
    check(rc == 125 and "add ,ro" in text or "kernel" in text, "writing: " + text)


def over(d, s):
    """qcow2 by HTTP, and an image here over one there."""
    q, top = d + "/q.qcow2", d + "/top.qcow2"
    run(DOPPEL, "image", "convert", "-f", "raw", "-O", "qcow2", "-c", s.path, q)
    other = Server(q)
    rc, text = run(DOPPEL, "image", "compare", "-f", "raw", "-F", "qcow2", s.path, other.url)
    check(rc == 0, "qcow2 by HTTP: " + text)
    rc, text = run(DOPPEL, "image", "create", "-f", "qcow2", "-b", s.url, "-F", "raw", top)
    check(rc == 0, "an image over an address: " + text)
    rc, text = run(DOPPEL, "image", "compare", "-f", "raw", "-F", "qcow2", s.path, top)
    check(rc and "backing=any" in text, "an address below is read without leave: " + text)
    rc, text = run(DOPPEL, "image", "compare", "--backing-any", "-f", "raw", "-F", "qcow2", s.path, top)
    check(rc == 0, "an image over an address differs: " + text)
    other.end()


def changes(d, s):
    p = subprocess.Popen([TOOL, s.url, "-", "read", "0", "512", "wait", "read", "0", "512", "read", str(4 << 20), "512"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    p.stdout.readline()
    s.etag = '"two"'
    text, _ = p.communicate("\n", timeout=60)
    check(p.returncode == 1 and "changed" in text, "a file that changes meanwhile: " + text)
    s.etag = '"one"'


def copies(d, s):
    copy, want = d + "/copy", data(s.path)
    rc, text = tool(s.url, copy, "read", 100, 5000, "read", 3 << 20, 100000)
    check(rc == 0, "with a copy: " + text)
    s.sent = 0
    rc, text = tool(s.url, copy, "read", 100, 5000, "read", 3 << 20, 100000)
    check(rc == 0 and s.sent == 1, "what the copy has is fetched again (%d bytes): %s" % (s.sent, text))
    s.etag = '"two"'
    rc, text = tool(s.url, copy, "read", 100, 5000)
    check(rc == 1 and "another file" in text, "the copy of another file: " + text)
    s.etag = '"one"'
    open(d + "/mine", "wb").write(b"mine" * 5000)
    rc, text = tool(s.url, d + "/mine", "read", 100, 5000)
    check(rc == 1 and data(d + "/mine") == b"mine" * 5000, "a file that is no copy: " + text)
    # Killed at any moment: what the map says is there.
    for i in range(12):
        p = subprocess.Popen([TOOL, s.url, copy] + [w for n in range(0, SIZE - 70000, 70000) for w in ("read", str(n), "70000")], stdout=subprocess.DEVNULL)
        time.sleep(random.random() * 0.3)
        p.kill()
        p.wait()
        if i % 3 == 0:
            os.unlink(copy)
    rc, text = tool(s.url, copy, "wait-nothing", "all")
    check(rc == 0 and data(copy)[:SIZE] == want, "after kills: " + text)
    s.mode, s.sent = "busy", 0
    s.mode = "good"
    rc, text = tool("http://127.0.0.1:1/", copy, "all")
    check(rc == 0 and "is whole" in text, "a whole copy without the server: " + text)
    os.unlink(copy)
    rc, text = tool(s.url, copy, "fill", "read", 0, 512, "whole")
    check(rc == 0 and data(copy)[:SIZE] == want, "filled meanwhile: " + text)
    with open(copy, "r+b") as f:
        f.seek(-100, 2)
        f.write(b"x")
    rc, text = tool(s.url, copy, "read", 0, 512)
    check(rc == 1 and "damaged" in text, "a damaged copy: " + text)
    p = subprocess.Popen([TOOL, s.url, d + "/copy2", "read", "0", "512", "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    p.stdout.readline()
    rc, text = tool(s.url, d + "/copy2", "read", 0, 512)
    check(rc == 1 and "in use" in text, "a copy that is in use: " + text)
    p.communicate("\n")
    rc, text = run(TOOL, s.path, d + "/copy3", "read", "0", "512")
    check(rc == 1 and "copy=" in text, "copy= of a file: " + text)


def secure(d, s):
    if not shutil.which("openssl"):
        print("no openssl command: no https://")
        return
    for name, host in (("good", "localhost"), ("other", "localhost"), ("elsewhere", "elsewhere.test")):
        certificates.make(d + "/" + name, host)
    out = d + "/out"
    for name in ("good", "elsewhere"):
        web = Server(s.path, tls=d + "/" + name)
        for believes in ("good", "other", "elsewhere", None):
            os.environ.pop("SSL_CERT_FILE", None)
            if believes:
                os.environ["SSL_CERT_FILE"] = "%s/%s/ca-cert.pem" % (d, believes)
            rc, text = run(DOPPEL, "image", "convert", "-f", "raw", "-O", "raw", web.url + "disk", out)
            if name == believes == "good":
                check(rc == 0 and data(out) == data(s.path), "https: " + text)
                rc, text = run(DOPPEL, "image", "info", "-f", "raw", web.url.replace("127.0.0.1", "localhost") + "disk")
                check(rc == 0, "https by name: " + text)
                # What https leads to is not believed to be that, if it is http
                web.plain = s.url
                rc, text = run(DOPPEL, "image", "info", "-f", "raw", web.url + "plain")
                check(rc and text.count("\n") == 1, "https that leads to http: " + text)
            else:
                check(rc == 125 and "SSL_CERT_FILE" in text and text.count("\n") == 1, "a certificate for %s, %s is believed: %d %s" % (name, believes, rc, text))
        web.end()
    os.environ.pop("SSL_CERT_FILE", None)


rc, text = run(DOPPEL, "image", "info", "-f", "raw", "http://127.0.0.1:1/")
if "built without" in text:
    print("http: NOT RUN: " + text)
    sys.exit(77)
with tempfile.TemporaryDirectory(prefix="doppel-http-") as folder:
    disk = folder + "/disk.raw"
    random.seed(1)
    with open(disk, "wb") as f:
        for i in range(5):
            f.write(random.randbytes(700 << 10) + bytes(324 << 10))
        f.write(random.randbytes(777))
    server = Server(disk)
    for case in (reading, over, changes, copies, secure):
        case(folder, server)
    server.end()
print("%d passed, %d failed" % (passed, failed))
sys.exit(1 if failed else 0)
