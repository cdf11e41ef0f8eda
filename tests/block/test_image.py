#!/usr/bin/env python3
"""test_image.py DOPPEL - the verbs of `doppel image` beside qemu-img's, on a matrix of images; interrupted, on a full disk, under locks.

Formats that `doppel image --help` does not list are left out. What this host cannot do (mount a tmpfs, copy slowly enough to be interrupted)
is skipped and said: the whole then ends with status 77, unless something failed.
"""
import json, os, random, shutil, signal, subprocess, sys, tempfile, time

doppel = os.path.abspath(sys.argv[1])
if not shutil.which('qemu-img') or not shutil.which('qemu-io'):
    print('needs qemu-img and qemu-io (package qemu-utils)')
    sys.exit(77)
os.environ['LC_ALL'] = 'C'
folder = tempfile.mkdtemp(prefix='doppel-image-')
os.chdir(folder)
passed, failed, skipped = 0, 0, {}


def run(*words, **more):
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, **more)


def ours(*words):
    return run(doppel, 'image', *words)


def theirs(*words):
    return run('qemu-img', *words)


def ok(condition, text, result=None):
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        print('FAIL:', text, '' if result is None else f'(status {result.returncode}: {result.stdout.strip()[-300:]} {result.stderr.strip()[-300:]})')
    return condition


def expect(status, words, *command):
    r = ours(*command)
    ok(r.returncode == status and words in r.stdout + r.stderr, f'{" ".join(command)}: not {status} with "{words}"', r)
    if status in (2, 125):
        ok(r.stderr.count('\n') == 1, f'{" ".join(command)}: not one line', r)
    return r


def skip(why):
    skipped[why] = skipped.get(why, 0) + 1


def must(*words):
    r = run(*words)
    if r.returncode:
        sys.exit(f'{words}: {r.stderr}')


def create(name, format, size, *more):
    must('qemu-img', 'create', '-q', '-f', format, *more, name, str(size))


def qemu_io(name, format, *commands):
    must('qemu-io', '-f', format, *[w for c in commands for w in ('-c', c)], name)


helps = ours('--help').stdout
formats = {line.split()[0]: line for line in helps.split('Formats:')[1].splitlines() if line.strip()}
can_make = lambda f: 'cannot be made' not in formats[f] and 'only read' not in formats[f]

K, M = 1024, 1 << 20


