-- The first schema. Every table is STRICT, and CHECKs refuse rows that the state machine cannot produce.
-- Times: *_at_ms are wall-clock milliseconds for people; no decision compares them. Digests: sha256:<hex>.

CREATE TABLE studies (
    id             INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice: study files are remembered by it
    uuid           TEXT    NOT NULL UNIQUE,
    name           TEXT    NOT NULL UNIQUE CHECK (name <> ''),
    state          TEXT    NOT NULL CHECK (state IN ('ACTIVE', 'PAUSED', 'COMPLETE', 'CANCELED')),
    reason         TEXT    NOT NULL DEFAULT '',
    spec_toml      TEXT    NOT NULL,
    corpus         TEXT    NOT NULL,
    corpus_digest  TEXT    NOT NULL REFERENCES blobs (digest),
    split_digest   TEXT    NOT NULL,
    vocabulary     INTEGER NOT NULL CHECK (vocabulary >= 0),
    weight         REAL    NOT NULL CHECK (weight > 0),
    device         TEXT,                     -- what its trials require: 'cpu', 'cuda'; NULL: anything
    configurations INTEGER NOT NULL CHECK (configurations > 0), -- times replicates
    max_hours      REAL    CHECK (max_hours > 0),
    elapsed_ms     INTEGER NOT NULL DEFAULT 0 CHECK (elapsed_ms >= 0), -- while ACTIVE, on the monotonic clock
    created_at_ms  INTEGER NOT NULL,
    ended_at_ms    INTEGER,
    CHECK ((state IN ('COMPLETE', 'CANCELED')) = (ended_at_ms IS NOT NULL))
) STRICT;

CREATE INDEX studies_state ON studies (state);

-- How many trials of a study are in which state: kept by triggers, so that nobody has to count.
CREATE TABLE study_counts (
    study INTEGER NOT NULL REFERENCES studies (id) ON DELETE CASCADE,
    state TEXT    NOT NULL,
    n     INTEGER NOT NULL CHECK (n >= 0),
    PRIMARY KEY (study, state)
) STRICT, WITHOUT ROWID;

CREATE TABLE trials (
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
    UNIQUE (study, config_hash, replicate),
    UNIQUE (study, number),
    CHECK ((state = 'RUNNING') = (running_attempt IS NOT NULL)),
    CHECK (running_attempt IS NULL OR running_attempt = attempts),
    CHECK (failures + losses <= attempts),
    CHECK ((state IN ('COMPLETE', 'PRUNED', 'FAILED', 'CANCELED')) = (ended_at_ms IS NOT NULL)),
    CHECK (state <> 'COMPLETE' OR (epochs >= epochs_wanted AND objective IS NOT NULL)),
    CHECK ((epochs = 0) = (best_epoch IS NULL)),
    CHECK (best_epoch IS NULL OR best_epoch BETWEEN 1 AND epochs)
) STRICT;

CREATE INDEX trials_queue   ON trials (study, number)            WHERE state = 'QUEUED';
CREATE INDEX trials_mates   ON trials (study, shape_key, number) WHERE state = 'QUEUED';
CREATE INDEX trials_returned ON trials (study, avoid_worker, number) WHERE state = 'QUEUED' AND avoid_worker IS NOT NULL;
CREATE INDEX trials_running ON trials (study, number)            WHERE state = 'RUNNING';
CREATE INDEX trials_paused  ON trials (study, number)            WHERE state = 'PAUSED';
CREATE INDEX trials_failed  ON trials (study, reason)            WHERE state = 'FAILED';
CREATE INDEX trials_best    ON trials (study, objective, number) WHERE state = 'COMPLETE';

CREATE TRIGGER trials_counted AFTER INSERT ON trials BEGIN
    INSERT INTO study_counts (study, state, n) VALUES (NEW.study, NEW.state, 1)
        ON CONFLICT (study, state) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER trials_recounted AFTER UPDATE OF state ON trials WHEN OLD.state <> NEW.state BEGIN
    UPDATE study_counts SET n = n - 1 WHERE study = OLD.study AND state = OLD.state;
    INSERT INTO study_counts (study, state, n) VALUES (NEW.study, NEW.state, 1)
        ON CONFLICT (study, state) DO UPDATE SET n = n + 1;
END;

