#!/usr/bin/env python3
"""tests/block/test_ova.py DOPPEL: disks in OVA files, which are made here by tarfile and doppel (and qemu-img, if it is there): one and several, names and sizes in every kind of tar,
archives that are damaged at every place."""
import io, os, random, shutil, subprocess, sys, tarfile, tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from range_server import Server

DOPPEL = os.path.abspath(sys.argv[1])
os.environ["no_proxy"] = "127.0.0.1"
passed = failed = 0


def check(good, what):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    if not good:
        print("FAIL: " + what)


def run(*argv):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return p.returncode, p.stdout


def image(*argv):
    return run(DOPPEL, "image", *argv)


def ova(path, files, form=tarfile.USTAR_FORMAT):
    """files: (name, path, or the bytes)."""
    with tarfile.open(path, "w", format=form) as t:
        for name, what in files:
            info = tarfile.TarInfo(name)
            data = what if isinstance(what, bytes) else open(what, "rb").read()
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return path


def same(d, name, what, disk, *options):
    rc, text = image("compare", "-f", "raw", *options, d + "/" + disk, name)
    check(rc == 0, "%s: %d %s" % (what, rc, text))


def refused(name, words, what, *options):
    rc, text = image("info", *options, name)
    check(rc == 125 and words in text and text.count("\n") == 1 and "\033" not in text, "%s: %d %s" % (what, rc, text))


def kinds(d):
    long = "appliances/" * 20 + "disk.vmdk"
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        one = ova("%s/one%d.ova" % (d, form), [("x.ovf", b"<Envelope/>"), ("x.mf", b"SHA256"), ("x-disk1.vmdk", d + "/a.vmdk")], form)
        same(d, one, "the only disk", "a", "-F", "vmdk")
        same(d, one + "/x-disk1.vmdk", "the only disk, by name", "a", "-F", "vmdk")
        same(d, "ova://" + one, "by address", "a", "-F", "vmdk")
        rc, text = image("info", one)
        check(rc == 0 and "file format: vmdk" in text and "4 MiB" in text, "info: " + text)
        rc, text = image("convert", "-O", "qcow2", one, d + "/back.qcow2")
        check(rc == 0, "convert: " + text)
        same(d, d + "/back.qcow2", "what was converted", "a", "-F", "qcow2")
        two = ova("%s/two%d.OVA" % (d, form), [("./x.ovf", b"<Envelope/>"), ("./one.vmdk", d + "/a.vmdk"), ("./two.vhd", d + "/b.vhd"), ("./three.img", d + "/b")], form)
        same(d, two + "/one.vmdk", "the first of several", "a", "-F", "vmdk")
        same(d, two + "/two.vhd", "the second of several", "b", "-F", "vpc")
        same(d, two + "/three.img", "the third of several", "b", "-F", "raw")
        refused(two, "one.vmdk, two.vhd, three.img", "several, none is named")
        refused(two + "/four.img", "one.vmdk, two.vhd, three.img", "one that is not there")
        if form != tarfile.USTAR_FORMAT:
            names = ova("%s/names%d.ova" % (d, form), [("x.ovf", b"<Envelope/>"), (long, d + "/a.vmdk"), ("\033[31m.img", b"x" * 512)], form)
            same(d, names + "/" + long, "a long name", "a", "-F", "vmdk")
            refused(names, "several", "a name with escapes")
    # over it: what is written goes elsewhere
    for below in ("two0.OVA/one.vmdk", "one0.ova"):
        rc, text = image("create", "-q", "-f", "qcow2", "-b", below, "-F", "vmdk", d + "/mine.qcow2")
        check(rc == 0, "an image over %s: %s" % (below, text))
        same(d, d + "/mine.qcow2", "an image over " + below, "a", "-F", "qcow2")
    rc, text = run(DOPPEL, "run", "--timeout", "5", "-k", "/dev/null", "--disk", d + "/one0.ova,format=vmdk")
    check(rc == 125 and ("only read" in text or "kernel" in text), "one to write: " + text)
    web = Server(d + "/one0.ova")
    rc, text = image("info", "-f", "raw", web.url)
    if "built without" not in text:
        same(d, "ova://" + web.url + "one0.ova", "by HTTP", "a", "-F", "vmdk")
    web.end()
    # a size in GNU's binary way, a disk of zero bytes, no disk
    whole = bytearray(open(d + "/one1.ova", "rb").read())
    at = whole.index(b"x-disk1.vmdk")
    whole[at + 124 : at + 136] = b"\x80" + os.path.getsize(d + "/a.vmdk").to_bytes(11, "big")
    whole[at + 148 : at + 156] = b" " * 8
    whole[at + 148 : at + 156] = b"%06o\0 " % sum(whole[at : at + 512])
    open(d + "/binary.ova", "wb").write(whole)
    same(d, d + "/binary.ova", "a binary size", "a", "-F", "vmdk")
    refused(ova(d + "/none.ova", [("x.ovf", b"<Envelope/>")]), "no disks", "no disk")
    refused(ova(d + "/zip.ova", [("x.ovf", b""), ("a.vmdk", b"")]), "", "an empty disk", "-f", "vmdk")
    open(d + "/text.ova", "w").write("hello" * 1000)
    refused(d + "/text.ova", "no OVA", "a file that is none")
    open(d + "/empty.ova", "w").close()
    refused(d + "/empty.ova", "no OVA", "an empty file")
    refused(d + "/nothing.ova", "does not exist", "no file")


def damage(d):
    """Cut off anywhere, and headers changed: an error of one line, or the disk as it is."""
    whole = open(d + "/one0.ova", "rb").read()
    random.seed(7)
    for k in range(60):
        data = bytearray(whole)
        if k < 20:
            del data[random.choice((511, 512, 600, 1023, 1536, len(data) - 10241, len(data) // 2, random.randrange(len(data)))) :]
        else:
            header = data.index(random.choice((b"x.ovf", b"x.mf", b"x-disk1.vmdk")))
            for _ in range(random.choice((1, 1, 2))):
                data[header + random.choice((124, 125, 130, 134, 135, 150, 156, 257, random.randrange(512)))] = random.randrange(256)
            if k % 2:
                data[header + 148 : header + 156] = b" " * 8
                data[header + 148 : header + 156] = b"%06o\0 " % sum(data[header : header + 512])
        open(d + "/bad.ova", "wb").write(data)
        rc, text = image("convert", "-f", "vmdk", "-O", "raw", d + "/bad.ova", d + "/back")
        check(rc in (0, 125) and "anitizer" not in text and (rc == 0 or text.count("\n") == 1), "damage %d: %d %s" % (k, rc, text))


with tempfile.TemporaryDirectory(prefix="doppel-ova-") as folder:
    for name, seed in (("a", 1), ("b", 2)):
        random.seed(seed)
        with open(folder + "/" + name, "wb") as f:
            f.write(random.randbytes(1 << 20) + bytes(1 << 20) + b"text" * (1 << 18) + bytes(1 << 20))
    if shutil.which("qemu-img"):
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", folder + "/a", folder + "/a.vmdk"], check=True)
    else:
        print("qemu-img is not there (package qemu-utils): the disk is doppel's own")
        image("convert", "-q", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", folder + "/a", folder + "/a.vmdk")
    image("convert", "-q", "-f", "raw", "-O", "vpc", folder + "/b", folder + "/b.vhd")
    kinds(folder)
    damage(folder)
print("%d passed, %d failed" % (passed, failed))
sys.exit(1 if failed else 0)
