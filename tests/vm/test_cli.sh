#!/bin/sh
# test_cli.sh DOPPEL MAKE_IMAGES SOURCE - exit codes and messages of the command, as a user meets them.
doppel=$1 make_images=$2 source=$3
dir=$(mktemp -d /tmp/doppel-cli-XXXXXX) || exit 99
trap 'chmod -R u+rwx "$dir"; rm -r "$dir"' EXIT
"$make_images" "$dir" || exit 99
failed=0 passed=0

fail() { echo "FAIL: $*"; failed=$((failed + 1)); }

# expect STATUS 'WORDS' ARGUMENT... : the status, and on stderr at most one line of doppel's with the words (empty: anything).
expect() {
    want=$1 words=$2
    shift 2
    timeout 60 "$doppel" "$@" </dev/null >"$dir/out" 2>"$dir/err"
    got=$?
    if [ $got != "$want" ]; then
        fail "doppel $*: status $got, not $want: $(cat "$dir/err")"
    elif [ -n "$words" ] && ! grep -qF -- "$words" "$dir/out" "$dir/err"; then
        fail "doppel $*: no '$words' in: $(cat "$dir/err")"
    elif { [ "$want" = 2 ] || [ "$want" = 125 ]; } && [ "$(wc -l <"$dir/err")" != 1 ]; then
        fail "doppel $*: not one line: $(cat "$dir/err")"
    else
        passed=$((passed + 1))
    fi
}
run() { want=$1 words=$2; shift 2; expect "$want" "$words" run --engine null "$@"; }

# ---- help and version ----
expect 0 "Examples:" --help
expect 0 "Examples:" -h
expect 0 "Examples:" run --help
expect 0 "Examples:" run -k x -h
expect 0 "Examples:" help run
expect 0 "Examples:" doctor --help
for verb in list stats control screenshot type key media image down config; do
    expect 0 "Examples:" $verb --help
    expect 2 "did you mean \`doppel $verb\`?" "${verb}x"
done
expect 0 "exits_helper" stats --help
expect 0 "query-status" control --help
expect 0 "doppel 0." --version
expect 0 "Engines" doctor
expect 0 '"engines"' doctor --json
"$doppel" run --help >"$dir/help"
[ "$(sed -n 3p "$dir/help")" = "Examples:" ] || fail "run --help does not begin with examples"

