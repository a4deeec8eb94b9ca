-- A large study is leased from, paused, canceled and deleted while it is being expanded.

-- Why the trials that are still to come are canceled at once; NULL: they are queued.
ALTER TABLE expansions ADD COLUMN canceled TEXT;

-- Trials without the unique key over the whole text of their identity: written in no order, it was most of what a large
-- study's expansion wrote. 96 bits of the hash say the same (`trials_identity`).
CREATE TABLE trials_2 (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    study           INTEGER NOT NULL REFERENCES studies (id) ON DELETE CASCADE,
    number          INTEGER NOT NULL CHECK (number >= 1),
    config          TEXT    NOT NULL CHECK (json_valid(config)),
    config_hash     TEXT    NOT NULL,
    shape_key       TEXT    NOT NULL,
    replicate       INTEGER NOT NULL CHECK (replicate >= 0),
    epochs_wanted   INTEGER NOT NULL CHECK (epochs_wanted >= 1),
    state           TEXT    NOT NULL DEFAULT 'QUEUED' CHECK (state IN
                    ('QUEUED', 'RUNNING', 'PAUSED', 'COMPLETE', 'PRUNED', 'FAILED', 'CANCELED')),
    reason          TEXT    NOT NULL DEFAULT '',
    attempts        INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    failures        INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0),
    losses          INTEGER NOT NULL DEFAULT 0 CHECK (losses >= 0),
    running_attempt INTEGER,                 -- the fence: the attempt that holds the trial
    avoid_worker    TEXT,                    -- on which the newest attempt failed or was lost
    -- what the measurements of the current lineage come to
    epochs          INTEGER NOT NULL DEFAULT 0 CHECK (epochs >= 0),
    objective       REAL,
    train_loss      REAL,
    val_loss        REAL,
    best_val_loss   REAL,
    best_epoch      INTEGER,
    weights_digest  TEXT,
    seconds         REAL    NOT NULL DEFAULT 0,
    created_at_ms   INTEGER NOT NULL,
    started_at_ms   INTEGER,
    ended_at_ms     INTEGER,
    UNIQUE (study, number),
    CHECK ((state = 'RUNNING') = (running_attempt IS NOT NULL)),
    CHECK (running_attempt IS NULL OR running_attempt = attempts),
    CHECK (failures + losses <= attempts),
    CHECK ((state IN ('COMPLETE', 'PRUNED', 'FAILED', 'CANCELED')) = (ended_at_ms IS NOT NULL)),
    CHECK (state <> 'COMPLETE' OR (epochs >= epochs_wanted AND objective IS NOT NULL)),
    CHECK ((epochs = 0) = (best_epoch IS NULL)),
    CHECK (best_epoch IS NULL OR best_epoch BETWEEN 1 AND epochs)
) STRICT;
INSERT INTO trials_2 SELECT * FROM trials;
DELETE FROM sqlite_sequence WHERE name = 'trials_2';
INSERT INTO sqlite_sequence (name, seq) SELECT 'trials_2', seq FROM sqlite_sequence WHERE name = 'trials';
-- Keys that refer to it are off meanwhile (see `store/open.rs`), and are checked behind all migrations.
DROP TABLE trials;
ALTER TABLE trials_2 RENAME TO trials;

CREATE UNIQUE INDEX trials_identity ON trials (study, substr(config_hash, 41), replicate);
CREATE INDEX trials_queue   ON trials (study, number)            WHERE state = 'QUEUED';
CREATE INDEX trials_mates   ON trials (study, shape_key, number) WHERE state = 'QUEUED';
CREATE INDEX trials_returned ON trials (study, avoid_worker, number) WHERE state = 'QUEUED' AND avoid_worker IS NOT NULL;
CREATE INDEX trials_running ON trials (study, number)            WHERE state = 'RUNNING';
CREATE INDEX trials_paused  ON trials (study, number)            WHERE state = 'PAUSED';
CREATE INDEX trials_failed  ON trials (study, reason)            WHERE state = 'FAILED';
CREATE INDEX trials_best    ON trials (study, objective, number) WHERE state = 'COMPLETE';

-- Whoever inserts trials counts them; what becomes of them is counted here.
CREATE TRIGGER trials_recounted AFTER UPDATE OF state ON trials WHEN OLD.state <> NEW.state BEGIN
    UPDATE study_counts SET n = n - 1 WHERE study = OLD.study AND state = OLD.state;
    INSERT INTO study_counts (study, state, n) VALUES (NEW.study, NEW.state, 1)
        ON CONFLICT (study, state) DO UPDATE SET n = n + 1;
END;
INSERT INTO study_counts (study, state, n)
    SELECT study, state, count(*) FROM trials WHERE study IN (SELECT study FROM expansions) GROUP BY study, state;
