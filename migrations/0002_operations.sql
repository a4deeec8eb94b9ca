-- What it takes to look after a coordinator: restores, bad nodes, logs of what runs.

-- Which life of this store it is. A restore begins another: what leases of before it hold, they hold of another life.
CREATE TABLE store_life (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    life           INTEGER NOT NULL CHECK (life BETWEEN 0 AND 2147483647), -- 0: never restored; else drawn by lot
    restored_at_ms INTEGER
) STRICT;
INSERT INTO store_life (one, life) VALUES (1, 0);

-- Workers can be quarantined: `reason` says why, `early_failures` is what is held against them (JSON).
CREATE TABLE workers_2 (
    name             TEXT    PRIMARY KEY CHECK (name <> ''),
    incarnation      TEXT    NOT NULL,
    host             TEXT    NOT NULL,
    state            TEXT    NOT NULL CHECK (state IN ('ready', 'cordoned', 'draining', 'quarantined')),
    reason           TEXT    NOT NULL DEFAULT '',
    early_failures   TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(early_failures)),
    devices          TEXT    NOT NULL CHECK (json_valid(devices)),
    slots            INTEGER NOT NULL CHECK (slots >= 1),
    study            TEXT,                     -- serves only this one; NULL: any
    program_version  TEXT    NOT NULL,
    kind             TEXT    NOT NULL,
    dtype            TEXT    NOT NULL,
    registered_at_ms INTEGER NOT NULL,
    last_seen_ms     INTEGER NOT NULL,
    CHECK ((state = 'quarantined') = (reason <> ''))
) STRICT, WITHOUT ROWID;
INSERT INTO workers_2 (name, incarnation, host, state, devices, slots, study, program_version, kind, dtype,
                       registered_at_ms, last_seen_ms)
    SELECT name, incarnation, host, state, devices, slots, study, program_version, kind, dtype,
           registered_at_ms, last_seen_ms FROM workers;
DROP TABLE workers;
ALTER TABLE workers_2 RENAME TO workers;

-- Bytes of the whole log, whose end is kept; 0: what is kept is all.
ALTER TABLE logs ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0 CHECK (bytes >= 0);

-- What an attempt that runs has logged so far, in pieces; its end puts the whole into `logs`.
CREATE TABLE log_pieces (
    trial   INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    start   INTEGER NOT NULL CHECK (start >= 0), -- byte of the attempt's whole log
    text    TEXT    NOT NULL CHECK (text <> ''),
    PRIMARY KEY (trial, attempt, start),
    FOREIGN KEY (trial, attempt) REFERENCES attempts (trial, attempt) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