CREATE TABLE attempts (
    trial            INTEGER NOT NULL REFERENCES trials (id) ON DELETE CASCADE,
    attempt          INTEGER NOT NULL CHECK (attempt >= 1),
    worker           TEXT    NOT NULL,
    incarnation      TEXT    NOT NULL,
    device           TEXT    NOT NULL,
    program_version  TEXT    NOT NULL,
    kind             TEXT    NOT NULL,
    dtype            TEXT    NOT NULL,
    start_epoch      INTEGER NOT NULL CHECK (start_epoch >= 0),
    start_checkpoint TEXT,
    started_at_ms    INTEGER NOT NULL,
    ended_at_ms      INTEGER,
    outcome          TEXT CHECK (outcome IN
                     ('COMPLETE', 'PRUNED', 'PAUSED', 'FAILED', 'LOST', 'RELEASED', 'CANCELED')),
    reason           TEXT    NOT NULL DEFAULT '',
    seconds          REAL    NOT NULL DEFAULT 0,
    grace_ms         INTEGER NOT NULL DEFAULT 0 CHECK (grace_ms >= 0), -- given after restarts, since a beat was heard
    PRIMARY KEY (trial, attempt),
    CHECK ((outcome IS NULL) = (ended_at_ms IS NULL)),
    CHECK (start_epoch = 0 OR start_checkpoint IS NOT NULL)
) STRICT, WITHOUT ROWID;

-- A trial has at most one attempt that has not ended.
CREATE UNIQUE INDEX attempts_running ON attempts (trial) WHERE outcome IS NULL;
CREATE INDEX attempts_of_worker ON attempts (worker) WHERE outcome IS NULL;

