"""guestlib.py - for the tests that boot Debian's kernel: an initramfs with given commands, a run of doppel with each line's time of
arrival, a pseudo-terminal to run it on, checks that are counted."""
import hashlib, os, pty, re, select, shutil, signal, subprocess, sys, tempfile, termios, time

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
PATIENCE = float(os.environ.get("DOPPEL_TEST_PATIENCE", "1"))  # a multiplier for time limits, for slow or loaded hosts


class Result:
    """status; out and err as text with plain newlines; lines: [(seconds of the host's clock, line)] of out; start, end."""

    def __init__(self, status, out, err, lines, start, end):
        self.status, self.out, self.err, self.lines, self.start, self.end = status, out, err, lines, start, end
        self.seconds = end - start

    def value(self, key):
        """What the guest printed as 'key=value', or None."""
        m = re.search(r"^%s=(.*)$" % re.escape(key), self.out, re.M)
        return m and m[1].strip()

    def when(self, text):
        """When the first line that holds the text arrived, or None."""
        return next((t for t, line in self.lines if text in line), None)

    def between(self, begin, end):
        """The lines between two markers."""
        m = re.search(r"^%s\n(.*?)^%s$" % (re.escape(begin), re.escape(end)), self.out, re.M | re.S)
        return m[1] if m else ""


