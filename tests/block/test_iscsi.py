#!/usr/bin/env python3
"""tests/block/test_iscsi.py DOPPEL: disks of an iSCSI target: Debian's tgtd (package tgt), a user's process here. Exit status 77: it does not run here, or doppel has no libiscsi."""
import os, random, shutil, subprocess, sys, tempfile, time

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


port, control = 20000 + os.getpid() % 20000, str(1000 + os.getpid() % 30000)
target = "iqn.2026-11.test.doppel:one"
base = "iscsi://127.0.0.1:%d/%s/" % (port, target)


def adm(*argv):
    return run("tgtadm", "-C", control, "--lld", "iscsi", *argv)


rc, text = image("info", "-f", "raw", base + "1")
if "built without" in text or not shutil.which("tgtd") or not shutil.which("tgtadm"):
    print("iscsi: NOT RUN: " + (text if "built without" in text else "tgtd is not there (package tgt)"))
    sys.exit(77)
check(rc and text.count("\n") == 1, "no target: " + text)
with tempfile.TemporaryDirectory(prefix="doppel-iscsi-") as d:
    tgtd = subprocess.Popen(["tgtd", "-f", "-C", control, "--iscsi", "portal=127.0.0.1:%d" % port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            rc, text = adm("--op", "new", "--mode", "target", "--tid", "1", "-T", target)
            if rc == 0 or tgtd.poll() is not None:
                break
            time.sleep(0.1)
        if rc:
            print("iscsi: NOT RUN: tgtd does not run here: " + text.strip())
            sys.exit(77)
        random.seed(3)
        with open(d + "/source", "wb") as f:
            for _ in range(6):
                f.write(random.randbytes(1 << 20) + bytes(1 << 20))
            f.truncate(16 << 20)
        for lun, more in (("1", []), ("2", ["-b", d + "/disk2", "--blocksize", "4096"])):
            with open(d + "/disk" + lun, "wb") as f:
                f.truncate(16 << 20)
            rc, text = adm("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", lun, *(more or ["-b", d + "/disk1"]))
            check(rc == 0, "tgtadm: " + text)
        adm("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
        for lun in ("1", "2"):
            uri = base + lun
            rc, text = image("convert", "-n", "-f", "raw", "-O", "raw", d + "/source", uri)
            check(rc == 0, "LUN %s: a copy to it: %s" % (lun, text))
            rc, text = image("convert", "-f", "raw", "-O", "raw", uri, d + "/back")
            check(rc == 0 and open(d + "/source", "rb").read() == open(d + "/back", "rb").read(), "LUN %s: a copy from it: %s" % (lun, text))
            rc, text = image("create", "-f", "qcow2", uri, "16M")
            check(rc == 0, "LUN %s: qcow2 in it: %s" % (lun, text))
            rc, text = image("convert", "-n", "-f", "raw", "-O", "qcow2", d + "/source", uri)
            check(rc == 0, "LUN %s: a copy to qcow2 in it: %s" % (lun, text))
            rc, text = image("compare", "-f", "raw", "-F", "qcow2", d + "/source", uri)
            check(rc == 0, "LUN %s: qcow2 in it differs: %s" % (lun, text))
            rc, text = image("check", "-f", "qcow2", uri)
            check(rc == 0, "LUN %s: the check: %s" % (lun, text))
        for uri, words in ((base + "7", ""), ("iscsi://127.0.0.1:%d/iqn.none/1" % port, ""), ("iscsi://a%b@127.0.0.1/x/1", "CHAP"), ("iscsi://127.0.0.1/", "HOST")):
            rc, text = image("info", "-f", "raw", uri)
            check(rc and words in text and text.count("\n") == 1, "%s: %d %s" % (uri, rc, text))
    finally:
        tgtd.terminate()
        try:
            tgtd.wait(5)
        except subprocess.TimeoutExpired:
            tgtd.kill()
            tgtd.wait()
print("%d passed, %d failed" % (passed, failed))
sys.exit(1 if failed else 0)
