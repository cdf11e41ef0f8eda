#!/usr/bin/env python3
"""test_dedup.py DOPPEL - `image compact --dedup`: equal clusters become one, and nothing else changes; killed in its midst; raw on XFS."""
import json, os, random, shutil, subprocess, sys, tempfile, time

doppel = os.path.abspath(sys.argv[1])
if not shutil.which('qemu-img') or not shutil.which('qemu-io'):
    print('needs qemu-img and qemu-io (package qemu-utils)')
    sys.exit(77)
folder = tempfile.mkdtemp(prefix='doppel-dedup-')
os.chdir(folder)
passed, failed, skipped = 0, 0, []
M = 1 << 20


def run(*words):
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


def ok(condition, text):
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        print('FAIL:', text)


def must(*words):
    r = run(*words)
    if r.returncode:
        sys.exit(f'{words}: {r.stdout} {r.stderr}')
    return r


def fill(name, size, unit, seed):
    """Of few different units, in any order, with holes."""
    r = random.Random(seed)
    units = [r.randbytes(unit) for _ in range(6)] + [bytes(unit)]
    with open(name, 'wb') as f:
        for at in range(0, size - unit, unit):
            f.seek(at)
            f.write(r.choice(units))
        f.truncate(size)


def used(name):
    return os.stat(name).st_blocks * 512


def check(name, leaks=False):
    r = run('qemu-img', 'check', '-f', 'qcow2', name)
    ok(r.returncode in ((0, 3) if leaks else (0,)), f'{name}: qemu-img check: {r.stdout} {r.stderr}')


def same(a, b, text):
    r = run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', a, b)
    ok(r.returncode == 0, f'{text}: {r.stdout} {r.stderr}')


