# what configure scripts do: small programs, many of them
i=0
while [ $i -lt 8 ]; do
    v=$(expr $i \* 3 + 1)
    printf '%s\n' "b $v" "a $i" "c $((i * i))" | sort | sed 's/^\(.\) \(.*\)/\2:\1/' | cut -d: -f1
    i=$((i + 1))
done
