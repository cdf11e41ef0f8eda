#!/usr/bin/env python3
"""tests/block/test_rbd.py DOPPEL: disks of Ceph: a cluster of one monitor and one OSD in memory, processes in a private folder: images copied, compared, in other formats, snapshots, two
writers, a guest, a cluster that stands still. Exit status 77: no Ceph here (packages ceph-mon, ceph-osd, ceph-common), or doppel was built without librbd."""
import glob, hashlib, os, random, re, shutil, signal, socket, subprocess, sys, tempfile, time, uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
from guestlib import SERVE, Shell, Tests

DOPPEL = os.path.abspath(sys.argv[1])
CONF = """[global]
fsid = %(fsid)s
mon host = [v2:127.0.0.1:%(port)d/0]
mon initial members = a
ms bind msgr1 = false
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
run dir = %(d)s
admin socket =
log file = %(d)s/$name.log
mon data = %(d)s/mon
osd data = %(d)s/osd
osd objectstore = memstore
memstore device bytes = 536870912
osd class dir = %(classes)s
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon data avail crit = 1
mon data avail warn = 2
"""


def run(*argv, limit=120):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit)
    return p.returncode, p.stdout


def image(*argv):
    return run(DOPPEL, "image", *argv)


class Ceph:
    def __init__(self, d):
        self.d, self.conf, self.daemons, fsid = d, d + "/ceph.conf", [], str(uuid.uuid4())
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        classes = os.path.dirname(glob.glob("/usr/lib/*/rados-classes/libcls_rbd.so")[0])
        os.mkdir(d + "/mon")
        os.mkdir(d + "/osd")
        with open(self.conf, "w") as f:
            f.write(CONF % {"fsid": fsid, "port": port, "d": d, "classes": classes})
        self.must("monmaptool", "--create", "--fsid", fsid, "--addv", "a", "[v2:127.0.0.1:%d/0]" % port, d + "/monmap")
        self.must("ceph-mon", "-c", self.conf, "-i", "a", "--mkfs", "--monmap", d + "/monmap")
        self.begin("ceph-mon", "-c", self.conf, "-i", "a", "-f")
        osd = str(uuid.uuid4())
        self.must("ceph", "-c", self.conf, "osd", "new", osd)
        self.must("ceph-osd", "-c", self.conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
        self.begin("ceph-osd", "-c", self.conf, "-i", "0", "-f")
        self.must("ceph", "-c", self.conf, "osd", "pool", "create", "p", "8")
        self.must("ceph", "-c", self.conf, "osd", "pool", "set", "p", "size", "1", "--yes-i-really-mean-it")
        self.must("rbd", "-c", self.conf, "pool", "init", "p")

    def must(self, *argv):
        rc, text = run(*argv)
        if rc:
            raise OSError("%s: %s" % (" ".join(argv), text))

    def begin(self, *argv):
        with open(self.d + "/" + argv[0] + ".out", "w") as out:
            self.daemons.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out))

    def rbd(self, *argv):
        return run("rbd", "-c", self.conf, *argv)

    def uri(self, name):
        return "rbd://p/" + name + ":conf=" + self.conf

    def end(self):
        for p in self.daemons:
            p.kill()
            p.wait()