def fill(name, size, seed):
    """Random bytes, text, zeros that are stored, and holes."""
    r = random.Random(seed)
    with open(name, 'wb') as f:
        at = 0
        while at < size:
            n = min(r.choice([512, 4 * K, 40 * K, 64 * K, 300 * K, 2 * M]) * r.randint(1, 3), size - at)
            kind = r.randrange(4)
            f.seek(at)
            if kind == 0:
                f.write(r.randbytes(n))
            elif kind == 1:
                f.write((b'text and more text. ' * (n // 20 + 1))[:n])
            elif kind == 2:
                f.write(bytes(n))
            at += n
        f.truncate(size)


# ---- sources ----

fill('a.raw', 12 * M + 512, 1)
fill('b.raw', 12 * M + 512, 2)
sources = [('a.raw', 'raw'), ('b.raw', 'raw')]
for cluster in (512, 4096, 65536, 2 * M):
    for more in ([], ['-c']):
        for compat in ('0.10', '1.1'):
            name = f'q{cluster}{"c" if more else ""}{compat}.qcow2'
            must('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', '-o', f'cluster_size={cluster},compat={compat}', *more, 'a.raw', name)
            sources.append((name, 'qcow2'))
create('top.qcow2', 'qcow2', 14 * M, '-b', 'q65536c1.1.qcow2', '-F', 'qcow2')
qemu_io('top.qcow2', 'qcow2', 'write -P 7 1M 300k', 'write -z 5M 1M', 'write -P 9 13M 64k')
create('top2.qcow2', 'qcow2', 14 * M, '-b', 'top.qcow2', '-F', 'qcow2', '-o', 'cluster_size=4096')
qemu_io('top2.qcow2', 'qcow2', 'write -P 3 2M 5000', 'write -z 13M 32k')
create('over.qcow2', 'qcow2', 12 * M + 512, '-b', 'a.raw', '-F', 'raw')
qemu_io('over.qcow2', 'qcow2', 'write -P 1 3M 1M')
create('snap.qcow2', 'qcow2', 8 * M)
qemu_io('snap.qcow2', 'qcow2', 'write -P 1 1M 1M')
must('qemu-img', 'snapshot', '-c', 'one', 'snap.qcow2')
qemu_io('snap.qcow2', 'qcow2', 'write -P 2 1M 1M')
create('empty.qcow2', 'qcow2', 4 * M)
sources += [(n, 'qcow2') for n in ('top.qcow2', 'top2.qcow2', 'over.qcow2', 'snap.qcow2', 'empty.qcow2')]
for f, subformats in (('vdi', ['']), ('vpc', ['dynamic', 'fixed']), ('vmdk', ['monolithicSparse', 'streamOptimized']), ('vhdx', ['dynamic', 'fixed'])):
    for s in subformats:
        if f in formats:
            name = f'{f}{s}.{f}'
            must('qemu-img', 'convert', '-f', 'raw', '-O', f, *(['-o', f'subformat={s}'] if s else []), 'a.raw', name)
            sources.append((name, f))

# ---- info, map, measure ----

for name, format in sources:
    a, b = ours('info', '--json', name), theirs('info', '--output=json', '-f', format, name)
    if ok(a.returncode == 0, f'info {name}', a):
        a, b = json.loads(a.stdout), json.loads(b.stdout)
        for key in ('virtual-size', 'filename', 'format', 'actual-size', 'cluster-size', 'backing-filename', 'backing-filename-format',
                    'full-backing-filename', 'dirty-flag', 'format-specific', 'snapshots'):
            if format in ('vpc', 'vhdx', 'vmdk', 'vdi') and key in ('cluster-size', 'format-specific'):
                pass  # the drivers' own tests
            elif key == 'snapshots':
                ok([s['name'] for s in a.get(key, [])] == [s['name'] for s in b.get(key, [])], f'info {name}: {key}')
            else:
                ok(a.get(key) == b.get(key), f'info {name}: {key} is {a.get(key)}, not {b.get(key)}')
    ok(len(json.loads(ours('info', '--json', '--backing-chain', name).stdout or '[]')) == len(json.loads(theirs('info', '-f', format,
       '--output=json', '--backing-chain', name).stdout)), f'info --backing-chain {name}')
    ok(name in ours('info', name).stdout, f'info {name} for people')
    if format in ('raw', 'qcow2'):
        a, b = ours('map', '--json', name), theirs('map', '--output=json', '-f', format, name)
        a, b = json.loads(a.stdout), json.loads(b.stdout)
        if name in ('top.qcow2', 'top2.qcow2'):  # behind the end of a shorter backing file depths are a matter of taste
            a, b = [[(x['start'], x['data']) for x in m if x['data']] for m in (a, b)]
        for m in (a, b):  # a compressed cluster has no place that could be read; which run ends where is not the same
            for x in m if m and isinstance(m[0], dict) else []:
                x.pop('compressed', None)
        ok(a == b, f'map {name}: {str(a)[:300]} not {str(b)[:300]}')
    for cluster in (4096, 65536):
        for target in ('raw', 'qcow2'):
            more = ['-o', f'cluster_size={cluster}'] if target == 'qcow2' else []
            a, b = ours('measure', '--json', '-O', target, *more, name), theirs('measure', '--output=json', '-f', format, '-O', target, *more, name)
            if b.returncode == 0 and a.returncode == 0:
                a, b = json.loads(a.stdout), json.loads(b.stdout)
                ok(a['fully-allocated'] == b['fully-allocated'] and a['required'] == b['required'],
                   f'measure {name} {target} {cluster}: {a} not {b}')
            else:
                ok((a.returncode == 0) == (b.returncode == 0), f'measure {name}', a)

# ---- convert, compare, check ----

made = 0


def convert(source, source_format, target_format, *more):
    """Our copy of source, which both must find equal."""
    global made
    made += 1
    target = f'out{made}.{target_format}'
    words = ['convert', '-q', '-f', source_format, '-O', target_format, *more]
    if not can_make(target_format):
        size = json.loads(theirs('info', '--output=json', '-f', source_format, source).stdout)['virtual-size']
        create(target, target_format, size)
        words.append('-n')
    r = ours(*words, source, target)
    if not ok(r.returncode == 0, ' '.join(words) + f' {source}', r):
        return
    a = theirs('compare', '-f', source_format, '-F', target_format, source, target)
    ok(a.returncode == 0, f'qemu-img compare {source} {target} {more}', a)
    a = ours('compare', '-f', source_format, '-F', target_format, source, target)
    ok(a.returncode == 0, f'compare {source} {target}', a)
    if target_format in ('qcow2', 'vdi', 'vhdx', 'vmdk'):
        a = theirs('check', '-f', target_format, target)
        ok(a.returncode == 0, f'qemu-img check {target} of {source} {more}', a)
    ok(not os.path.exists(target + '.part') and not os.path.exists(target + '.part.json'), f'{target}.part is left')
    os.unlink(target)


targets = [f for f in ('raw', 'qcow2', 'vdi', 'vpc', 'vmdk', 'vhdx') if f in formats]
for name, format in sources:
    for target in targets:
        if target not in ('raw', 'qcow2', format) and name not in ('a.raw', 'top2.qcow2', 'empty.qcow2'):
            continue  # which image it comes from does not matter to these
        if target == 'vpc' and not can_make('vpc'):
            continue
        more = ['-o', 'force_size=on'] if target == 'vpc' else []
        convert(name, format, target, *more)
    convert(name, format, 'raw', '-S', '0')
    convert(name, format, 'qcow2', '-c')
    convert(name, format, 'qcow2', '-B', 'b.raw', '-F', 'raw')
    convert(name, format, 'qcow2', '-S', '64K')
for name in ('a.raw', 'q65536c1.1.qcow2'):
    convert(name, name.rsplit('.')[-1], 'raw', '-C')

pairs = [('a.raw', n) for n, f in sources] + [('top.qcow2', 'top2.qcow2'), ('top.qcow2', 'q5121.1.qcow2'), ('empty.qcow2', 'snap.qcow2')]
for a, b in pairs:
    for strict in ([], ['-s']):
        # They do not see by the footer what a fixed VHD is.
        x, y = ours('compare', *strict, a, b), theirs('compare', *strict, *(['-f', 'raw', '-F', 'vpc'] if b == 'vpcfixed.vpc' else []), a, b)
        # Strictly, their allocation flags are more than data, zeros and nothing.
        ok(x.returncode == y.returncode if not strict else x.returncode in (0, 1), f'compare {strict} {a} {b}: {x.stdout} not {y.stdout}', x)
        if not strict:
            ok(x.stdout == y.stdout, f'compare {a} {b}: says {x.stdout}, not {y.stdout}')
ok(ours('compare', 'a.raw', 'missing').returncode == 125, 'compare with a missing file')

for name, format in sources:
    a, b = ours('check', name), theirs('check', '-f', format, name)
    ok(a.returncode == (0 if format == 'vpc' else b.returncode), f'check {name}', a) # what qemu-img cannot check we can
shutil.copy('q655361.1.qcow2', 'leak.qcow2')
with open('leak.qcow2', 'r+b') as f:  # refcounts of clusters that nobody uses
    f.seek(0)
    head = f.read(72)
    table = int.from_bytes(head[48:56], 'big')
    f.seek(table)
    block = int.from_bytes(f.read(8), 'big')
    f.seek(0, 2)
    end = f.tell() // 65536 + 1
    f.truncate((end + 2) * 65536)
    f.seek(block + 2 * end)
    f.write(b'\0\1')
expect(3, 'lost', 'check', 'leak.qcow2')
shutil.copy('leak.qcow2', 'leak2.qcow2')
expect(0, 'Repaired', 'repair', '-f', 'qcow2', 'leak2.qcow2')
ok(theirs('check', 'leak2.qcow2').returncode == 0, 'qemu-img check after repair')
a = json.loads(ours('check', '--json', 'leak.qcow2').stdout)
ok(a.get('leaks') == json.loads(theirs('check', '--output=json', 'leak.qcow2').stdout).get('leaks'), 'check --json: leaks')
expect(0, '', 'check', '-f', 'qcow2', '-r', 'leaks', 'leak.qcow2')
ok(theirs('check', 'leak.qcow2').returncode == 0, 'qemu-img check after -r leaks')
expect(63, 'cannot be checked', 'check', 'a.raw')

# ---- create, resize ----

expect(0, '', 'create', 'c.raw', '5M')
ok(os.stat('c.raw').st_size == 5 * M, 'create: size of c.raw')
expect(125, 'how large?', 'create', 'c2.raw')
expect(0, 'preallocation', 'create', '-f', 'raw', '-o', 'help')
expect(125, 'no option', 'create', '-o', 'x=1', 'c2.raw', '1M')
for size, want in (('+1M', 6 * M), ('8M', 8 * M)):
    expect(0, 'now', 'resize', 'c.raw', size)
    ok(os.stat('c.raw').st_size == want, f'resize {size}')
expect(125, '--shrink', 'resize', 'c.raw', '-1M')
expect(0, '', 'resize', '--shrink', 'c.raw', '-1M')
ok(os.stat('c.raw').st_size == 7 * M, 'resize -1M')
shutil.copy('q655361.1.qcow2', 'r.qcow2')
expect(125, 'looks like qcow2', 'resize', 'r.qcow2', '20M')
r = ours('resize', '-f', 'qcow2', 'r.qcow2', '20M')
ok(r.returncode == 0 and theirs('check', 'r.qcow2').returncode == 0, 'resize of qcow2', r)
ok(json.loads(theirs('info', '--output=json', 'r.qcow2').stdout)['virtual-size'] == 20 * M, 'size of qcow2')
ok(theirs('compare', 'r.qcow2', 'a.raw').returncode == 0, 'contents after resize')
expect(0, '', 'create', '-f', 'qcow2', '-b', 'a.raw', '-F', 'raw', 'over2.qcow2')
ok(theirs('compare', 'over2.qcow2', 'a.raw').returncode == 0, 'create -b')
expect(125, '-F FORMAT', 'create', '-f', 'qcow2', '-b', 'a.raw', 'over3.qcow2')

# ---- commit, rebase, snapshot, compact ----

for drop in ([], ['-d']):
    for base, top, format in (('a.raw', 'over.qcow2', 'raw'), ('q65536c1.1.qcow2', 'top.qcow2', 'qcow2')):
        for where in ('x', 'y'):
            os.makedirs(where, exist_ok=True)
            shutil.copy(base, where)
            shutil.copy(top, where)
        x, y = ours('commit', '-f', 'qcow2', *drop, f'x/{top}'), theirs('commit', '-q', '-f', 'qcow2', *drop, f'y/{top}')
        ok(x.returncode == 0 and y.returncode == 0, f'commit {top}', x)
        for f, of in ((base, format), (top, 'qcow2')):
            ok(theirs('compare', '-f', of, '-F', of, f'x/{f}', f'y/{f}').returncode == 0, f'{f} after commit {drop}')
            ok(of == 'raw' or theirs('check', '-f', of, f'x/{f}').returncode == 0, f'check {f} after commit {drop}')
expect(125, 'no backing file', 'commit', '-f', 'qcow2', 'q655361.1.qcow2')

fill('c12.raw', 9 * M, 3)
for to, format in (('b.raw', 'raw'), ('c12.raw', 'raw'), ('top.qcow2', 'qcow2'), ('', None)):
    for name in ('over.qcow2', 'top.qcow2', 'top2.qcow2'):
        if to == name or (to == 'top.qcow2' and name == 'top2.qcow2'):
            continue
        shutil.copy(name, 'rb.qcow2')
        r = ours('rebase', '-q', '-f', 'qcow2', '-b', to, *(['-F', format] if to else []), 'rb.qcow2')
        ok(r.returncode == 0, f'rebase {name} {to}', r)
        ok(theirs('compare', '-f', 'qcow2', '-F', 'qcow2', name, 'rb.qcow2').returncode == 0, f'{name} rebased to {to} differs')
        ok(theirs('check', '-f', 'qcow2', 'rb.qcow2').returncode == 0, f'check of {name} rebased to {to}')
        ok(json.loads(theirs('info', '--output=json', 'rb.qcow2').stdout).get('backing-filename', '') == to, f'name after rebase to {to}')
expect(125, '-b FILE', 'rebase', '-f', 'qcow2', 'over.qcow2')

r = ours('snapshot', '-l', 'snap.qcow2')
ok(r.returncode == 0 and 'one' in r.stdout, 'snapshot -l', r)
r = ours('convert', '-q', '-l', 'one', 'snap.qcow2', 's.raw')
theirs('convert', '-q', '-l', 'one', '-O', 'raw', 'snap.qcow2', 's2.raw')
ok(r.returncode == 0 and theirs('compare', '-f', 'raw', '-F', 'raw', 's.raw', 's2.raw').returncode == 0, 'convert -l', r)
expect(0, '', 'snapshot', '-f', 'qcow2', '-c', 'two', 'snap.qcow2')
ok('two' in theirs('snapshot', '-l', 'snap.qcow2').stdout, 'snapshot -c')
expect(0, '', 'snapshot', '-f', 'qcow2', '-a', 'one', 'snap.qcow2')
ok(theirs('compare', '-f', 'raw', '-F', 'qcow2', 's.raw', 'snap.qcow2').returncode == 0, 'snapshot -a')
expect(0, '', 'snapshot', '-f', 'qcow2', '-d', 'one', 'snap.qcow2')
ok(theirs('check', 'snap.qcow2').returncode == 0, 'check after snapshot -d')
expect(125, 'no snapshots', 'snapshot', '-l', 'a.raw')

with open('z.raw', 'wb') as f:
    f.write(b'x' * M + bytes(4 * M) + b'y' * M)
expect(0, 'given back', 'compact', 'z.raw')
ok(os.stat('z.raw').st_blocks * 512 <= 3 * M, 'compact gives blocks back')
ok(open('z.raw', 'rb').read() == b'x' * M + bytes(4 * M) + b'y' * M, 'compact keeps contents')
create('z.qcow2', 'qcow2', 12 * M, '-b', 'a.raw', '-F', 'raw')
qemu_io('z.qcow2', 'qcow2', 'write -P 0 1M 4M', 'write -P 5 6M 1M')
must('qemu-img', 'convert', '-O', 'raw', 'z.qcow2', 'z2.raw')
expect(0, '4 MiB of zeros', 'compact', '-f', 'qcow2', 'z.qcow2')
ok(theirs('compare', 'z.qcow2', 'z2.raw').returncode == 0 and theirs('check', 'z.qcow2').returncode == 0, 'compact of qcow2')

# ---- refusals ----

expect(125, 'belongs to what is copied', 'convert', 'a.raw', 'a.raw')
os.symlink('a.raw', 'link.raw')
expect(125, 'belongs to what is copied', 'convert', 'a.raw', 'link.raw')
expect(125, 'belongs to what is copied', 'convert', '-f', 'qcow2', 'over.qcow2', 'a.raw')
expect(125, 'cannot be its own', 'convert', '-B', 'c.raw', '-F', 'raw', '-O', 'qcow2', 'a.raw', 'c.raw')
expect(125, 'format \'nonsense\' is not known', 'convert', '-O', 'nonsense', 'a.raw', 'n.raw')
expect(2, 'did you mean `doppel image convert`', 'convrt')
expect(2, 'no verb')
for line in helps.split('Verbs of images')[1].split('Addresses that')[0].splitlines()[1:]:
    if line.strip():
        expect(0, 'Examples:', line.split()[0], '--help')
ok(not os.path.exists('n.raw') and not os.path.exists('n.raw.part'), 'a refused copy leaves nothing')

# Somebody writes c.raw: no verb that writes it, no verb that reads it, but with -U.
holder = subprocess.Popen(['qemu-io', '-f', 'raw', 'c.raw'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
holder.stdin.write('write 0 4k\n')
holder.stdin.flush()
holder.stdout.readline()
for command in (('convert', 'a.raw', 'c.raw'), ('convert', 'c.raw', 'd.raw'), ('resize', 'c.raw', '+1M'), ('compact', 'c.raw'),
                ('compare', '-f', 'raw', 'c.raw', 'a.raw'), ('create', 'c.raw', '1M')):
    expect(125, 'in use', *command)
expect(0, '', 'info', '-U', 'c.raw')
expect(0, '', 'convert', '-q', '-U', '-f', 'raw', 'c.raw', 'd.raw')
holder.stdin.close()
holder.wait()
ok(os.stat('c.raw').st_size == 7 * M, 'a locked image is as it was')

# ---- interrupted, and gone on with ----

with open('big.raw', 'wb') as f:
    block = random.Random(9).randbytes(M)
    for n in range(300):
        f.write(n.to_bytes(8, 'big') + block[8:])
stamp = os.stat('big.raw')


def interrupt(*words, target):
    """SIGINT when 16 MiB are there: True if it was in time."""
    for _ in range(5):
        p = subprocess.Popen([doppel, 'image', *words], stderr=subprocess.PIPE, text=True)
        while p.poll() is None:
            try:
                if os.stat(target + '.part').st_blocks * 512 > 16 * M:
                    p.send_signal(signal.SIGINT)
                    break
            except FileNotFoundError:
                pass
            time.sleep(0.001)
        text = p.stderr.read()
        if p.wait() == 130:
            ok('--resume' in text and text.count('\n') == 1, f'interrupted: one line that says how to go on, not {text}')
            return True
    return False


for format, target in (('raw', 'big2.raw'), ('qcow2', 'big2.qcow2')):
    with open(target, 'w') as f:
        f.write('old')
    if not interrupt('convert', '-q', '-O', format, 'big.raw', target, target=target):
        skip('this host copies too fast to be interrupted')
        continue
    ok(open(target).read() == 'old' and os.path.exists(target + '.part.json'), 'interrupted: the old target is there, and the state')
    done = json.load(open(target + '.part.json'))['done']
    ok(0 < done < 300 * M and done % (2 * M) == 0, f'interrupted: {done} bytes are done')
    ok(theirs('check', '-f', format, target + '.part').returncode in (0, 63), 'interrupted: the part is a valid image')
    os.utime('big.raw')
    expect(125, 'begun with another modified', 'convert', '-q', '--resume', '-O', format, 'big.raw', target)
    os.utime('big.raw', ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    expect(125, 'begun with another options', 'convert', '-q', '--resume', '-S', '64K', '-O', format, 'big.raw', target)
    expect(0, '', 'convert', '-q', '--resume', '-O', format, 'big.raw', target)
    ok(theirs('compare', '-f', 'raw', '-F', format, 'big.raw', target).returncode == 0, 'resumed: the same')
    ok(not os.path.exists(target + '.part') and not os.path.exists(target + '.part.json'), 'resumed: nothing is left')
    os.unlink(target)
expect(0, '', 'convert', '-q', '--resume', 'a.raw', 'fresh.raw')
for verb in (['compare', 'big.raw', 'big.raw'],):
    p = subprocess.Popen([doppel, 'image', *verb], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    p.send_signal(signal.SIGTERM)
    p.wait()
    ok(p.returncode in (0, 130, -signal.SIGTERM), f'{verb} interrupted: {p.returncode}')

# ---- a full disk, a read-only one ----

os.mkdir('small')
if run('mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', 'small').returncode:
    skip('no tmpfs can be mounted: no test of a full disk')
else:
    try:
        fill('part.raw', 12 * M, 7)
        with open('part.raw', 'r+b') as f:
            f.write(random.Random(4).randbytes(12 * M))
        for format in ('raw', 'qcow2'):
            target = f'small/f.{format}'
            r = expect(125, 'No space left', 'convert', '-q', '-O', format, 'part.raw', target)
            ok(not os.path.exists(target), 'full disk: no target')
            resumable = '--resume' in r.stderr
            ok(resumable == os.path.exists(target + '.part') == os.path.exists(target + '.part.json'), 'full disk: part and state belong together')
            must('mount', '-o', 'remount,size=40m', 'small')
            ok(resumable or format != 'raw', 'full disk: a raw copy can be gone on with', r)
            expect(0, '', 'convert', '-q', '--resume', '-O', format, 'part.raw', target)
            ok(theirs('compare', '-f', 'raw', '-F', format, 'part.raw', target).returncode == 0, 'full disk: resumed, the same')
            os.unlink(target)
            must('mount', '-o', 'remount,size=8m', 'small')
        shutil.copy('c.raw', 'small/ro.raw')
        must('mount', '-o', 'remount,ro', 'small')
        for command in (('convert', 'a.raw', 'small/new.raw'), ('convert', 'a.raw', 'small/ro.raw'), ('resize', 'small/ro.raw', '+1M'),
                        ('create', 'small/new.raw', '1M'), ('compact', 'small/ro.raw')):
            expect(125, 'Read-only file system', *command)
        expect(0, '', 'info', 'small/ro.raw')
    finally:
        run('umount', 'small')

for why, count in skipped.items():
    print(f'skipped {count}: {why}')
print(f'{passed} passed, {failed} failed, in {len(sources)} images')
if failed:
    print('left in', folder)
else:
    os.chdir('/')
    shutil.rmtree(folder)
sys.exit(1 if failed else 77 if skipped else 0)
