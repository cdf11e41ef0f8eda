#!/usr/bin/env python3
"""tests/block/test_kill.py DOPPEL [ROUNDS]: kill -9 of doppel at random moments: `image serve` while two clients write and flush, and verbs that change an image (snapshot, resize, commit, compact,
check -r). The image must open, be without corruptions, be mended of its leaks, and hold what was flushed. ROUNDS (12) of each. Needs qemu-utils (else exit status 77)."""
import os, random, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time

DOPPEL = os.path.abspath(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 12
SIZE, PIECE = 16 << 20, 4096
LAYOUTS = ["cluster_size=64k", "cluster_size=4k", "cluster_size=512,refcount_bits=64", "compat=0.10", "extended_l2=on", "preallocation=metadata,cluster_size=8k",
           "compression_type=zstd,lazy_refcounts=on"]
chance = random.Random(int(os.environ.get("SEED", "1")))
failed = kills = leaks = 0


def fail(what):
    global failed
    failed += 1
    print("FAIL: " + what, flush=True)


def run(*argv):
    p = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return p.returncode, p.stdout


def must(*argv):
    rc, out = run(*argv)
    if rc:
        fail("%s: %d %s" % (" ".join(map(str, argv)), rc, out))
    return out


def sound(image, what):
    """Opens, at worst leaks, which go away."""
    global leaks
    rc, out = run("qemu-img", "check", "-f", "qcow2", image)
    errors = [l for l in out.splitlines() if l.startswith("ERROR") and "OFLAG_COPIED" not in l]
    if rc not in (0, 3) and (rc != 2 or errors):
        fail("%s: qemu-img check says %d %s" % (what, rc, out[-2000:]))
    rc, out = run(DOPPEL, "image", "check", "-f", "qcow2", image)
    if rc not in (0, 3):
        fail("%s: our check says %d %s" % (what, rc, out[-2000:]))
    if rc == 3:
        leaks += 1
        must(DOPPEL, "image", "check", "-q", "-f", "qcow2", "-r", "leaks", image)
        must("qemu-img", "check", "-f", "qcow2", image)


class Client(threading.Thread):
    """Writes into its half of the disk; knows which values each piece may have."""

    def __init__(self, sock, first, pieces, values, seed):
        super().__init__()
        self.sock, self.first, self.pieces, self.values, self.chance = sock, first, pieces, values, random.Random(seed)

    def ask(self, s, kind, offset=0, length=0, data=b"", flags=0):
        s.sendall(struct.pack(">IHHQQI", 0x25609513, flags, kind, 1, offset, length) + data)
        reply = b""
        while len(reply) < 16:
            got = s.recv(16 - len(reply))
            if not got:
                raise OSError("closed")
            reply += got
        if struct.unpack(">II", reply[:8])[1]:
            fail("an error from the server")

    def run(self):
        try:
            s = socket.socket(socket.AF_UNIX)
            s.connect(self.sock)
            s.recv(18, socket.MSG_WAITALL)
            s.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">III", 7, 6, 0) + struct.pack(">H", 0))
            while True:
                _, _, kind, size = struct.unpack(">QIII", s.recv(20, socket.MSG_WAITALL))
                s.recv(size, socket.MSG_WAITALL)
                if kind == 1:
                    break
            n = 0
            while True:
                n += 1
                at, count = self.chance.randrange(self.pieces), self.chance.choice((1, 1, 2, 7, 32))
                at, count = self.first + at, min(count, self.pieces - at)
                zero = self.chance.randrange(6) == 0
                value = 0 if zero else self.chance.randrange(1, 256)
                for i in range(at, at + count):
                    self.values[i].add(value)
                if zero:
                    self.ask(s, 6, at * PIECE, count * PIECE, flags=self.chance.choice((0, 2)))
                else:
                    self.ask(s, 1, at * PIECE, count * PIECE, bytes([value]) * (count * PIECE))
                for i in range(at, at + count):
                    self.last[i] = value
                if n % 16 == 0:
                    self.ask(s, 3)
                    for i in range(self.first, self.first + self.pieces):
                        self.values[i] = {self.last[i]}
        except (OSError, struct.error):
            return  # it was killed


