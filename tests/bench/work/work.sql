PRAGMA synchronous = off;
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price INTEGER, kind INTEGER);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)
    INSERT INTO item SELECT i, 'item ' || (i * 7919 % 12007), i * 104729 % 9973, i % 37 FROM n;
COMMIT;
CREATE INDEX item_name ON item (name);
CREATE INDEX item_kind ON item (kind, price);
SELECT kind, count(*), sum(price), max(name) FROM item GROUP BY kind ORDER BY 3 DESC LIMIT 5;
SELECT count(*) FROM item a JOIN item b ON b.kind = a.kind AND b.price = a.price + 1 WHERE a.price % 3 = 0;
UPDATE item SET price = price + length(name) WHERE kind IN (SELECT kind FROM item WHERE id % 11 = 0 GROUP BY kind);
SELECT sum(price), count(DISTINCT substr(name, 6, 3)) FROM item WHERE name LIKE '%7%';
DELETE FROM item WHERE id % 5 = 0;
SELECT count(*), min(name), sum(id * price % 1000003) FROM item;
