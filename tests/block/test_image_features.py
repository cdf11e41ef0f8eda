#!/usr/bin/env python3
"""test_image_features.py DOPPEL - data files, bitmaps and secrets of qcow2 images by `doppel image`, beside qemu-img."""
import json, os, shutil, subprocess, sys, tempfile

doppel = os.path.abspath(sys.argv[1])
if not shutil.which('qemu-img') or not shutil.which('qemu-io'):
    print('needs qemu-img and qemu-io (package qemu-utils)')
    sys.exit(77)
os.environ['LC_ALL'] = 'C'
folder = tempfile.mkdtemp(prefix='doppel-features-')
os.chdir(folder)
failed = 0


def run(*words):
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


def expect(status, words, *command):
    """doppel image COMMAND: its status, and words in what it says."""
    global failed
    r = run(doppel, 'image', *command)
    if r.returncode != status or words not in r.stdout + r.stderr or (status in (2, 125) and r.stderr.count('\n') != 1):
        failed += 1
        print(f'FAIL: {" ".join(command)}: status {r.returncode}, not {status} with "{words}": {r.stdout.strip()} {r.stderr.strip()}')
    return r.stdout


def must(*words):
    r = run(*words)
    if r.returncode:
        sys.exit(f'{words}: {r.stdout} {r.stderr}')
    return r.stdout


def equal(a, b, what):
    global failed
    if a != b:
        failed += 1
        print(f'FAIL: {what}: {a}, not {b}')


def data(name):
    return json.loads(must('qemu-img', 'info', '--output=json', name))['format-specific']['data']


# ---- data files ----

expect(0, '', 'create', '-f', 'qcow2', '-o', 'data_file=d.raw,data_file_raw=on', 'a.qcow2', '4M')
must('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 1M 64k', 'a.qcow2')
equal(json.loads(expect(0, '', 'info', '--json', 'a.qcow2'))['format-specific']['data'], data('a.qcow2'), 'info')
expect(0, 'd.raw', 'map', 'a.qcow2')
expect(0, '', 'convert', '-O', 'raw', 'a.qcow2', 'a.raw')
must('cmp', 'a.raw', 'd.raw')
expect(0, '', 'resize', '-f', 'qcow2', 'a.qcow2', '6M')
equal(os.path.getsize('d.raw'), 6 << 20, 'size of the data file')
expect(0, '', 'check', 'a.qcow2')
os.rename('d.raw', 'e.raw')
expect(0, 'd.raw', 'info', 'a.qcow2')
expect(125, 'data file', 'convert', '-O', 'raw', 'a.qcow2', 'b.raw')
os.rename('e.raw', 'd.raw')
expect(125, '', 'snapshot', '-f', 'qcow2', '-c', 'one', 'a.qcow2')
expect(125, 'data_file', 'create', '-f', 'qcow2', '-o', 'data_file_raw=on', 'b.qcow2', '4M')

# ---- bitmaps ----

expect(0, '', 'create', '-f', 'qcow2', 'b.qcow2', '10M')
expect(0, '', 'bitmap', '-f', 'qcow2', '--add', 'b.qcow2', 'one')
expect(0, '', 'bitmap', '-f', 'qcow2', '--add', '--disable', '-g', '4k', 'b.qcow2', 'two')
must('qemu-io', '-f', 'qcow2', '-c', 'write 1M 1M', 'b.qcow2')
expect(0, '', 'bitmap', '-f', 'qcow2', '--merge', 'one', 'b.qcow2', 'two')
list_ = json.loads(expect(0, '', 'bitmap', '--json', 'b.qcow2'))
equal([(b['name'], b['state'], b['granularity'], b['dirty']) for b in list_],
      [('one', 'enabled', 65536, 1 << 20), ('two', 'disabled', 4096, 1 << 20)], 'bitmap --json')