def serve(d, layout):
    global kills
    image, sock = d + "/image.qcow2", d + "/s"
    for f in (image, sock, d + "/raw"):
        if os.path.exists(f):
            os.unlink(f)
    must(DOPPEL, "image", "create", "-q", "-f", "qcow2", "-o", layout, image, SIZE)
    pieces = SIZE // PIECE
    values, last = [{0} for _ in range(pieces)], [0] * pieces
    for session in range(3):  # the image lives on
        p = subprocess.Popen([DOPPEL, "image", "serve", "-q", "-f", "qcow2", "-e", "4", "--socket", sock, image])
        while not os.path.exists(sock) and p.poll() is None:
            time.sleep(0.01)
        time.sleep(0.05)
        clients = [Client(sock, i * pieces // 2, pieces // 2, values, chance.random()) for i in range(2)]
        for c in clients:
            c.last = last
            c.start()
        time.sleep(chance.uniform(0.01, 0.6))
        p.kill()
        p.wait()
        for c in clients:
            c.join()
        kills += 1
        if os.path.exists(sock):
            os.unlink(sock)
        sound(image, "serve " + layout)
        must(DOPPEL, "image", "convert", "-q", "-f", "qcow2", image, d + "/raw")
        with open(d + "/raw", "rb") as f:
            for i in range(pieces):
                data = f.read(PIECE)
                v = data[0]
                if data.count(v) != PIECE and all(b in values[i] for b in data):
                    v = -1  # within a piece of which a write was under way
                if v >= 0 and (v not in values[i] or data.count(v) != PIECE):
                    fail("serve %s: piece %d is %d, not one of %s" % (layout, i, v, values[i]))
                    return
                if v >= 0:
                    values[i], last[i] = {v}, v
                else:
                    values[i] = set(data)


def verbs(d, layout):
    """Verbs in a row, each killed at some time; the disk never changes."""
    global kills
    base, image, model = d + "/base.qcow2", d + "/top.qcow2", d + "/model"
    for f in (base, image, model):
        if os.path.exists(f):
            os.unlink(f)
    below = chance.randrange(2) and "prealloc" not in layout
    make = [DOPPEL, "image", "create", "-q", "-f", "qcow2", "-o", layout]
    if below:
        must(*make, base, SIZE)
        must("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 1M 9M", base)
        must(*make, "-b", "base.qcow2", "-F", "qcow2", image, SIZE)
    else:
        must(*make, image, SIZE)
    must("qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 4M", "-c", "write -q -P 2 8M 2M", "-c", "write -q -P 0 6M 1M", "-c", "write -z -q 9M 512k", image)
    must("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, model)
    for step in range(6):
        what = chance.choice(["create", "apply", "delete", "compact", "check", "resize"] + (["commit"] if below else []))
        # a snapshot of the same contents: applying it changes nothing
        argv = {"create": ["snapshot", "-q", "-f", "qcow2", "-c", "s%d" % step], "apply": ["snapshot", "-q", "-f", "qcow2", "-a", "kept"], "delete": ["snapshot", "-q", "-f", "qcow2", "-d", "kept"],
                "compact": ["compact", "-q", "-f", "qcow2"], "check": ["check", "-q", "-f", "qcow2", "-r", "all"], "resize": ["resize", "-q", "-f", "qcow2"],
                "commit": ["commit", "-q", "-f", "qcow2"]}[what]
        if what in ("apply", "delete") and "kept" not in run("qemu-img", "snapshot", "-l", image)[1]:
            must(DOPPEL, "image", "snapshot", "-q", "-f", "qcow2", "-c", "kept", image)
        if what == "commit" and run("qemu-img", "snapshot", "-l", image)[1].strip():
            continue
        if what == "check":  # something to do: a leak and a refcount that is too low
            with open(image, "r+b") as f:
                f.seek(48)
                table = struct.unpack(">Q", f.read(8))[0]
                f.seek(table)
                block = struct.unpack(">Q", f.read(8))[0]
                f.seek(block)
                f.write(bytes(8))
            run(DOPPEL, "image", "check", "-q", "-f", "qcow2", "-r", "leaks", image)
        p = subprocess.Popen([DOPPEL, "image", *argv, image] + (["%d" % (SIZE + (step + 1) * (1 << 20))] if what == "resize" else []), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.0, 0.04))
        p.kill()
        p.wait()
        kills += 1
        if what == "check":
            must(DOPPEL, "image", "check", "-q", "-f", "qcow2", "-r", "all", image)
        sound(image, "%s %s" % (what, layout))
        rc, out = run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, model)
        if rc:
            fail("%s %s: %s" % (what, layout, out))
            return


def main():
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("needs qemu-img and qemu-io (package qemu-utils)")
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="doppel-kill-") as d:
        for n in range(ROUNDS):
            serve(d, LAYOUTS[n % len(LAYOUTS)])
            verbs(d, LAYOUTS[(n * 3) % len(LAYOUTS)])
    print("%d processes killed, %d times something leaked, %d failed" % (kills, leaks, failed))
    sys.exit(failed != 0)


main()
