-- What a run notes of derivations lies together, in the order in which it came, and is found by small indexes. In the order of their
-- digests, which are random, nearly each row took a page of its own. The first 12 of the 32 digits in a base name tell paths apart, the
-- statements compare the whole name.
CREATE TABLE drv_row (
    id     INTEGER PRIMARY KEY,
    hash20 BLOB NOT NULL UNIQUE,
    name   TEXT NOT NULL,
    aterm  BLOB NOT NULL
);
INSERT INTO drv_row (hash20, name, aterm) SELECT hash20, name, aterm FROM drv;
DROP TABLE drv;
ALTER TABLE drv_row RENAME TO drv;

-- One row for each output of a derivation: `set_output` sees to that.
CREATE TABLE drv_output_row (
    id     INTEGER PRIMARY KEY,
    drv    TEXT NOT NULL,
    output TEXT NOT NULL,
    path   TEXT NOT NULL
);
INSERT INTO drv_output_row (drv, output, path) SELECT drv, output, path FROM drv_output;
DROP TABLE drv_output;
ALTER TABLE drv_output_row RENAME TO drv_output;
CREATE INDEX drv_output_drv ON drv_output(substr(drv, 1, 12));
CREATE INDEX drv_output_path ON drv_output(substr(path, 1, 12));

DROP INDEX step_drv;
CREATE INDEX step_drv ON step(substr(drv, 1, 12));

-- One row for each base name: `put_seen` sees to that.
CREATE TABLE seen_row (
    id    INTEGER PRIMARY KEY,
    base  TEXT    NOT NULL,
    build INTEGER NOT NULL
);
INSERT INTO seen_row (base, build) SELECT base, build FROM seen;
DROP TABLE seen;
ALTER TABLE seen_row RENAME TO seen;
CREATE INDEX seen_base ON seen(substr(base, 1, 12));
CREATE INDEX seen_build ON seen(build);
