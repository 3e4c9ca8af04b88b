-- What was worked out of the content of a blob and is dear to work out again: checksums, the name of its compressed form.
-- A value follows from the key alone, so it is never wrong; it is forgotten when the blob goes.
CREATE TABLE derived (
    key    BLOB PRIMARY KEY,                -- BLAKE3 of what was worked out, and of what
    source BLOB NOT NULL,                   -- the blob
    value  BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX derived_source ON derived(source);
