-- Processes of workers that another one of the same name has replaced: a late word of one does not bring it back.
CREATE TABLE replaced_processes (
    id          INTEGER PRIMARY KEY,          -- in the order of their replacement
    worker      TEXT    NOT NULL,
    incarnation TEXT    NOT NULL,
    UNIQUE (worker, incarnation)
) STRICT;