# ---- usage ----
expect 2 "no verb"
expect 2 'did you mean `doppel run`?' rnu
expect 2 'did you mean `doppel doctor`?' docter
expect 2 "nothing to boot" run
expect 2 "did you mean --kernel?" run --kernle x
expect 2 "did you mean --memory?" run --mem 512M
expect 2 "did you mean --kernel?" run -kernel x
expect 2 "see \`doppel run --help\`" run --xyzzy
expect 2 "needs a value" run --kernel
expect 2 "takes no value" run --no-reboot=1
expect 2 "x: No such file" run x
expect 2 "unknown option -z" run -z
run 2 "only 512 bytes" -k "$dir/multiboot" -m 512
run 2 "" -k "$dir/multiboot" -m 0
run 2 "" -k "$dir/multiboot" -m 1P
run 2 "" -k "$dir/multiboot" -m 99999999999999999999
run 2 "" -k "$dir/multiboot" -m -1
run 2 "" -k "$dir/multiboot" -m ""
run 2 "" -k "$dir/multiboot" -m 1K
run 2 "1 to 255" -k "$dir/multiboot" --cpus 0
run 2 "1 to 255" -k "$dir/multiboot" --cpus 1000
run 2 "give a number" -k "$dir/multiboot" --cpus two
run 2 "greater than 0" -k "$dir/multiboot" --timeout 0
run 2 "number of seconds" -k "$dir/multiboot" --timeout soon
run 2 "choose one of" -k "$dir/multiboot" --cpu i486
run 2 "'format=xyz' is not known" -k "$dir/multiboot" --disk x,format=xyz
run 2 "'format=file' is not known" -k "$dir/multiboot" --disk x,format=file
run 2 "cache slow is not known: writeback, none," -k "$dir/multiboot" --disk x,cache=slow
run 2 "'iops=0' is not known" -k "$dir/multiboot" --disk x,iops=0
run 2 "'bps=1Q' is not known" -k "$dir/multiboot" --disk x,bps=1Q
run 2 "queues= is of virtio disks" -k "$dir/multiboot" --disk x,queues=2,bus=scsi
run 2 "block= is of virtio and SCSI disks" -k "$dir/multiboot" --disk x,bus=ide,block=4096
run 2 "'bus=ide' is not known" -k "$dir/multiboot" --cdrom x,bus=ide
run 125 "cache=none and directsync are of raw images" -k "$dir/multiboot" --disk x,format=qcow2,cache=none
run 2 "'rw' is not known" -k "$dir/multiboot" --disk x,rw
run 2 "name is missing" -k "$dir/multiboot" --disk ,ro
expect 125 "octal number up to 777" network create lan --mode 689
expect 125 "octal number up to 777" network create lan --mode 1000
run 2 "queues=9: possible are 1 to 8" -k "$dir/multiboot" --nic user,queues=9
run 2 "is no network" -k "$dir/multiboot" --nic tap
run 2 "no network card 'ne3000': possible are virtio" -k "$dir/multiboot" --nic user,model=ne3000
run 2 "mac=1:2: give one card's address" -k "$dir/multiboot" --nic user,mac=1:2
run 2 "'speed=1' is not known" -k "$dir/multiboot" --nic user,speed=1
run 2 "give hostfwd=tcp:" -k "$dir/multiboot" --nic user,hostfwd=80
run 2 "8080: give" -k "$dir/multiboot" -p 8080
run 2 "there is no network card" -k "$dir/multiboot" --nic none -p 8080:80
run 2 "more than 4 times" -k "$dir/multiboot" --nic none --nic none --nic none --nic none --nic none
run 125 "No such file" -k "$dir/multiboot" --nic user,tftp=/nowhere
run 2 "start firmware" -k "$dir/multiboot" --machine q35
run 2 "choose one of" "$dir/multiboot" --machine q36
if [ -f /usr/share/seabios/bios-256k.bin ]; then
    truncate -s 1M "$dir/blank.img"
    run 125 "use bus=sata, or --machine pc" --machine q35 --disk "$dir/blank.img,bus=ide"
    run 125 "use bus=ide, or --machine q35" --machine pc --disk "$dir/blank.img,bus=sata"
    disks=$(for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24; do printf -- '--disk %s ' "$dir/blank.img,ro"; done)
    run 125 "at most 20 are possible" --machine pc $disks --nic user --nic user
    run 125 "at most 23 are possible" --machine q35 $disks --usb tablet
fi
run 2 "possible are tablet" -k "$dir/multiboot" --usb trackball
run 2 "name is missing" -k "$dir/multiboot" --usb storage=
run 125 "ports for 4" -k "$dir/multiboot" --usb tablet --usb tablet --usb tablet --usb tablet --usb mouse
run 125 "does not exist" -k "$dir/multiboot" --usb "storage=$dir/missing"
run 2 "--trace" -k "$dir/multiboot" --trace nonsense
expect 2 "are for --machine pc" run -k "$dir/multiboot" --uuid 01234567-89ab-cdef-0123-456789abcdef
expect 2 "give one like" run --machine pc --uuid 0123
expect 2 "give auto, or one like" run --machine pc --vmgenid x
expect 2 "begin with opt/" run --machine pc --fw-cfg name=etc/x,string=y
expect 2 "either file=FILE or string=TEXT" run --machine pc --fw-cfg name=opt/x
expect 2 "'mode=1' is not known" run --machine pc --fw-cfg name=opt/x,string=y,mode=1
expect 2 "says again" run --machine pc --fw-cfg name=opt/x,string=y,string=z
expect 125 "No such file" run --machine pc --fw-cfg name=opt/x,file=/nowhere
expect 125 "give file:PATH" run --machine pc --speaker x
expect 125 "/nowhere/x" run --machine pc --speaker file:/nowhere/x
run 2 "is no name for a VM" -k "$dir/multiboot" --name a/b
expect 2 "NAME is missing" stats
expect 2 "COMMAND is missing" control web
expect 2 "FILE is missing" screenshot web
expect 2 "TEXT is missing" type web
expect 2 "KEYS is missing" key web
expect 2 "FILE is missing" media web cdrom0
expect 2 "see \`doppel type --help\`" type web -x
expect 125 "no VM named 'nobody'" screenshot nobody x.png
expect 125 "no VM named 'nobody'" type nobody -- -x
expect 125 "no VM named 'nobody'" key nobody a
expect 125 "no VM named 'nobody'" media nobody
expect 125 "no VM named 'nobody'" media nobody cdrom0 eject
expect 125 "$dir/missing: No such file" media nobody cdrom0 "$dir/missing"
expect 125 "byte 1 (0xc3)" type nobody "hé"
expect 125 "FILE is empty" screenshot nobody ""
expect 2 "one word too many" stats web two
expect 2 "--count needs --interval" stats web --count 2
expect 2 "greater than 0" stats web --interval 0
expect 2 "is given by options" list web

