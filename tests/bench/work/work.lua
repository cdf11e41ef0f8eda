local function queens(n)
    local cols, up, down, found = {}, {}, {}, 0
    local function place(row)
        if row > n then found = found + 1 return end
        for c = 1, n do
            if not cols[c] and not up[row + c] and not down[row - c + n] then
                cols[c], up[row + c], down[row - c + n] = true, true, true
                place(row + 1)
                cols[c], up[row + c], down[row - c + n] = nil, nil, nil
            end
        end
    end
    place(1)
    return found
end
local words, x = {}, 12345
for i = 1, 30000 do
    x = (x * 1103515245 + 12345) & 0x7fffffff
    words[i] = string.format("w%d", x >> 16 & 1023)
end
table.sort(words)
local s = 0.0
for i = 1, 300000 do s = s + 1.0 / i end
print(queens(8), words[777], #table.concat(words, " "):gsub("w(%d)", "%1%1"), string.format("%.12f", s))