class Tests:
    def __init__(self, doppel, engine=None):
        self.doppel, self.engine = os.path.abspath(doppel), engine
        self.dir = tempfile.mkdtemp(prefix="doppel-guest-")
        self.passed = self.failed = 0
        self.last = None
        self._base = None
        cache = subprocess.run([TOP + "/scripts/fetch-kernel"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        self.kernel = cache + "/vmlinuz"

    def path(self, name):
        return os.path.join(self.dir, name)

    def close(self):
        shutil.rmtree(self.dir, ignore_errors=True)

    def check(self, good, what):
        if good:
            self.passed += 1
            return True
        self.failed += 1
        print("FAIL: " + what)
        if self.last:
            print("  status %s after %.1f s; the end of its output:" % (self.last.status, self.last.seconds))
            for line in (self.last.out.splitlines()[-25:] + self.last.err.splitlines()[-10:]):
                print("  | " + line)
            self.last = None  # once is enough
        return False

    def base(self):
        """busybox and modules; a shell on the console."""
        if not self._base:
            self._base = self.path("base.gz")
            subprocess.run([TOP + "/scripts/make-initrd", self._base], check=True)
        return self._base

    def initrd(self, commands, programs=()):
        """The arguments for an initramfs that runs the commands: the base with one more archive behind it, which has the programs in /bin."""
        folder = tempfile.mkdtemp(dir=self.dir)
        names = ["commands"] + ["bin/" + os.path.basename(p) for p in programs]
        os.mkdir(folder + "/bin")
        for p in programs:
            shutil.copy(p, folder + "/bin")
        with open(folder + "/commands", "w") as f:
            f.write(commands)
        with open(folder + ".cpio", "wb") as f:
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=folder, input="\n".join(names).encode(), stdout=f, check=True)
        return ["--initrd", self.base(), "--initrd", folder + ".cpio"]

    def argv(self, *args):
        return [self.doppel, "run"] + (["--engine", self.engine] if self.engine else []) + list(args)

    def linux(self, *args, commands=None, programs=(), append="", limit=120):
        """Arguments to boot Debian's kernel; the limit is doppel's own, ours is later."""
        a = ["--kernel", self.kernel] + (self.initrd(commands, programs) if commands is not None else ["--initrd", self.base()])
        return self.argv(*a, "--append", ("console=ttyS0 quiet " + append).strip(), "--timeout", str(limit * PATIENCE), *args)

    def run(self, argv, stdin=None, limit=150):
        """stdin: bytes, or None for nothing."""
        start = time.monotonic()
        pipe = subprocess.PIPE
        p = subprocess.Popen(argv, stdin=pipe if stdin else subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd=self.dir)
        texts, partial, lines = {p.stdout: b"", p.stderr: b""}, b"", []
        if stdin:
            p.stdin.write(stdin)
            p.stdin.close()
        open_files = [p.stdout, p.stderr]
        while open_files:
            ready, _, _ = select.select(open_files, [], [], max(0, start + limit * PATIENCE - time.monotonic()))
            if not ready:
                p.kill()
                print("FAIL: doppel did not end in time")
                self.failed += 1
                break
            for f in ready:
                data = os.read(f.fileno(), 65536)
                if not data:
                    open_files.remove(f)
                texts[f] += data
                if f is p.stdout:
                    partial += data
                    *whole, partial = partial.split(b"\n")
                    lines += [(time.time(), w.decode(errors="replace").rstrip("\r")) for w in whole]
        status = p.wait()
        out, err = (texts[f].decode(errors="replace").replace("\r\n", "\n") for f in (p.stdout, p.stderr))
        p.stdout.close()
        p.stderr.close()
        self.last = Result(status, out, err, lines, start, time.monotonic())
        return self.last

    def finish(self):
        self.close()
        print("%d passed, %d failed" % (self.passed, self.failed))
        return 1 if self.failed else 0


# What a guest of Shell runs: one command at a time comes by the console, "done" answers.
SERVE = """
stty -echo 2>/dev/null
echo ready
while read -r line; do eval "$line"; echo "done"; done < /dev/ttyS0
"""


class Shell:
    """A guest whose commands are SERVE: it does what it is told, a command at a time."""

    def __init__(self, argv):
        self.p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.until("ready")

    def until(self, word):
        seen = []
        for line in self.p.stdout:
            seen.append(line.decode(errors="replace").strip())
            if seen[-1] == word:
                return seen
        raise EOFError("the guest ended: " + "\n".join(seen[-10:]))

    def do(self, command):
        self.p.stdin.write(command.encode() + b"\n")
        self.p.stdin.flush()
        return self.until("done")

    def end(self):
        self.p.kill()
        self.p.wait()


class Terminal:
    """doppel on a pseudo-terminal of its own, as in a window."""

    def __init__(self, argv, cwd=None):
        self.text = ""
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        pid = os.fork()
        if pid == 0:
            os.close(self.master)
            self._login_tty()
            if cwd:
                os.chdir(cwd)
            os.execv(argv[0], argv)
        self.pid = pid

    def _login_tty(self):
        import fcntl
        os.setsid()
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            os.dup2(self.slave, fd)
        if self.slave > 2:
            os.close(self.slave)

    def type(self, text):
        os.write(self.master, text.encode())

    def expect(self, pattern, limit=90):
        """Reads until the pattern appears in what is new; returns the match, None when it does not come."""
        end = time.monotonic() + limit * PATIENCE
        while True:
            m = re.search(pattern, self.text)
            if m:
                self.text = self.text[m.end():]
                return m
            if not self._read(max(0, end - time.monotonic())):
                return None

    @staticmethod
    def _plain(text):
        """Without the carriage returns of two terminals, and the cursor queries of the guest's line editor."""
        return re.sub("\r+\n", "\n", text).replace("\033[6n", "")

    def raw(self):
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO)

    def restored(self):
        """The terminal is as it was; the guard may take a moment."""
        for _ in range(200):
            if termios.tcgetattr(self.slave) == self.before:
                return True
            time.sleep(0.02)
        return False

    def _read(self, patience):
        """Takes what the terminal shows within the time; False when there is nothing (any more)."""
        if self.master < 0 or not select.select([self.master], [], [], patience)[0]:
            return False
        try:
            self.text = self._plain(self.text + os.read(self.master, 65536).decode(errors="replace"))
            return True
        except OSError:
            return False

    def wait(self, limit=90):
        """The status, as subprocess gives it; None (and an end to it) when it does not come."""
        end = time.monotonic() + limit * PATIENCE
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                while self._read(0):
                    pass
                return os.waitstatus_to_exitcode(status)
            if not self._read(0.05):
                time.sleep(0.02)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return None

    def close(self):
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)
        self.master = self.slave = -1