def images(t, d, c):
    source, disk, new, q = d + "/source", c.uri("disk"), c.uri("new"), c.uri("q")
    t.check(c.rbd("create", "p/disk", "--size", "16M")[0] == 0, "rbd create")
    rc, text = image("convert", "-n", "-f", "raw", "-O", "raw", source, disk)
    t.check(rc == 0, "a copy to it: " + text)
    rc, text = image("compare", "-f", "raw", "-F", "raw", source, disk)
    t.check(rc == 0, "what it has: " + text)
    rc, text = image("map", "--output=json", "-f", "raw", disk)
    t.check(rc == 0 and re.search(r'"zero": ?true', text) and re.search(r'"data": ?true', text), "its map: " + text)
    rc, text = c.rbd("export", "p/disk", d + "/exported")
    t.check(rc == 0 and open(source, "rb").read() == open(d + "/exported", "rb").read(), "what rbd says it has: " + text)
    rc, text = image("convert", "-f", "raw", "-O", "raw", source, new)
    t.check(rc == 0 and image("compare", "-f", "raw", "-F", "raw", source, new)[0] == 0, "a new one: " + text)
    rc, text = image("resize", "-f", "raw", new, "24M")
    t.check(rc == 0 and "size 24 MiB" in c.rbd("info", "p/new")[1], "made larger: " + text)
    rc, text = image("resize", "-f", "raw", "--shrink", new, "8M")
    t.check(rc == 0 and "size 8 MiB" in c.rbd("info", "p/new")[1], "made smaller: %d %s %s" % (rc, text, c.rbd("info", "p/new")[1]))
    rc, text = image("create", "-f", "qcow2", q, "16M")
    t.check(rc == 0, "qcow2 in it, which grows: " + text)
    rc, text = image("convert", "-n", "-f", "raw", "-O", "qcow2", source, q)
    t.check(rc == 0 and image("compare", "-f", "raw", "-F", "qcow2", source, q)[0] == 0, "a copy to qcow2 in it: " + text)
    t.check(image("check", "-f", "qcow2", q)[0] == 0, "the check of qcow2 in it")
    # a snapshot is what was
    t.check(c.rbd("snap", "create", "p/disk@then")[0] == 0, "rbd snap create")
    rc, text = image("convert", "-n", "-f", "raw", "-O", "raw", d + "/other", disk)
    t.check(rc == 0 and image("compare", "-f", "raw", "-F", "raw", d + "/other", disk)[0] == 0, "written again: " + text)
    rc, text = image("compare", "-f", "raw", "-F", "raw", source, c.uri("disk@then"))
    t.check(rc == 0, "the snapshot: " + text)
    rc, text = image("convert", "-n", "-f", "raw", "-O", "raw", source, c.uri("disk@then"))
    t.check(rc == 125 and "only read" in text, "a snapshot is written: " + text)
    for uri, words in (("rbd://p/none:conf=" + c.conf, "cannot be opened"), ("rbd://none/x:conf=" + c.conf, "pool none"), ("rbd://p", "POOL"), ("rbd://p/x:conf=/none", "/none"),
                       ("rbd://p/x:admin_socket=/tmp/x", "admin_socket"), ("rbd://p/@x", "POOL")):
        rc, text = image("info", "-f", "raw", uri)
        t.check(rc == 125 and words in text and text.count("\n") == 1, "%s: %d %s" % (uri, rc, text))


def guest(t, d, c):
    disk = c.uri("disk")
    g = Shell(t.linux("--disk", disk.replace(",", ",,"), commands=SERVE, limit=300))
    try:
        rc, text = image("convert", "-n", "-f", "raw", "-O", "raw", d + "/source", disk)
        t.check(rc == 125 and "in use" in text, "a second writer: %d %s" % (rc, text))
        said = g.do("dd if=/dev/urandom of=/mnt/noise bs=64k count=32 2>/dev/null; dd if=/mnt/noise of=/dev/vda bs=64k seek=8 conv=notrunc,fsync 2>/dev/null || echo failed; "
                    "echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=64k skip=8 count=32 2>/dev/null | cmp - /mnt/noise && echo same; sha256sum /dev/vda")
        t.check("same" in said and "failed" not in said, "the guest reads what it wrote: %s" % said)
        rc, text = c.rbd("export", "p/disk", d + "/after")
        with open(d + "/after", "rb") as f:
            sum = hashlib.sha256(f.read()).hexdigest()
            t.check(rc == 0 and any(sum in s for s in said), "the cluster has what the guest wrote: %s %s %s" % (sum, text, said))
        # the OSD stands still: an error after some time, and power-off
        c.daemons[1].send_signal(signal.SIGSTOP)
        time.sleep(1)
        began = time.monotonic()
        said = g.do("dd if=/dev/urandom of=/dev/vda bs=64k count=1 oflag=direct conv=notrunc 2>/dev/null && echo good || echo failed")
        t.check("failed" in said and time.monotonic() - began < 60, "a cluster that stands still: %s, %.1f s" % (said, time.monotonic() - began))
        g.p.stdin.write(b"poweroff -f\n")
        g.p.stdin.flush()
        began = time.monotonic()
        try:
            status = g.p.wait(150)
        except subprocess.TimeoutExpired:
            status = None
        print("power-off with a cluster that stands still: %.1f s" % (time.monotonic() - began))
        t.check(status == 0, "power-off with a cluster that stands still: status %s" % status)
    finally:
        c.daemons[1].send_signal(signal.SIGCONT)
        g.end()


missing = [p for p in ("ceph-mon", "ceph-osd", "ceph", "rbd", "monmaptool") if not shutil.which(p)]
rc, text = image("info", "-f", "raw", "rbd://p/x:conf=/none")
if missing or "built without" in text or "librbd1" in text:
    print("rbd: NOT RUN: " + ("these commands are not there: " + " ".join(missing) if missing else text))
    sys.exit(77)
t = Tests(DOPPEL)
with tempfile.TemporaryDirectory(prefix="doppel-rbd-") as folder:
    random.seed(9)
    for name in ("source", "other"):
        with open(folder + "/" + name, "wb") as f:
            f.write(random.randbytes(3000000))
            f.truncate(16 << 20)
    cluster = Ceph(folder)
    try:
        images(t, folder, cluster)
        guest(t, folder, cluster)
    finally:
        cluster.end()
sys.exit(t.finish())