# ---- what this host or these files do not allow ----
expect 125 "there is no engine" run -e warp -k "$dir/multiboot"
expect 125 "not part of this version" run -e kvm -k "$dir/multiboot"
run 125 "No such file" -k "$dir/missing"
run 125 "is a directory" -k "$dir"
run 125 "a device or a pipe" -k /dev/null
mkfifo "$dir/fifo"
run 125 "a device or a pipe" -k "$dir/fifo"
run 125 "is empty" -k "$dir/empty"
run 125 "none of what doppel boots" -k "$dir/garbage"
run 125 "truncated" -k "$dir/bzimage-truncated"
run 125 "truncated" -k "$dir/bzimage-header"
run 125 "try -m" -k "$dir/bzimage-large"
run 125 "truncated" -k "$dir/multiboot-elf32-truncated"
run 125 "ELF file without" -k /bin/true
run 125 "No such file" -k "$dir/bzimage" -i "$dir/missing"
run 125 "is a directory" -k "$dir/bzimage" -i "$dir"
truncate -s 100M "$dir/large"
run 125 "try" -k "$dir/bzimage" -i "$dir/large" -m 64M
run 125 "fit" -k "$dir/bzimage" -i "$dir/large" -m 112M
run 125 "$dir/missing" -k "$dir/bzimage" -d "$dir/missing"
run 125 "$dir" -k "$dir/bzimage" -d "$dir"
run 125 "memory" -k "$dir/bzimage" -m 900G
run 125 "--perf-map: engine null generates no code" -k "$dir/multiboot" --perf-map
run 125 "--dump-blocks: engine null generates no code" -k "$dir/multiboot" --dump-blocks "$dir/blocks"
[ -e "$dir/blocks" ] && fail "--dump-blocks refused, but made its file"
run 125 "another console" -k "$dir/bzimage" --serial stdio --serial stdio
run 125 "give stdio, none or file" -k "$dir/bzimage" --serial tcp:1
run 125 "$dir/no/log" -k "$dir/bzimage" --serial "file:$dir/no/log"
if [ "$(id -u)" != 0 ]; then
    chmod 0 "$dir/pvh"
    run 125 "Permission denied" -k "$dir/pvh"
    chmod 600 "$dir/pvh"
fi

# ---- a file by its size is a floppy, also of sizes few know ----
export XDG_RUNTIME_DIR="$dir"
for size in 160 640 1440 1743; do
    truncate -s ${size}K "$dir/floppy.img"
    "$doppel" run "$dir/floppy.img" --engine null --serial none --name floppy --timeout 60 >"$dir/log" 2>&1 </dev/null &
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        "$doppel" media floppy >"$dir/media" 2>/dev/null && break
        sleep 0.2
    done
    if [ "$(cat "$dir/media")" = "floppy0  $dir/floppy.img" ]; then passed=$((passed + 1)); else fail "${size}K: $(cat "$dir/media" "$dir/log")"; fi
    "$doppel" control floppy quit >/dev/null 2>&1
    wait
done
unset XDG_RUNTIME_DIR

