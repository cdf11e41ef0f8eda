# Completion of doppel for bash. tests/vm/test_cli.sh checks that every option of every verb, every verb and every command is here.
_doppel_running() { doppel list 2>/dev/null | awk 'NR > 1 { print $1 }'; }

# Pools, with their slash, and volumes of the default pool or of that of the word; with "snapshots" those, too.
_doppel_volumes()
{
    doppel volume ls --json 2>/dev/null | sed -n 's/^ *"\(name\|pool\)": *"\(.*\)",\{0,1\}$/\1 \2/p' |
        awk -v all="$1" '$1 == "name" { name = $2 } $1 == "pool" && (all || name !~ /@/) { print $2 "/" name; if ($2 == "default") print name }'
}

_doppel()
{
    local word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]}
    local run='--machine --firmware --nvram --cdrom --floppy --usb --boot --firmware-log --display --video --input --printer --uuid --vmgenid --fw-cfg --speaker --kernel --initrd --append --memory --cpus --disk --nic --publish --engine --cpu --timeout --serial --virtio-console --no-rng --no-balloon --test-device --no-reboot
        --name --trace --perf-map --dump-blocks --json --json-fd --help'
    local lockstep='--engines --kernel --initrd --append --memory --disk --cpu --instructions --timeout --skip --step --slice --every --ps --ignore
        --all-flags --single --once --quiet --help'
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W 'run up down config list stats control screenshot type key media image volume disk balloon network nic doctor lockstep help --help --version' -- "$word")
        return
    fi
    case $verb in
    run)
        case $last in
        --kernel | -k | --initrd | -i | --disk | -d | --dump-blocks | --cdrom | --floppy | --firmware | --nvram)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
        =) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_volumes)" -- "$word") ;; # --disk volume=
        --engine | -e) mapfile -t COMPREPLY < <(compgen -W 'auto translate interp null' -- "$word") ;;
        --cpu) mapfile -t COMPREPLY < <(compgen -W 'x86-64-v3 x86-64-v2 x86-64-v1' -- "$word") ;;
        --machine) mapfile -t COMPREPLY < <(compgen -W 'pc q35 microvm' -- "$word") ;;
        --display) mapfile -t COMPREPLY < <(compgen -W 'none text vnc' -- "$word") ;;
        --nic) mapfile -t COMPREPLY < <(compgen -W 'user network= switch= tap= macvtap= packet= udp= none' -- "$word") ;;
        --printer | --speaker) mapfile -t COMPREPLY < <(compgen -W 'file:' -- "$word") ;;
        --vmgenid) mapfile -t COMPREPLY < <(compgen -W 'auto' -- "$word") ;;
        --video) mapfile -t COMPREPLY < <(compgen -W 'vga virtio virtio-only none' -- "$word") ;;
        --input) mapfile -t COMPREPLY < <(compgen -W 'ps2 virtio' -- "$word") ;;
        --boot) mapfile -t COMPREPLY < <(compgen -W 'floppy cd disk usb net menu' -- "$word") ;;
        --usb) mapfile -t COMPREPLY < <(compgen -W 'tablet keyboard mouse storage=' -- "$word") ;;
        --serial | -s | --firmware-log) mapfile -t COMPREPLY < <(compgen -W 'stdio none file:' -- "$word") ;;
        --memory | -m) mapfile -t COMPREPLY < <(compgen -W '256M 512M 1G 2G 4G' -- "$word") ;;
        --trace) mapfile -t COMPREPLY < <(compgen -W 'all cpu mmu exception irq timer memory io pci virtio block console boot vm translate exits
            tables smc guest' -- "$word") ;;
        --append | -a | --cpus | -c | --timeout | -t | --publish | -p | --name | -n | --json-fd) ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$run" -- "$word") ;;
        esac ;;
    lockstep)
        case $last in
        --kernel | -k | --initrd | -i | --disk | -d)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$lockstep" -- "$word") ;;
        esac ;;
    stats)
        case $last in
        stats) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_running)" -- "$word") ;;
        --interval | -i | --count | -c) ;;
        *) mapfile -t COMPREPLY < <(compgen -W '--interval --count --json --help' -- "$word") ;;
        esac ;;
    control)
        case $COMP_CWORD in
        2) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_running)" -- "$word") ;;
        3) mapfile -t COMPREPLY < <(compgen -W 'help query-status stats screenshot type key media insert eject disks disk-snapshot disk-snapshot-inside disk-job disk-complete disk-cancel disk-resize disk-bitmap-remove disk-attach disk-detach nics nic-add nic-remove balloon powerdown quit' -- "$word") ;;
        esac ;;
    screenshot | type | key)
        case $COMP_CWORD in
        2) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_running)" -- "$word") ;;
        *)
            case $verb in
            screenshot)
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
            type) mapfile -t COMPREPLY < <(compgen -W '--raw --help' -- "$word") ;;
            key) mapfile -t COMPREPLY < <(compgen -W 'ctrl-alt-del ret esc tab spc backspace delete up down left right home end pgup pgdn
                f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 f11 f12' -- "$word") ;;
            esac ;;
        esac ;;
    media)
        case $COMP_CWORD in
        2) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_running)" -- "$word") ;;
        3) mapfile -t COMPREPLY < <(compgen -W 'cdrom0 floppy0 cdrom1 floppy1' -- "$word") ;;
        *)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -W 'eject --ro --help' -- "$word"; compgen -f -- "$word") ;;
        esac ;;
    balloon)
        case $COMP_CWORD in
        2) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_running)" -- "$word") ;;
        *) mapfile -t COMPREPLY < <(compgen -W '128M 256M 512M 1G --json --help' -- "$word") ;;
        esac ;;
    image)
        compopt -o filenames
        case $COMP_CWORD:$last in
        2:*) mapfile -t COMPREPLY < <(compgen -W 'create info convert resize check repair map compare commit rebase snapshot compact measure serve bitmap --help' -- "$word") ;;
        *:-f | *:-F | *:-O) mapfile -t COMPREPLY < <(compgen -W "$(doppel image --help | sed -n '/^Formats:/,$s/^  \([a-z0-9]*\) .*/\1/p')" -- "$word") ;;
        *)
            case ${COMP_WORDS[2]} in
            create) mapfile -t COMPREPLY < <(compgen -W '--format --option --backing --backing-format --unchecked --secret-file --quiet --help' -- "$word"; compgen -f -- "$word") ;;
            info) mapfile -t COMPREPLY < <(compgen -W '--format --backing-chain --backing-any --secret-file --force-share --json --output --help' -- "$word"; compgen -f -- "$word") ;;
            convert) mapfile -t COMPREPLY < <(compgen -W '--format --target-format --option --compress --backing --backing-format --sparse --snapshot --copy-range --no-create
                --resume --no-sync --threads --backing-any --secret-file --force-share --progress --quiet --help' -- "$word"; compgen -f -- "$word") ;;
            resize) mapfile -t COMPREPLY < <(compgen -W '--format --shrink --backing-any --secret-file --quiet --help' -- "$word"; compgen -f -- "$word") ;;
            check) mapfile -t COMPREPLY < <(compgen -W '--format --repair --backing-any --secret-file --force-share --progress --quiet --json --output --help' -- "$word"; compgen -f -- "$word") ;;
            repair) mapfile -t COMPREPLY < <(compgen -W '--format --backing-any --secret-file --progress --quiet --json --output --help' -- "$word"; compgen -f -- "$word") ;;
            map) mapfile -t COMPREPLY < <(compgen -W '--format --start-offset --max-length --backing-any --secret-file --force-share --json --output --help' -- "$word"; compgen -f -- "$word") ;;
            compare) mapfile -t COMPREPLY < <(compgen -W '--format --second-format --strict --backing-any --secret-file --force-share --progress --quiet --json --output --help' -- "$word"; compgen -f -- "$word") ;;
            commit) mapfile -t COMPREPLY < <(compgen -W '--format --keep --backing-any --secret-file --progress --quiet --help' -- "$word"; compgen -f -- "$word") ;;
            rebase) mapfile -t COMPREPLY < <(compgen -W '--format --backing --backing-format --unsafe --backing-any --secret-file --progress --quiet --help' -- "$word"; compgen -f -- "$word") ;;
            snapshot) mapfile -t COMPREPLY < <(compgen -W '--format --list --create --apply --delete --backing-any --secret-file --force-share --quiet --json --output --help' -- "$word"; compgen -f -- "$word") ;;
            compact) mapfile -t COMPREPLY < <(compgen -W '--format --dedup --backing-any --secret-file --progress --quiet --help' -- "$word"; compgen -f -- "$word") ;;
            bitmap) mapfile -t COMPREPLY < <(compgen -W '--format --add --remove --clear --enable --disable --merge --source-file --source-format --granularity --secret-file
                --force-share --json --output --help' -- "$word"; compgen -f -- "$word") ;;
            measure) mapfile -t COMPREPLY < <(compgen -W '--format --target-format --option --size --snapshot --backing-any --secret-file --force-share --json --output --help' -- "$word"; compgen -f -- "$word") ;;
            serve) mapfile -t COMPREPLY < <(compgen -W '--format --socket --port --bind --export --tls-creds --tls-psk --read-only --snapshot --shared --once --backing-any --secret-file --quiet --help' -- "$word"; compgen -f -- "$word") ;;
            esac ;;
        esac ;;
    volume)
        local verbs='pool create ls inspect rm resize rename clone snapshot revert compact export resync --help'
        case $COMP_CWORD:${COMP_WORDS[2]} in
        2:*) mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$word") ;;
        3:pool) mapfile -t COMPREPLY < <(compgen -W 'create ls inspect rm --help' -- "$word") ;;
        *:pool)
            case ${COMP_WORDS[3]} in
            create)
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -W '--dir --help' -- "$word"; compgen -d -- "$word") ;;
            rm) mapfile -t COMPREPLY < <(compgen -W "$(doppel volume pool ls 2>/dev/null | awk 'NR > 1 { print $1 }') --forget --help" -- "$word") ;;
            *) mapfile -t COMPREPLY < <(compgen -W "$(doppel volume pool ls 2>/dev/null | awk 'NR > 1 { print $1 }') --json --help" -- "$word") ;;
            esac ;;
        *)
            local volumes
            case ${COMP_WORDS[2]} in
            create)
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -W '--size --format --from --from-format --backing-any --progress --quiet --help' -- "$word"; compgen -f -- "$word") ;;
            ls) mapfile -t COMPREPLY < <(compgen -W "$(doppel volume pool ls 2>/dev/null | awk 'NR > 1 { print $1 }') --tree --snapshots --json --help" -- "$word") ;;
            inspect) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_volumes all) --json --help" -- "$word") ;;
            rm) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_volumes all) --snapshots --progress --quiet --help" -- "$word") ;;
            resize) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_volumes) --shrink --quiet --help" -- "$word") ;;
            rename) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_volumes all) --quiet --help" -- "$word") ;;
            clone) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_volumes all) --full --reflink --backing --format --progress --quiet --help" -- "$word") ;;
            snapshot) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_volumes) --quiet --help" -- "$word") ;;
            revert)
                volumes=$(_doppel_volumes)
                ((COMP_CWORD > 3)) && volumes=$(_doppel_volumes all | sed -n "s|^${COMP_WORDS[3]}@||p")
                mapfile -t COMPREPLY < <(compgen -W "$volumes --quiet --help" -- "$word") ;;
            compact) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_volumes) --dedup --progress --quiet --help" -- "$word") ;;
            resync)
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -W '--all --state --backing-any --progress --quiet --json --help' -- "$word"; compgen -f -- "$word") ;;
            export)
                compopt -o filenames
                mapfile -t COMPREPLY < <(compgen -W "$(_doppel_volumes all) --format --progress --quiet --help" -- "$word"; compgen -f -- "$word") ;;
            esac ;;
        esac ;;
    disk)
        case $COMP_CWORD in
        2) mapfile -t COMPREPLY < <(compgen -W 'ls snapshot commit stream mirror backup complete cancel resize forget attach detach --help' -- "$word") ;;
        3) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_running) --help" -- "$word") ;;
        4) [ "${COMP_WORDS[2]}" = attach ] && compopt -o filenames && mapfile -t COMPREPLY < <(compgen -f -- "$word") && return
            mapfile -t COMPREPLY < <(compgen -W "$(doppel disk ls "${COMP_WORDS[3]}" 2>/dev/null | awk '/^disk/ { print $1 }')" -- "$word") ;;
        *)
            case ${COMP_WORDS[2]} in
            snapshot) mapfile -t COMPREPLY < <(compgen -W '--to --and --inside --help' -- "$word"; compgen -f -- "$word") ;;
            commit | stream) mapfile -t COMPREPLY < <(compgen -W '--rate --detach --quiet --progress --help' -- "$word") ;;
            mirror) mapfile -t COMPREPLY < <(compgen -W '--to --format --reuse --pivot --rate --detach --quiet --progress --help' -- "$word"; compgen -f -- "$word") ;;
            attach) mapfile -t COMPREPLY < <(compgen -W '--format --ro --serial --id --help' -- "$word") ;;
            detach) mapfile -t COMPREPLY < <(compgen -W '--timeout --force --help' -- "$word") ;;
            backup) mapfile -t COMPREPLY < <(compgen -W '--to --format --reuse --bitmap --backing --rate --detach --quiet --progress --help' -- "$word"; compgen -f -- "$word") ;;
            esac ;;
        esac ;;
    network)
        if ((COMP_CWORD == 2)); then
            mapfile -t COMPREPLY < <(compgen -W 'create ls inspect connect disconnect group link capture rm --help' -- "$word")
        else
            case ${COMP_WORDS[2]} in
            create) mapfile -t COMPREPLY < <(compgen -W '--port --uplink --group --socket --mode --mtu --snooping --no-loop-guard --table --foreground --help' -- "$word") ;;
            ls) mapfile -t COMPREPLY < <(compgen -W '--json --help' -- "$word") ;;
            *) mapfile -t COMPREPLY < <(compgen -W "$(doppel network ls 2>/dev/null | awk 'NR > 1 { print $1 }') --json --write --snap --limit --timeout --help" -- "$word") ;;
            esac
        fi ;;
    nic)
        case $COMP_CWORD in
        2) mapfile -t COMPREPLY < <(compgen -W 'ls add rm --help' -- "$word") ;;
        3) mapfile -t COMPREPLY < <(compgen -W "$(_doppel_running) --help" -- "$word") ;;
        *)
            case ${COMP_WORDS[2]} in
            ls) mapfile -t COMPREPLY < <(compgen -W '--json --help' -- "$word") ;;
            add) mapfile -t COMPREPLY < <(compgen -W 'user network= switch= tap= macvtap= packet= udp= --id --json --help' -- "$word") ;;
            rm) mapfile -t COMPREPLY < <(compgen -W "$(doppel nic ls "${COMP_WORDS[3]}" 2>/dev/null | awk 'NR > 1 { print $1 }') --timeout --force --help" -- "$word") ;;
            esac ;;
        esac ;;
    up | down)
        case $last in
        --file | -f)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
        *) mapfile -t COMPREPLY < <(compgen -W "--file $([ "$verb" = down ] && echo --timeout --force) --help
            $(doppel config show --json 2>/dev/null | grep -o '"name":"[^"]*"' | cut -d'"' -f4)" -- "$word") ;;
        esac ;;
    config)
        compopt -o filenames
        if ((COMP_CWORD == 2)); then
            mapfile -t COMPREPLY < <(compgen -W 'check show --help' -- "$word")
        else
            mapfile -t COMPREPLY < <(compgen -W '--file --json --help' -- "$word"; compgen -f -- "$word")
        fi ;;
    list | doctor) mapfile -t COMPREPLY < <(compgen -W '--json --help' -- "$word") ;;
    help) mapfile -t COMPREPLY < <(compgen -W 'run up down config list stats control screenshot type key media image volume disk balloon network nic doctor lockstep' -- "$word") ;;
    esac
}
complete -F _doppel doppel
