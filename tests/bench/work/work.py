import re, json


class Account:
    def __init__(self, name):
        self.name, self.balance, self.log = name, 0, []

    def add(self, amount):
        self.balance += amount
        if amount % 7 == 0:
            self.log.append((self.name, amount))


def words(n):
    x = 12345
    for _ in range(n):
        x = (x * 1103515245 + 12345) & 0x7fffffff
        yield "w%d" % (x >> 16 & 1023)


count = {}
for w in words(40000):
    count[w] = count.get(w, 0) + 1
accounts = [Account("a%d" % i) for i in range(50)]
for i in range(60000):
    accounts[i % 50].add(i)
text = " ".join(words(4000))
print(len(re.findall(r"w(\d)\1\w*", text)), re.sub(r"w([0-4]+) ", r"<\1>", text)[:80])
top = sorted(count.items(), key=lambda p: (-p[1], p[0]))[:20]
print(len(json.loads(json.dumps({"top": top, "accounts": [a.__dict__ for a in accounts]}))), top)
print(sum(a.balance for a in accounts), sum(i * i % 7 for i in range(100000)), 3 ** 2000 % 1000007)
