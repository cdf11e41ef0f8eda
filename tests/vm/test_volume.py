#!/usr/bin/env python3
"""test_volume.py DOPPEL IMAGES - `doppel volume`: pools, clones, snapshot trees, volumes in use, commands killed in their midst.

IMAGES DIR writes kernels there (tests/vm). What this host cannot do (mount XFS for clones that share blocks) is skipped and said: the
whole then ends with status 77, unless something failed.
"""
import json, os, random, shutil, signal, subprocess, sys, tempfile, time

doppel, make_images = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
if not shutil.which('qemu-img') or not shutil.which('qemu-io'):
    print('needs qemu-img and qemu-io (package qemu-utils)')
    sys.exit(77)
folder = tempfile.mkdtemp(prefix='doppel-volume-')
os.chdir(folder)
os.environ.update(LC_ALL='C', XDG_DATA_HOME=folder + '/data', XDG_RUNTIME_DIR=folder)
passed, failed, skipped = 0, 0, []
K, M = 1024, 1 << 20


def run(*words, **more):
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, **more)


def ok(condition, text):
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        print('FAIL:', text)
    return condition


def vol(*words, status=0, says=''):
    r = run(doppel, 'volume', *words)
    ok(r.returncode == status and says in r.stdout + r.stderr, f'volume {" ".join(words)}: not {status} with "{says}": '
       f'{r.returncode} {r.stdout[-300:]} {r.stderr[-300:]}')
    if status in (2, 125):
        ok(r.stderr.count('\n') == 1, f'volume {" ".join(words)}: not one line: {r.stderr}')
    return r.stdout


def info(name):
    return json.loads(vol('inspect', '--json', name))


def path(name):
    return info(name)['path']


def write(name, pattern, offset, size):
    i = info(name)
    r = run('qemu-io', '-f', i['format'], '-c', f'write -P {pattern} {offset} {size}', i['path'])
    ok(r.returncode == 0, f'{name} cannot be written: {r.stderr}')


def content(name, out='content.raw'):
    vol('export', '-q', name, out)
    with open(out, 'rb') as f:
        return f.read()


def check(name):
    i = info(name)
    if i['format'] == 'qcow2':
        r = run('qemu-img', 'check', '-q', '-f', 'qcow2', i['path'])
        ok(r.returncode in (0, 3), f'{name}: qemu-img check: {r.stdout} {r.stderr}')


def names(*more):
    return sorted(v['name'] for v in json.loads(vol('ls', '--json', *more)))


# ---- pools ----

vol('ls', says='')
ok(names() == [], 'no volumes at first')
vol('pool', 'create', 'work')
vol('pool', 'create', 'work', status=125, says='already')
vol('pool', 'create', '../x', status=125, says='no name for a pool')
os.mkdir('elsewhere')
vol('pool', 'create', 'other', '--dir', 'elsewhere')
vol('create', '--size', '1M', 'other/a')
vol('pool', 'rm', 'other', status=125, says='--forget')
vol('pool', 'rm', '--forget', 'other')
vol('ls', 'other', status=125, says='there is no pool')
vol('pool', 'create', 'again', '--dir', 'elsewhere')
ok(names('again') == ['a'], 'a folder that is a pool is taken as it is')
vol('rm', 'again/a')
vol('pool', 'rm', 'again')
ok(os.listdir('elsewhere') == [], 'an empty pool leaves nothing')
os.mkdir('full')
open('full/x', 'w').close()
vol('pool', 'create', 'full', '--dir', 'full', status=125, says='other files')
vol('pool', 'rm', '--forget', 'work', status=125, says='its folder in')
pools = json.loads(vol('pool', 'ls', '--json'))
ok([p['name'] for p in pools] == ['work'], f'pools: {pools}')
ok(json.loads(vol('pool', 'inspect', '--json', 'work'))['volumes'] == 0, 'inspect a pool')

# ---- making ----

random.seed(1)
source = bytearray(8 * M)
for n in range(0, 8 * M, M):
    if n % (2 * M) == 0:
        source[n:n + 300 * K] = random.randbytes(300 * K)