# ---- ends ----
run 124 "time limit" -k "$dir/multiboot" -t 0.2
run 124 "time limit" -k "$dir/pvh" -t 0.2 -c 4 --serial none
run 124 "time limit" -k "$dir/bzimage" -t 0.2 -d "$dir/large,ro" --virtio-console --serial "file:$dir/log"
run 124 "time limit" --kernel="$dir/bzimage" --timeout=0.2 -m64M --initrd "$dir/pvh" --initrd "$dir/garbage"
run 124 "PC with 1 processor, 512M; engine null" -k "$dir/multiboot-elf64" -t 0.2
run 124 '"result":"timeout","status":124' -k "$dir/multiboot" -t 0.2 --json
run 125 "" -k "$dir/garbage"
timeout 60 "$doppel" run -e null -k "$dir/garbage" --json-fd 3 3>"$dir/json" 2>/dev/null
grep -q '"result":"error","status":125' "$dir/json" || fail "--json-fd: $(cat "$dir/json")"
timeout 60 "$doppel" run -e null -k "$dir/multiboot" -t 0.2 <&- >&- 2>"$dir/err"
[ $? = 124 ] || fail "closed stdin and stdout: $(cat "$dir/err")"
timeout 60 "$doppel" run -e null -k "$dir/multiboot" -t 0.2 --trace "boot,vm,file=$dir/trace" 2>/dev/null </dev/null
grep -q Multiboot "$dir/trace" || fail "--trace to a file"
cp "$dir/large" "$dir/a,b"
run 124 "" -k "$dir/multiboot" -t 0.1 -d "$dir/a,,b,ro"

for signal in INT TERM HUP; do
    case $signal in INT) want=130 ;; TERM) want=143 ;; HUP) want=129 ;; esac
    rm -f "$dir/err"
    # A background job of a script ignores INT; env gives it back.
    env --default-signal=INT "$doppel" run -e null -k "$dir/multiboot" </dev/null 2>"$dir/err" >/dev/null &
    pid=$!
    n=0
    until grep -qs "engine null" "$dir/err" || [ $n = 100 ]; do sleep 0.1; n=$((n + 1)); done
    kill -$signal $pid
    wait $pid
    got=$?
    [ $got = $want ] || fail "SIG$signal: status $got, not $want"
    grep -q "SIG$signal" "$dir/err" || fail "SIG$signal: $(cat "$dir/err")"
done

# Two at once on one writable disk: the second is told who has it.
"$doppel" run -e null -k "$dir/multiboot" -d "$dir/large" </dev/null 2>"$dir/err2" >/dev/null &
pid=$!
n=0
until grep -qs "engine null" "$dir/err2" || [ $n = 100 ]; do sleep 0.1; n=$((n + 1)); done
run 125 "$dir/large" -k "$dir/multiboot" -d "$dir/large" -t 0.1
kill -TERM $pid
wait $pid

# ---- named VMs ----
XDG_RUNTIME_DIR=$dir/runtime
export XDG_RUNTIME_DIR
expect 125 "runtime/doppel" run -e null -k "$dir/multiboot" --name web
mkdir -m 700 "$XDG_RUNTIME_DIR"
expect 0 "" list
expect 125 "no VM named 'web' is running (" stats web
start() { # NAME ENGINE...: a VM of this name that waits; its process in $pid
    name=$1
    shift
    "$doppel" run --name "$name" "$@" </dev/null >"$dir/out.$name" 2>"$dir/err.$name" &
    pid=$!
    n=0
    until "$doppel" list | grep -q "^$name " || [ $n = 100 ]; do sleep 0.1; n=$((n + 1)); done
}
start web -e null -k "$dir/multiboot" -c 2
web=$pid
start db -e null -k "$dir/multiboot"
expect 0 "running" list
expect 0 "\"pid\":$web," list --json
[ "$("$doppel" list | awk 'NR > 1 { printf "%s ", $1 }')" = "db web " ] || fail "list: $("$doppel" list)"
run 125 "is running (process $web)" -k "$dir/multiboot" --name web
expect 125 "did you mean web?" stats wev
expect 125 "there are db, web" stats quitelong
expect 0 "web: process $web, engine null" stats web
expect 0 "cpu1 halted" stats web
expect 0 '"tlb_misses":0' stats web --json
expect 0 "per second, over 0.1" stats web --interval 0.1 --count 2
expect 0 '"rates":{"cpu_seconds":' stats web --json --interval=0.1 --count 1
[ "$("$doppel" stats web --json -i 0.1 -c 3 | wc -l)" = 3 ] || fail "stats --json --interval: not one line each"
expect 0 '"phase":"running"' control web query-status
expect 125 "is no command: there are help, query-status" control web rubbish
"$doppel" stats web --interval 0.1 >"$dir/rates" 2>&1 &
rates=$!
tries=0
while [ ! -s "$dir/rates" ] && [ $tries -lt 200 ]; do sleep 0.05; tries=$((tries + 1)); done # it is to be there when the VM ends
expect 0 "{}" control web quit
wait $web || fail "quit: status $?"
wait $rates || fail "stats --interval at the VM's end: status $?"
grep -q "ended by the control socket" "$dir/err.web" || fail "quit: $(cat "$dir/err.web")"
[ -e "$XDG_RUNTIME_DIR/doppel/web" ] && fail "the folder of an ended VM is still there"
kill -KILL $pid
wait $pid 2>/dev/null
[ -S "$XDG_RUNTIME_DIR/doppel/db/control" ] || fail "no stale socket to test with"
expect 0 "" list
[ -s "$dir/out" ] && fail "list shows the dead: $(cat "$dir/out")"
expect 125 "no VM named 'db' is running (" stats db
start db -e null -k "$dir/multiboot"
expect 0 "db: process $pid" stats db
kill -TERM $pid
wait $pid
[ -z "$(ls "$XDG_RUNTIME_DIR/doppel")" ] || fail "folders left: $(ls "$XDG_RUNTIME_DIR/doppel")"

