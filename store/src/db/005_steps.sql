-- What every run did, derivation by derivation: `sos why` and `sos builds` answer from this, days later.
ALTER TABLE build ADD COLUMN project TEXT NOT NULL DEFAULT '';
ALTER TABLE build ADD COLUMN host    TEXT NOT NULL DEFAULT '';  -- of the machine; stays in this table
ALTER TABLE build ADD COLUMN pid     INTEGER;
ALTER TABLE build ADD COLUMN start   INTEGER;
ALTER TABLE build ADD COLUMN boot    TEXT;
ALTER TABLE build ADD COLUMN summary TEXT;                      -- JSON: counts, time, exit code, results

CREATE TABLE step (
    id       INTEGER PRIMARY KEY,
    build    INTEGER NOT NULL REFERENCES build(id) ON DELETE CASCADE,
    drv      TEXT    NOT NULL,              -- base name of the .drv
    name     TEXT    NOT NULL,
    attr     TEXT,                          -- the attribute path by which it was asked for
    status   TEXT    NOT NULL,
    queued   INTEGER NOT NULL,              -- milliseconds since 1970, as the two below
    started  INTEGER,
    finished INTEGER,
    cause    TEXT,                          -- JSON
    outputs  TEXT,                          -- JSON: path and size of each
    detail   BLOB                           -- JSON, compressed: inputs with their digests, what it waited for
);
CREATE UNIQUE INDEX step_of ON step(build, drv);
CREATE INDEX step_drv ON step(drv, id);
CREATE INDEX step_name ON step(name, id);
CREATE INDEX step_attr ON step(attr, id) WHERE attr IS NOT NULL;

-- The first run in which a source or a derivation took part.
CREATE TABLE seen (
    base  TEXT PRIMARY KEY,
    build INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX seen_build ON seen(build);

-- The files of sources with their digests, so that what changed can be named when the source itself is gone.
CREATE TABLE source (
    base  TEXT    PRIMARY KEY,              -- of the store object
    noted INTEGER NOT NULL,                 -- seconds since 1970
    size  INTEGER NOT NULL,                 -- bytes of the column below
    files BLOB    NOT NULL                  -- compressed
);
CREATE INDEX source_noted ON source(noted, size);