with open('source.raw', 'wb') as f:
    f.write(source)
run('qemu-img', 'convert', '-O', 'qcow2', 'source.raw', 'source.qcow2')
vol('create', 'x', status=2, says='how large')
vol('create', '--size', '1G', 'thin')
ok(info('thin')['used'] < M and info('thin')['size'] == 1 << 30, 'thin')
vol('create', '--size', '1G', '--format', 'raw', 'thinraw')
ok(info('thinraw')['used'] < M, 'thin, raw')
vol('create', '--size', '1G', 'thin', status=125, says='already')
vol('create', '--size', '1G', 'a@b', status=125, says='names a snapshot')
vol('create', '--size', '1G', 'nopool/a', status=125, says='there is no pool')
vol('create', '-q', '--from', 'source.qcow2', 'base')
vol('create', '-q', '--from', 'source.raw', '--format', 'raw', '--size', '9M', 'baseraw')
ok(content('base') == source, 'import')
ok(content('baseraw') == source + bytes(M), 'import to raw, larger')
ok(run('qemu-img', 'compare', '-f', 'qcow2', path('base'), 'source.raw').returncode == 0, 'qemu-img compare')
vol('rename', 'thin', 'thinner')
vol('inspect', 'thin', status=125, says='no volume')
vol('rename', 'thinner', 'base', status=125, says='already')
vol('resize', 'thinner', '+1G', says='now 2 GiB')
vol('resize', 'thinner', '1G', status=125, says='--shrink')
vol('resize', '--shrink', 'thinner', '1G', says='now 1 GiB')
vol('compact', 'thinner')
vol('rm', 'thinner')
vol('rm', 'thinraw')
ok(run(doppel, 'image', 'info', '--json', 'volume:base').returncode == 0, 'image info volume:')
ok(run(doppel, 'image', 'compare', '-F', 'raw', 'volume:base', 'source.raw').returncode == 0, 'image compare volume:')
ok(run(doppel, 'image', 'resize', 'volume:default/base', '8M').returncode == 0, 'image resize volume:')
ok('volume create --from' in run(doppel, 'image', 'convert', 'source.raw', 'volume:base').stderr, 'image convert to volume:')
ok('no volume' in run(doppel, 'image', 'info', 'volume:nope').stderr, 'image info of no volume')
ok('what a volume stands on' in run(doppel, 'image', 'commit', 'volume:base').stderr, 'image commit of a volume')

# ---- clones by backing files ----

for base in ('base', 'baseraw'):
    whole = content(base)
    vol('clone', '--backing', base, 'web', says='stands on')
    ok(info(base)['protected'] and not os.stat(path(base)).st_mode & 0o222, f'{base} is protected')
    ok(content('web') == whole, 'a clone has the same')
    write('web', 7, M + 4096, 100 * K)
    changed = whole[:M + 4096] + bytes([7]) * 100 * K + whole[M + 4096 + 100 * K:]
    ok(content('web') == changed and content(base) == whole, 'a clone is its own')
    vol('rm', base, status=125, says='web stands on it')
    vol('resize', base, '20M', status=125, says='web stands on it')
    ok(run(doppel, 'image', 'compact', 'volume:' + base).returncode == 125, 'image compact of what is protected')
    r = run(doppel, 'run', '--engine', 'null', '-k', 'none', '--disk', 'volume=' + base)
    ok(r.returncode in (2, 125) and 'web stands on' in r.stderr, f'run on what is protected: {r.stderr}')
    vol('clone', '--full', 'web', 'copy', '-q')
    vol('clone', '--full', '-q', 'web', 'work/copy')
    ok(content('copy') == changed and content('work/copy') == changed, 'a copy in full')
    vol('clone', 'web', 'work/no', status=125, says='needs --full')
    vol('clone', 'web', 'web', status=125, says='already')
    vol('snapshot', '-q', base, 'kept')
    ok(not info(base)['protected'], 'after a snapshot the base may be written')
    write(base, 9, 0, 64 * K)
    ok(content('web') == changed, 'and the clone does not see that')
    vol('rm', '--snapshots', base, status=125, says='web stands on it')
    vol('revert', base, 'kept')
    ok(content(base) == whole, 'reverted')
    vol('rm', 'web')
    vol('rm', f'{base}@kept')
    ok(info(base)['format'] == ('raw' if base == 'baseraw' else 'qcow2'), 'the empty file went, not the full one')
    ok(os.stat(path(base)).st_mode & 0o200, 'no longer protected')
    ok(content(base) == whole, 'merged')
    check(base)
    vol('rm', 'copy')
    vol('rm', 'work/copy')

