-- Who built something: results of several machines can be compared.
ALTER TABLE trace ADD COLUMN host TEXT;

-- What came out when an output that is there was built again, to see whether it is the same.
CREATE TABLE rebuild (
    id          INTEGER PRIMARY KEY,
    path        TEXT    NOT NULL,       -- base name of the output that is there
    drv         TEXT    NOT NULL,
    output      TEXT    NOT NULL,
    same        INTEGER NOT NULL,
    found       TEXT    NOT NULL,       -- hash of what came out
    conditions  TEXT    NOT NULL,       -- what was varied, with a comma between
    host        TEXT    NOT NULL,
    started     INTEGER NOT NULL,       -- seconds since 1970
    duration_ms INTEGER NOT NULL
);
CREATE INDEX rebuild_path ON rebuild(path, id);