equal(json.loads(expect(0, '', 'info', '--json', 'b.qcow2'))['format-specific']['data'], data('b.qcow2'), 'info')
must('qemu-img', 'check', 'b.qcow2')
expect(0, '', 'create', '-f', 'qcow2', 'c.qcow2', '10M')
expect(0, '', 'bitmap', '-f', 'qcow2', '--add', '--merge', 'two', '-b', 'b.qcow2', '-F', 'qcow2', 'c.qcow2', 'copy')
expect(0, '1 MiB', 'bitmap', 'c.qcow2')
expect(0, '', 'bitmap', '-f', 'qcow2', '--clear', '--disable', 'c.qcow2', 'copy')
expect(0, 'disabled', 'bitmap', 'c.qcow2')
expect(0, '', 'bitmap', '-f', 'qcow2', '--remove', 'b.qcow2', 'one')
equal([b['name'] for b in data('b.qcow2')['bitmaps']], ['two'], 'after --remove')
expect(125, 'no bitmap', 'bitmap', '-f', 'qcow2', '--remove', 'b.qcow2', 'one')
expect(125, 'already', 'bitmap', '-f', 'qcow2', '--add', 'b.qcow2', 'two')
expect(125, 'granularity', 'bitmap', '-f', 'qcow2', '--add', '-g', '3k', 'b.qcow2', 'three')
expect(125, '-f qcow2', 'bitmap', '--add', 'b.qcow2', 'three')
expect(125, 'raw images', 'bitmap', '-f', 'raw', '--add', 'a.raw', 'one')
expect(2, 'its name', 'bitmap', '-f', 'qcow2', '--add', 'b.qcow2')
expect(2, 'to be done', 'bitmap', 'b.qcow2', 'two')
must('qemu-img', 'check', 'b.qcow2')
expect(0, '', 'check', 'b.qcow2')

# ---- secrets ----

with open('secret', 'w') as f:
    f.write('a pass phrase\n')
with open('other', 'w') as f:
    f.write('something else')
open('nothing', 'w').close()
for format, options in (('qcow2', 'encrypt.format=luks,encrypt.iter-time=20'), ('luks', 'iter-time=20')):
    name = f's.{format}'
    expect(125, '--secret-file', 'create', '-f', format, '-o', options, name, '4M')
    expect(125, 'first line', 'create', '-f', format, '-o', options, '--secret-file', 'nothing', name, '4M')
    expect(0, '', 'create', '-f', format, '-o', options, '--secret-file', 'secret', name, '4M')
    expect(0, 'encrypted: yes', 'info', name)
    a, b = (json.loads(x)['format-specific']['data'] for x in (expect(0, '', 'info', '--json', name), must('qemu-img', 'info', '--output=json', name)))
    for x in (a, b):
        x.pop('detached-header', None)
    equal(a, b, f'info {name}')
    expect(125, '--secret-file', 'convert', '-f', format, '-O', 'raw', name, 'o.raw')
    expect(125, 'not its passphrase', 'convert', '-f', format, '--secret-file', 'other', '-O', 'raw', name, 'o.raw')
    expect(0, '', 'convert', '-f', 'raw', '-O', format, '-o', options, '--secret-file', 'secret', 'a.raw', f't.{format}')
    expect(0, '', 'compare', '-f', 'raw', '-F', format, '--secret-file', 'secret', 'a.raw', f't.{format}')
    expect(0, '', 'resize', '-f', format, '--secret-file', 'secret', f't.{format}', '8M')
    expect(0, '', 'convert', '-f', format, '--secret-file', 'secret', '-O', 'raw', f't.{format}', 'o.raw')
    with open('a.raw', 'rb') as x, open('o.raw', 'rb') as y:
        x = x.read()
        equal(x == y.read(len(x)), True, f'{format} there and back')
expect(0, '', 'check', '-f', 'qcow2', 't.qcow2')
for options, words in (('', 'secret=FILE'), (',secret=other', 'not its passphrase'), (',secret=missing', 'cannot be opened')):
    r = run(doppel, 'run', '--kernel', 'a.raw', '--disk', f't.qcow2,format=qcow2{options}')
    equal((r.returncode, words in r.stderr, r.stderr.count('\n')), (125, True, 1), f'run --disk t.qcow2{options}: {r.stderr}')

os.chdir('/')
shutil.rmtree(folder)
sys.exit(1 if failed else 0)
