-- Trials of a new store are numbered from a place drawn by lot: a worker that finds another coordinator where its own was
-- must not be taken for one that holds the trial of the same number here.
CREATE TEMP TABLE first AS SELECT abs(random() % 2147483648) AS number
    WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'trials' AND seq > 0);
DELETE FROM sqlite_sequence WHERE name = 'trials' AND EXISTS (SELECT 1 FROM first);
INSERT INTO sqlite_sequence (name, seq) SELECT 'trials', number FROM first;
DROP TABLE first;
