i=0 s=0
while [ $i -lt 40000 ]; do
    case $((i % 3)) in
        0) s=$((s + i)) ;;
        1) s=$((s ^ i)) ;;
        *) t="x$i"; [ "${t#x9}" = "$t" ] || s=$((s + 1)) ;;
    esac
    i=$((i + 1))
done
echo $s
