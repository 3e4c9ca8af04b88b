-- What was built under each name, as its builder saw it: the cause of the next build is told by comparing with it.
CREATE TABLE built (
    id        INTEGER PRIMARY KEY,
    drv       TEXT    NOT NULL UNIQUE,      -- base name of the .drv
    name      TEXT    NOT NULL,             -- the project, and the name without the version
    system    TEXT    NOT NULL,
    identity  TEXT    NOT NULL,             -- base name of the derivation with every input a store path
    noted     INTEGER NOT NULL,             -- seconds since 1970
    collected INTEGER NOT NULL DEFAULT 0,   -- an output was taken by a garbage collection since
    aterm     BLOB                          -- that derivation, compressed; the newest of each name have it
);
CREATE INDEX built_name ON built(name, system, id) WHERE aterm IS NOT NULL;
CREATE INDEX built_identity ON built(identity, id);