# ---- a tree against a model ----


def tree(seed, steps):
    r = random.Random(seed)
    size = 2 * M
    vol('create', '--size', str(size), '--format', r.choice(['qcow2', 'raw']), 't')
    state, kept = {'t': bytes(size)}, {}
    for step in range(steps):
        name = r.choice(sorted(state))
        kind = r.choice(['write', 'write', 'snapshot', 'snapshot', 'revert', 'rm', 'rm', 'clone'])
        snapshots = sorted(s for s in kept if s.startswith(name + '@'))
        if kind == 'write' and not info(name)['protected']:
            offset, n, pattern = r.randrange(0, size // 512 - 600) * 512, r.randint(1, 600) * 512, r.randrange(256)
            write(name, pattern, offset, n)
            state[name] = state[name][:offset] + bytes([pattern]) * n + state[name][offset + n:]
        elif kind == 'snapshot' and len(kept) < 8:
            vol('snapshot', '-q', name, f'n{step}')
            kept[f'{name}@n{step}'] = state[name]
        elif kind == 'revert' and snapshots and not info(name)['protected']:
            s = r.choice(snapshots)
            vol('revert', name, s.split('@')[1])
            state[name] = kept[s]
        elif kind == 'rm' and snapshots:
            s = r.choice(snapshots)
            children = info(s)['children']
            vol('rm', s, status=125 if len(children) > 1 else 0, says='others stand on it' if len(children) > 1 else '')
            if len(children) < 2:
                del kept[s]
        elif kind == 'clone' and len(state) < 4:
            origin = r.choice(snapshots + [name])
            vol('clone', '--backing', origin, f'c{step}', says='stands on')
            state[f'c{step}'] = kept.get(origin, state[name])
        for n in r.sample(sorted(state) + sorted(kept), 1):
            ok(content(n) == kept.get(n, state.get(n)), f'seed {seed} step {step}: {n} after {kind}')
    for n in sorted(state) + sorted(kept):
        ok(content(n) == kept.get(n, state.get(n)), f'seed {seed}: {n} at the end')
        check(n)
    ok(names() == sorted(list(state) + list(kept) + ['base', 'baseraw']), f'seed {seed}: names')
    ok(vol('ls', '--tree').count('\n') == len(state) + len(kept) + 4, 'ls --tree has all')
    files = {f for f in os.listdir('data/doppel/pools/default') if f[0].isdigit()}
    ok(len(files) == len(state) + len(kept) + 2, f'seed {seed}: files that nothing needs')
    while True:
        left = [v for v in json.loads(vol('ls', '--json')) if not v['name'].startswith('base')]
        if not left:
            break
        for v in left:
            i = run(doppel, 'volume', 'inspect', '--json', v['name'])
            if i.returncode == 0 and len(json.loads(i.stdout)['children']) <= (1 if v['snapshot'] else 0):
                run(doppel, 'volume', 'rm', v['name'])


for seed in range(3):
    tree(seed, 40)

# ---- names of snapshots ----

vol('create', '--size', '1M', 'v')
ok(vol('snapshot', 'v') == 'v@s1\n' and vol('snapshot', 'v') == 'v@s2\n', 'names s1, s2')
vol('snapshot', 'v', 's1', status=125, says='already')
vol('snapshot', 'v@s1', 'x', status=125, says='is a snapshot')
vol('rename', 'v@s1', 'first')
vol('rename', 'v', 'w')
ok(names() == ['base', 'baseraw', 'w', 'w@first', 'w@s2'], 'renamed with its snapshots')
vol('resize', 'w@first', '2M', status=125, says='only can be read')
vol('revert', 'w', 'nope', status=125, says='no snapshot')
vol('rm', 'w', status=125, says='has 2 snapshots')
vol('rm', '--snapshots', 'w')

# ---- in use ----

kernels = folder + '/kernels'
os.mkdir(kernels)
subprocess.run([make_images, kernels], check=True)
vol('create', '--size', '4M', 'disk')


def vm(*disk):
    """A machine without a processor: it holds its disks until it is ended."""
    words = [doppel, 'run', '--engine', 'null', '-k', kernels + '/multiboot', '-s', 'none', '-t', '60']
    return subprocess.Popen(words + [w for d in disk for w in ('--disk', d)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(condition):
    for _ in range(200):
        if condition():
            return True
        time.sleep(0.05)
    return False


first = vm('volume=disk,serial=abc')
ok(wait_for(lambda: info('disk')['in-use']), 'a VM uses its volume')
second = vm('volume=disk')
_, err = second.communicate(timeout=60)
ok(second.returncode == 125 and 'in use' in err, f'two VMs, one volume: {second.returncode} {err}')
third = vm('volume=disk,ro')
_, err = third.communicate(timeout=60)
ok(third.returncode == 125 and 'in use' in err, f'nor to read: {third.returncode} {err}')
for words in (['snapshot', 'disk'], ['clone', 'disk', 'x'], ['clone', '--full', 'disk', 'x'], ['rm', 'disk'], ['resize', 'disk', '8M']):
    vol(*words, status=125, says='in use')
vol('rename', 'disk', 'renamed')
first.send_signal(signal.SIGTERM)
first.wait(timeout=60)
vol('snapshot', '-q', 'renamed', 's')
readers = [vm('volume=renamed@s,ro'), vm('volume=default/renamed@s,ro')]
ok(wait_for(lambda: all(p.poll() is None for p in readers) and info('renamed@s')['in-use']), 'two VMs read one snapshot')
time.sleep(0.5)
ok(all(p.poll() is None for p in readers), 'both go on')
vol('rm', 'renamed@s', status=125, says='in use')
for p in readers:
    p.terminate()
    p.wait(timeout=60)
r = run(doppel, 'run', '--engine', 'null', '-k', kernels + '/multiboot', '--disk', 'volume=renamed@s')
ok('is a snapshot' in r.stderr, f'a snapshot is not written: {r.stderr}')
r = run(doppel, 'run', '--engine', 'null', '-k', kernels + '/multiboot', '--disk', 'volume=renamed,format=raw')
ok('leave format= away' in r.stderr, f'format=: {r.stderr}')
vol('rm', '--snapshots', 'renamed')

# ---- killed at any moment ----

where = 'data/doppel/pools/default'
vol('create', '--size', '4M', 'k')
write('k', 1, 0, 2 * M)
model, r = {'k': content('k')}, random.Random(7)
killed = 0
for n in range(60):
    before = set(names())
    snapshots = sorted(b for b in before if '@' in b)
    leaf = [s for s in snapshots if len(info(s)['children']) < 2]
    words = r.choice([['snapshot', '-q', 'k', f'k{n}']] + [['rm', s] for s in leaf[:2]] + [['create', '-q', '--from', 'source.raw', f'i{n}']] +
                     [['revert', 'k', s[2:]] for s in snapshots[:1]] + [['rm', b] for b in before if b[0] == 'i'][:1])
    p = subprocess.Popen([doppel, 'volume', *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(r.random() * 0.02)
    p.kill()
    p.communicate()
    killed += p.returncode == -9
    after = {v['name']: v for v in json.loads(vol('ls', '--json'))}
    if words[0] == 'snapshot' and f'k@k{n}' in after:
        model[f'k@k{n}'] = model['k']
    if words[0] == 'revert':
        now = content('k')
        ok(now in (model['k'], model['k@' + words[2]]), f'{n}: {words}: neither the one nor the other')
        model['k'] = now
    if words[0] == 'rm' and words[1] not in after:
        model.pop(words[1], None)
    for name, v in after.items():
        if name.startswith('base'):
            continue
        if v.get('half-removed'):
            vol('clone', name, 'nothing', status=125, says='half removed')
            vol('rm', name)
            model.pop(name)
            continue
        want = model.get(name, bytes(source))
        ok(content(name) == want, f'{n}: {words}: {name} is not what it was')
        check(name)
    if n % 5 == 0 and not info('k')['protected']:
        write('k', n + 2, r.randrange(1000) * K, 64 * K)
        model['k'] = content('k')
vol('create', '--size', '1M', 'last') # removes what is left over
listed = json.loads(vol('ls', '--json'))
files = {os.path.realpath(os.path.join(where, f)) for f in os.listdir(where) if f[0].isdigit()}
ok(files == {os.path.realpath(v['path']) for v in listed}, 'leftovers are removed')
print(f'{killed} of 60 commands were killed')

# ---- a damaged pool ----

with open(where + '/pool.json') as f:
    text = f.read()
with open(where + '/pool.json', 'w') as f:
    f.write(text[:len(text) // 2])
vol('ls', status=125, says='damaged')
vol('create', '--size', '1M', 'y', status=125, says='damaged')
os.unlink(where + '/pool.json')
vol('create', '--size', '1M', 'y', status=125, says='missing')
ok(len([f for f in os.listdir(where) if f[0].isdigit()]) == len(listed), 'no image is lost with pool.json')
with open(where + '/pool.json', 'w') as f:
    f.write(text)
ok(names() == sorted(v['name'] for v in listed), 'mended')

# ---- clones that share blocks ----

mounted = False
if os.geteuid() == 0 and shutil.which('mkfs.xfs'):
    run('truncate', '-s', '400M', 'xfs.img')
    os.mkdir('xfs')
    mounted = run('mkfs.xfs', '-q', 'xfs.img').returncode == 0 and run('mount', '-o', 'loop', 'xfs.img', 'xfs').returncode == 0
if not mounted:
    skipped.append('clones that share blocks need root, loop devices and mkfs.xfs (package xfsprogs)')
    vol('clone', '--reflink', 'base', 'shared', status=125, says='cannot share blocks')
else:
    try:
        vol('pool', 'create', 'xfs', '--dir', 'xfs/pool')
        for f in ('raw', 'qcow2'):
            vol('create', '-q', '--from', 'source.raw', '--format', f, 'xfs/' + f)
            vol('clone', 'xfs/' + f, f + '2', says='shares blocks')
            ok(not info('xfs/' + f)['protected'] and info(f'xfs/{f}2')['format'] == f, 'the origin stays free')
            write('xfs/' + f, 3, 0, M)
            ok(content(f'xfs/{f}2') == source, 'a clone does not see its origin change')
            vol('snapshot', '-q', f'xfs/{f}2', 's')
            vol('clone', f'xfs/{f}2@s', f + '3', says='shares blocks')
            vol('clone', f'xfs/{f}2', f + '4', says='shares blocks')
            ok(content(f'xfs/{f}4') == source and info(f'xfs/{f}4')['parent'] == f'{f}2@s', 'a clone of an overlay stands where that does')
            vol('rm', '--snapshots', f'xfs/{f}2', status=125, says=f'{f}4 stands on it')
            ok(content(f'xfs/{f}3') == source, 'a clone of a snapshot')
        vol('clone', '--reflink', 'base', 'shared', status=125 if os.stat('.').st_dev != os.stat('xfs').st_dev else 0)
    finally:
        run('umount', 'xfs')

print(f'{passed} passed, {failed} failed')
for s in skipped:
    print('skipped:', s)
if not failed:
    shutil.rmtree(folder)
sys.exit(1 if failed else 77 if skipped else 0)