# ---- a guest that runs, when there is an engine for it ----
if "$doppel" doctor | grep -q '^  interp  *yes'; then
    for kernel in multiboot multiboot-elf64 pvh; do
        expect 43 "ok" run -k "$dir/$kernel" -t 30
    done
    expect 43 "64-bit boot protocol" run -k "$dir/bzimage" -t 30
fi

# ---- every verb, option and command is in the man page and in the completion ----
listed() { sed -n 's/^  \(-., \|    \)--\([a-z-]*\).*/\2/p'; }
manual=$source/docs/man/doppel.1.scd completion=$source/scripts/completion/doppel.bash
verbs=$("$doppel" --help | sed -n '/^Verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p')
[ "$(echo "$verbs" | wc -l)" -ge 6 ] || fail "help lists too few verbs"
for verb in $verbs; do
    grep -q "^\*doppel $verb\*" "$manual" || echo "man page lacks verb $verb"
    grep -q "^ *mapfile.*'run .*$verb" "$completion" || [ "$verb" = run ] || echo "completion lacks verb $verb"
    [ "$verb" = help ] || "$doppel" "$verb" --help | listed | while read -r option; do
        grep -q -- "--$option" "$manual" || echo "man page lacks --$option"
        grep -q -- "--$option" "$completion" || echo "completion lacks --$option"
    done
done >"$dir/lacks"
"$doppel" image --help | sed -n '/^Verbs of/,/^$/s/^  \([a-z]*\) .*/\1/p' | while read -r verb; do
    grep -q "^\*$verb\*\|, \*$verb\*" "$manual" || echo "man page lacks image $verb"
    "$doppel" image "$verb" --help | listed | while read -r option; do
        awk -v start="^            $verb[)] " '$0 ~ start { on = 1 } on { print } on && /;;/ { exit }' "$completion" | grep -q -- "--$option" || echo "completion lacks image $verb --$option"
    done
done >>"$dir/lacks"
"$doppel" control --help | sed -n '/^Commands:/,$s/^  \([a-z-]*\) .*/\1/p' >"$dir/commands"
[ "$(wc -l <"$dir/commands")" -ge 4 ] || echo "help lists too few commands" >>"$dir/lacks"
while read -r command; do
    grep -q "^\*$command\*" "$manual" || echo "man page lacks command $command"
    grep -q "'help .*$command" "$completion" || [ "$command" = help ] || echo "completion lacks command $command"
done <"$dir/commands" >>"$dir/lacks"
sed -n 's/.*trace categor.*: use \(.*\)/\1/p' <<END >"$dir/categories"
$("$doppel" run -k x --trace nonsense 2>&1)
END
tr -d , <"$dir/categories" | tr ' ' '\n' | grep -v '^or$' | while read -r category; do
    grep -qw -- "$category" "$manual" || echo "man page lacks trace category $category"
    grep -qw -- "$category" "$completion" || echo "completion lacks trace category $category"
done >>"$dir/lacks"
[ -s "$dir/categories" ] || fail "no trace categories found"
[ -s "$dir/lacks" ] && fail "$(cat "$dir/lacks")"
[ "$(listed <"$dir/help" | wc -l)" -ge 15 ] || fail "help lists too few options"

echo "$passed passed, $failed failed"
[ $failed = 0 ]