CREATE TABLE logs (
    trial   INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    log     TEXT    NOT NULL,
    PRIMARY KEY (trial, attempt),
    FOREIGN KEY (trial, attempt) REFERENCES attempts (trial, attempt) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE measurements (
    trial          INTEGER NOT NULL,
    attempt        INTEGER NOT NULL,
    epoch          INTEGER NOT NULL CHECK (epoch >= 1),
    train_loss     REAL    NOT NULL CHECK (abs(train_loss) < 9e999), -- NaN is NULL to SQLite
    val_loss       REAL    NOT NULL CHECK (abs(val_loss) < 9e999),
    seconds        REAL    NOT NULL CHECK (seconds >= 0),
    tokens_per_s   REAL    NOT NULL CHECK (tokens_per_s >= 0),
    weights_digest TEXT    NOT NULL,
    superseded     INTEGER NOT NULL DEFAULT 0 CHECK (superseded IN (0, 1)),
    at_ms          INTEGER NOT NULL,
    PRIMARY KEY (trial, attempt, epoch),
    FOREIGN KEY (trial, attempt) REFERENCES attempts (trial, attempt) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- The curve follows the lineage of checkpoints: one row an epoch.
CREATE UNIQUE INDEX measurements_lineage ON measurements (trial, epoch) WHERE superseded = 0;

CREATE TABLE blobs (
    digest        TEXT    PRIMARY KEY CHECK (length(digest) = 71 AND digest GLOB 'sha256:*'),
    size          INTEGER NOT NULL CHECK (size >= 0),
    created_at_ms INTEGER NOT NULL,
    damaged       INTEGER NOT NULL DEFAULT 0 CHECK (damaged IN (0, 1)) -- its file is missing or has other bytes
) STRICT, WITHOUT ROWID;

-- The files of every manifest that a checkpoint or a model's version names.
CREATE TABLE manifest_files (
    manifest TEXT    NOT NULL REFERENCES blobs (digest) ON DELETE CASCADE,
    name     TEXT    NOT NULL CHECK (name IN
             ('config.json', 'model.safetensors', 'training.safetensors', 'vocab.json')),
    digest   TEXT    NOT NULL REFERENCES blobs (digest),
    size     INTEGER NOT NULL CHECK (size >= 0),
    PRIMARY KEY (manifest, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_files_digest ON manifest_files (digest);

CREATE TABLE checkpoints (
    trial         INTEGER NOT NULL REFERENCES trials (id) ON DELETE CASCADE,
    role          TEXT    NOT NULL CHECK (role IN ('best', 'last')),
    digest        TEXT    NOT NULL REFERENCES blobs (digest),
    epoch         INTEGER NOT NULL CHECK (epoch >= 0),
    attempt       INTEGER NOT NULL,            -- that wrote it
    val_loss      REAL,
    bytes         INTEGER NOT NULL CHECK (bytes >= 0),
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (trial, role),
    FOREIGN KEY (trial, attempt) REFERENCES attempts (trial, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX checkpoints_digest ON checkpoints (digest);
CREATE INDEX checkpoints_attempt ON checkpoints (trial, attempt);

CREATE TABLE workers (
    name             TEXT    PRIMARY KEY CHECK (name <> ''),
    incarnation      TEXT    NOT NULL,
    host             TEXT    NOT NULL,
    state            TEXT    NOT NULL CHECK (state IN ('ready', 'cordoned', 'draining')),
    devices          TEXT    NOT NULL CHECK (json_valid(devices)),
    slots            INTEGER NOT NULL CHECK (slots >= 1),
    study            TEXT,                     -- serves only this one; NULL: any
    program_version  TEXT    NOT NULL,
    kind             TEXT    NOT NULL,
    dtype            TEXT    NOT NULL,
    registered_at_ms INTEGER NOT NULL,
    last_seen_ms     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Answers to requests that may be repeated. `answer` is JSON of the domain, not of the wire.
CREATE TABLE requests (
    id         TEXT    PRIMARY KEY CHECK (id <> ''),
    kind       TEXT    NOT NULL CHECK (kind IN ('lease', 'create', 'promote')),
    scope      TEXT    NOT NULL,               -- the worker, the study's or the model's name
    answer     TEXT    NOT NULL CHECK (json_valid(answer)),
    at_ms      INTEGER NOT NULL
) STRICT;
CREATE INDEX requests_scope ON requests (kind, scope);

-- The history of studies. It outlives nothing: a study's deletion takes it along.
CREATE TABLE events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    study   INTEGER NOT NULL REFERENCES studies (id) ON DELETE CASCADE,
    type    TEXT    NOT NULL,
    at_ms   INTEGER NOT NULL,
    trial   INTEGER NOT NULL DEFAULT 0,        -- its number; 0: the study's own event
    attempt INTEGER NOT NULL DEFAULT 0,
    json    TEXT    NOT NULL CHECK (json_valid(json))
) STRICT;
CREATE INDEX events_study ON events (study, seq);

CREATE TABLE models (
    id            INTEGER PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE CHECK (name <> ''),
    created_at_ms INTEGER NOT NULL
) STRICT;

-- A version never changes and outlives the study it came from, so it carries what it needs to say where from.
CREATE TABLE versions (
    model         INTEGER NOT NULL REFERENCES models (id),
    version       INTEGER NOT NULL CHECK (version >= 1),
    digest        TEXT    NOT NULL REFERENCES blobs (digest),   -- of the manifest without training.safetensors
    study         TEXT    NOT NULL,                             -- its name then
    study_uuid    TEXT    NOT NULL,
    trial         INTEGER NOT NULL,                             -- its number
    config        TEXT    NOT NULL CHECK (json_valid(config)),
    val_loss      REAL,
    test_loss     REAL,
    lineage       TEXT    NOT NULL CHECK (json_valid(lineage)),
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (model, version),
    UNIQUE (model, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX versions_digest ON versions (digest);

CREATE TRIGGER versions_immutable BEFORE UPDATE OF model, version, digest, study, trial, config, lineage ON versions
BEGIN
    SELECT RAISE(ABORT, 'a version is immutable');
END;

CREATE TABLE aliases (
    model      INTEGER NOT NULL REFERENCES models (id),
    alias      TEXT    NOT NULL CHECK (alias <> ''),
    version    INTEGER NOT NULL,
    generation INTEGER NOT NULL CHECK (generation >= 1),
    PRIMARY KEY (model, alias),
    FOREIGN KEY (model, version) REFERENCES versions (model, version)
) STRICT, WITHOUT ROWID;
CREATE INDEX aliases_alias ON aliases (alias);

CREATE TABLE alias_history (
    model            INTEGER NOT NULL,
    alias            TEXT    NOT NULL,
    generation       INTEGER NOT NULL CHECK (generation >= 1),
    version          INTEGER NOT NULL,
    previous_version INTEGER NOT NULL CHECK (previous_version >= 0),   -- 0: none
    at_ms            INTEGER NOT NULL,
    actor            TEXT    NOT NULL,
    action           TEXT    NOT NULL CHECK (action IN ('promote', 'rollback', 'reject')),
    reason           TEXT    NOT NULL,
    PRIMARY KEY (model, alias, generation),
    FOREIGN KEY (model, version) REFERENCES versions (model, version)
) STRICT, WITHOUT ROWID;

-- Evaluations of models as work under leases: (model, corpus, part), nats a piece.
CREATE TABLE evaluations (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    model_digest    TEXT    NOT NULL REFERENCES blobs (digest),
    corpus_digest   TEXT    NOT NULL REFERENCES blobs (digest),
    part            TEXT    NOT NULL CHECK (part IN ('val', 'test')),
    state           TEXT    NOT NULL CHECK (state IN ('QUEUED', 'RUNNING', 'COMPLETE', 'FAILED')),
    attempts        INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    running_attempt INTEGER,
    worker          TEXT,
    reason          TEXT    NOT NULL DEFAULT '',
    created_at_ms   INTEGER NOT NULL,
    ended_at_ms     INTEGER,
    UNIQUE (model_digest, corpus_digest, part),
    CHECK ((state = 'RUNNING') = (running_attempt IS NOT NULL)),
    CHECK ((state IN ('COMPLETE', 'FAILED')) = (ended_at_ms IS NOT NULL))
) STRICT;
CREATE INDEX evaluations_queue ON evaluations (id) WHERE state = 'QUEUED';

CREATE TABLE evaluation_pieces (
    evaluation INTEGER NOT NULL REFERENCES evaluations (id) ON DELETE CASCADE,
    piece      TEXT    NOT NULL,
    tokens     INTEGER NOT NULL CHECK (tokens > 0),
    nats       REAL    NOT NULL CHECK (abs(nats) < 9e999),
    PRIMARY KEY (evaluation, piece)
) STRICT, WITHOUT ROWID;
