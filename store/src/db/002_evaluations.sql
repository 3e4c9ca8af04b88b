-- Results of evaluations, by the BLAKE3 of the command that asked. Large columns last: SQLite reads no further than it must.
DROP TABLE evalcache;
CREATE TABLE evaluation (
    key    BLOB    PRIMARY KEY,
    used   INTEGER NOT NULL,                -- seconds since 1970
    size   INTEGER NOT NULL,                -- bytes of the three columns below
    result BLOB    NOT NULL,
    inputs BLOB    NOT NULL,
    graph  BLOB
);
CREATE INDEX evaluation_used ON evaluation(used);