class TextScreen(Terminal):
    """`doppel run --display text`: the cells of the screen, placed as doppel's few escapes say. expect looks at the whole screen, however long something stands there."""

    def __init__(self, argv, cwd=None):
        super().__init__(argv, cwd)
        self.rows, self.row, self.column, self.rest = {}, 0, 0, ""

    def show(self):
        """The screen's lines."""
        last = max(self.rows, default=-1)
        return "\n".join("".join(self.rows.get(y, {}).get(x, " ") for x in range(max(self.rows.get(y, {}), default=-1) + 1)).rstrip() for y in range(last + 1))

    def _take(self):
        text, self.text = self.rest + self.text, ""
        for m in re.finditer(r"\033\[([0-9;?]*)([A-Za-z])|\033[()].|\033.?|(.)", text, re.S):
            if m[0].startswith("\033") and m.end() == len(text) and not m[2]:  # the rest is still to come
                break
            if m[2] == "H":
                self.row, self.column = (int(n or 1) - 1 for n in (m[1] + ";").split(";")[:2])
            elif m[2] == "J":
                self.rows = {}
            elif m[3] and m[3] >= " ":
                self.rows.setdefault(self.row, {})[self.column] = m[3]
                self.column += 1
        else:
            self.rest = ""
            return
        self.rest = m[0]

    def expect(self, pattern, limit=90):
        end = time.monotonic() + limit * PATIENCE
        while True:
            self._take()
            m = re.search(pattern, self.show())
            if m or time.monotonic() > end:
                return m
            self._read(max(0, min(1, end - time.monotonic())))


def grub_disk(t, path, files, commands):
    """A 64 MiB disk with a partition table, BIOS GRUB, which gets these commands, and an ext2 file system with files {name: file} in /boot, made without mounting anything."""
    mib, root, core = 1 << 20, tempfile.mkdtemp(dir=t.dir), path + ".core"
    os.makedirs(root + "/boot/grub")
    for name, source in files.items():
        shutil.copy(source, root + "/boot/" + name)
    with open(root + "/boot/grub/grub.cfg", "w") as f:
        f.write("set root=(hd0,msdos1)\n" + commands + "boot\n")
    with open(path, "wb") as f:
        f.truncate(64 * mib)
    subprocess.run(["sfdisk", "-q", path], input=b"label: dos\nstart=2048, type=83, bootable\n", check=True)
    subprocess.run(["grub-mkimage", "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", core, "biosdisk", "part_msdos", "ext2", "normal", "linux", "multiboot2", "gzio",
                    "configfile", "boot"], check=True)
    with open(path, "r+b") as disk, open("/usr/lib/grub/i386-pc/boot.img", "rb") as boot, open(core, "rb") as rest:
        disk.write(boot.read(440))
        disk.seek(512)
        disk.write(rest.read())
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext2", "-d", root, "-E", "offset=%d" % mib, path, "62M"], check=True)


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def main(cases, argv):
    """argv: [--engine NAME] DOPPEL [CASE...]"""
    args, engine = argv[1:], None
    if args[:1] == ["--engine"]:
        engine, args = args[1], args[2:]
    if not args or [c for c in args[1:] if c not in cases]:
        sys.exit("usage: %s [--engine NAME] DOPPEL [CASE...]\ncases: %s" % (argv[0], " ".join(cases)))
    t = Tests(args[0], engine)
    try:
        for name in args[1:] or [c for c in cases if not c.startswith("long-")]:
            cases[name](t)
            t.last = None
    finally:
        t.close()
    return t.finish()
