"""suitelib.py - for the suites made by others (selftests, kvm-unit-tests, soak): which engines, files for the guest, QEMU's TCG as reference,
tables of verdicts. The scripts and what they showed are described in docs/guest-tests.md."""
import json, os, re, subprocess, sys, tempfile

from guestlib import PATIENCE, TOP, Tests

SKIPPED = 77  # what meson takes for "cannot run here"


def cache(name):
    """A folder for what is fetched or built once."""
    path = os.path.join(os.environ.get("DOPPEL_CACHE") or TOP + "/.cache", name)
    os.makedirs(path, exist_ok=True)
    return path


def engines(doppel):
    """What `doppel doctor` calls usable; the one without a processor aside."""
    told = json.loads(subprocess.run([doppel, "doctor", "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout)
    return [e["name"] for e in told["engines"] if e["usable"] and e["name"] != "null"]


def arguments(argv, usage, options):
    """argv: [--engine NAME[,NAME]] [--OPTION VALUE]... DOPPEL [WORD...]; gives doppel, its engines, {option: value}, words."""
    args, got = list(argv[1:]), {}
    while len(args) > 1 and args[0].startswith("--") and args[0][2:] in ("engine", *options):
        got[args[0][2:]] = args[1]
        args = args[2:]
    if not args or args[0].startswith("-"):
        sys.exit("usage: " + usage)
    doppel = os.path.abspath(args[0])
    return doppel, got.pop("engine").split(",") if "engine" in got else engines(doppel), got, args[1:]


def libraries(*programs):
    """{path in the guest: file} of the shared objects and loaders the programs want."""
    found = {}
    for p in programs:
        told = subprocess.run(["ldd", p], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        for path in re.findall(r"(?:=> |^\s)(/\S+) \(", told, re.M):
            found[path] = os.path.realpath(path)
    return found


def archive(t, commands, files):
    """An initramfs of guestlib's base, /commands, and files {path in the guest: file}; one file, as QEMU takes no two."""
    folder = tempfile.mkdtemp(dir=t.dir)
    with open(folder + "/commands", "w") as f:
        f.write(commands)
    for to, source in files.items():
        to = folder + "/" + to.lstrip("/")
        os.makedirs(os.path.dirname(to), exist_ok=True)
        os.symlink(source, to)
    path = folder + ".initrd"
    with open(path, "wb") as out:
        with open(t.base(), "rb") as f:
            out.write(f.read())
        names = subprocess.run(["find", "."], cwd=folder, check=True, stdout=subprocess.PIPE).stdout
        cpio = subprocess.Popen(["cpio", "-o", "-L", "-H", "newc", "--quiet"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        gzip = subprocess.Popen(["gzip", "-1"], stdin=cpio.stdout, stdout=out)
        cpio.stdin.write(names)
        cpio.stdin.close()
        if cpio.wait() or gzip.wait():
            raise OSError("the archive for the guest could not be made")
    return path


def tcg(kernel, initrd, append, cpus=1, memory="1G", cpu="max", extra=()):
    """QEMU's emulator on the same kernel and files; a guest's reset or triple fault ends it, port 0xf4 gives a status."""
    return ["qemu-system-x86_64", "-accel", "tcg", "-cpu", cpu, "-smp", str(cpus), "-m", memory, "-nodefaults", "-display", "none",
            "-serial", "stdio", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4",
            "-kernel", kernel, *(["-initrd", initrd] if initrd else []), *(["-append", append] if append else []), *extra]


def table(rows, columns):
    """rows: {name: {column: text}}, printed as Markdown likes it."""
    width = [max([len("test")] + [len(n) for n in rows])] + [max([len(c)] + [len(r.get(c, "-")) for r in rows.values()]) for c in columns]
    line = lambda cells: "| " + " | ".join(c.ljust(w) for c, w in zip(cells, width)) + " |"
    print(line(["test", *columns]))
    print("|" + "|".join("-" * (w + 2) for w in width) + "|")
    for name, row in rows.items():
        print(line([name, *(row.get(c, "-") for c in columns)]))
    sys.stdout.flush()
