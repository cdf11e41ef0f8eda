{ line[NR] = $0; for (i = 1; i <= NF; i++) count[$i]++ }
END {
    for (round = 0; round < 60; round++)
        for (n = 1; n <= NR; n++) {
            k = split(line[n], w, /[^A-Za-z_0-9]+/)
            for (i = 1; i <= k; i++)
                if (w[i] ~ /^[a-z]+_?[a-z]*$/) words[w[i]] += length(w[i])
            if (match(line[n], /\([^)]*\)/)) inside += RLENGTH
        }
    for (x in words) { total += words[x]; kinds++ }
    for (x in count) { all += count[x] }
    print NR, kinds, total, all, inside
}