for seed, (cluster, more) in enumerate([(65536, []), (4096, []), (512, []), (65536, ['refcount_bits=1']), (65536, ['refcount_bits=2']),
                                        (65536, ['extended_l2=on']), (2 * M, []), (65536, ['compat=0.10'])]):
    option = ','.join([f'cluster_size={cluster}'] + more)
    name, size = f'{seed}.qcow2', 24 * M if cluster > M else 6 * M if cluster > 4096 else M
    fill('s.raw', size, cluster, seed)
    must('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', '-o', option, 's.raw', name)
    before = used(name)
    if seed == 0: # what a snapshot has, too, stays where it is
        must('qemu-img', 'snapshot', '-c', 'one', name)
        must('qemu-io', '-f', 'qcow2', '-c', 'write -P 5 0 1M', name)
        must('qemu-io', '-f', 'raw', '-c', 'write -P 5 0 1M', 's.raw')
    r = run(doppel, 'image', 'compact', '-f', 'qcow2', '--dedup', name)
    ok(r.returncode == 0, f'{option}: {r.stderr}')
    check(name)
    same(name, 's.raw', option)
    if cluster > 512 and not more or more and 'bits=2' in more[0] or more and 'extended' in more[0]:
        ok(used(name) < before / 2 + 4 * cluster or seed == 0, f'{option}: {before} became {used(name)}')
    ok('0 B share' in r.stdout if 'refcount_bits=1' in more else '0 B share' not in r.stdout, f'{option}: {r.stdout}')
    again = run(doppel, 'image', 'compact', '-f', 'qcow2', '--dedup', name)
    if cluster < 2 * M and seed and 'bits' not in option:
        ok('0 B share' in again.stdout, f'{option}: again: {again.stdout}')
    # Writes come between those that share: by qemu, and by doppel, which copies to a thing that is there.
    r = random.Random(seed)
    for n in range(20):
        at, length, p = r.randrange(size // 512 - 200) * 512, r.randint(1, 200) * 512, r.randrange(256)
        must('qemu-io', '-f', 'qcow2', '-c', f'write -P {p} {at} {length}', name)
        must('qemu-io', '-f', 'raw', '-c', f'write -P {p} {at} {length}', 's.raw')
    same(name, 's.raw', f'{option}: written by qemu')
    must(doppel, 'image', 'compact', '-f', 'qcow2', '--dedup', name)
    fill('t.raw', size, cluster, seed + 100)
    must(doppel, 'image', 'convert', '-n', '-f', 'raw', '-O', 'qcow2', 't.raw', name)
    same(name, 't.raw', f'{option}: written by doppel')
    check(name) # no flag is behind: both were closed
    if seed == 0:
        must('qemu-img', 'snapshot', '-a', 'one', name)
        fill('s.raw', size, cluster, seed)
        same(name, 's.raw', 'the snapshot')
    must(doppel, 'image', 'compact', '-f', 'qcow2', '--dedup', name)
    check(name)

# ---- killed at any moment: leaks, and flags that are behind, but the same contents ----

fill('s.raw', 24 * M, 4096, 9)
must('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', '-o', 'cluster_size=4096', 's.raw', 'whole.qcow2')
killed, r = 0, random.Random(3)
for n in range(12):
    shutil.copy('whole.qcow2', 'k.qcow2')
    p = subprocess.Popen([doppel, 'image', 'compact', '-q', '-f', 'qcow2', '--dedup', 'k.qcow2'], stdin=subprocess.DEVNULL)
    time.sleep(r.random() * 0.3)
    p.kill()
    killed += p.wait() == -9
    same('k.qcow2', 's.raw', f'killed {n}')
    c = json.loads(run('qemu-img', 'check', '-f', 'qcow2', '--output=json', 'k.qcow2').stdout or '{}')
    lines = run('qemu-img', 'check', '-f', 'qcow2', 'k.qcow2')
    bad = [l for l in (lines.stdout + lines.stderr).splitlines() if 'ERROR' in l and 'OFLAG_COPIED' not in l]
    ok(not bad, f'killed {n}: {bad[:3]}')
    must(doppel, 'image', 'compact', '-q', '-f', 'qcow2', '--dedup', 'k.qcow2')
    same('k.qcow2', 's.raw', f'killed {n}, and again')
    must(doppel, 'image', 'check', '-q', '-f', 'qcow2', '-r', 'all', 'k.qcow2')
    check('k.qcow2')
print(f'{killed} of 12 were killed')

# ---- raw: by the file system ----

fill('r.raw', 6 * M, 65536, 4)
if os.geteuid() == 0 and shutil.which('mkfs.xfs') and not run('truncate', '-s', '400M', 'x.img').returncode and not run('mkfs.xfs', '-q', 'x.img').returncode:
    os.mkdir('x')
if os.path.isdir('x') and run('mount', '-o', 'loop', 'x.img', 'x').returncode == 0:
    try:
        shutil.copy('r.raw', 'x/r.raw')
        free = os.statvfs('x').f_bfree
        r = run(doppel, 'image', 'compact', '-f', 'raw', '--dedup', 'x/r.raw')
        ok(r.returncode == 0 and '0 B share' not in r.stdout, f'raw: {r.stdout} {r.stderr}')
        ok(run('cmp', 'r.raw', 'x/r.raw').returncode == 0, 'raw: the same')
        run('sync', '-f', 'x')
        gained = (os.statvfs('x').f_bfree - free) * os.statvfs('x').f_frsize
        ok(gained > 4 * M, f'raw: gained {gained}')
    finally:
        run('umount', 'x')
else:
    skipped.append('raw files need root, loop devices and mkfs.xfs (package xfsprogs)')
r = run(doppel, 'image', 'compact', '-f', 'raw', '--dedup', 'r.raw')
ok(r.returncode == 0 or (r.returncode == 125 and 'cannot share blocks' in r.stderr and r.stderr.count('\n') == 1), f'raw elsewhere: {r.stderr}')

print(f'{passed} passed, {failed} failed')
for s in skipped:
    print('skipped:', s)
if not failed:
    shutil.rmtree(folder)
sys.exit(1 if failed else 77 if skipped else 0)
