-- Studies of many trials are expanded in pieces: those that are not whole yet, and the number of the next trial.
CREATE TABLE expansions (
    study INTEGER PRIMARY KEY REFERENCES studies (id) ON DELETE CASCADE,
    next  INTEGER NOT NULL CHECK (next >= 1)
) STRICT;

-- The trials of such a study are not counted, and so not leased, before it is whole.
DROP TRIGGER trials_counted;
CREATE TRIGGER trials_counted AFTER INSERT ON trials
WHEN NOT EXISTS (SELECT 1 FROM expansions WHERE study = NEW.study) BEGIN
    INSERT INTO study_counts (study, state, n) VALUES (NEW.study, NEW.state, 1)
        ON CONFLICT (study, state) DO UPDATE SET n = n + 1;
END;
