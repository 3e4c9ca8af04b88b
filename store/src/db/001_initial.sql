-- The first format of the store's database. Every statement of the store is in this directory.

-- An object is valid exactly when its row is here.
CREATE TABLE path (
    id          INTEGER PRIMARY KEY,
    hash20      BLOB    NOT NULL UNIQUE,   -- the digest in the store path
    name        TEXT    NOT NULL,
    kind        INTEGER NOT NULL,          -- 0 tree, 1 rootfs
    nar_sha256  BLOB,                      -- trees only
    nar_size    INTEGER NOT NULL,
    root_blake3 BLOB,                      -- rootfs objects only: the id of the manifest
    ca          TEXT,
    deriver     TEXT,                      -- base name of the .drv
    registered  INTEGER NOT NULL,          -- seconds since 1970, for people
    sigs        TEXT
);
CREATE INDEX path_root ON path(root_blake3) WHERE root_blake3 IS NOT NULL;

CREATE TABLE ref (
    src INTEGER NOT NULL REFERENCES path(id) ON DELETE CASCADE,
    dst INTEGER NOT NULL REFERENCES path(id),
    PRIMARY KEY (src, dst)
) WITHOUT ROWID;
CREATE INDEX ref_dst ON ref(dst);

-- Manifest nodes below registered rootfs objects: such a node is known to be complete (it and all below it
-- are in man/ and cas/), so registering a changed rootfs costs what it changed.
CREATE TABLE node (
    hash BLOB    PRIMARY KEY,
    size INTEGER NOT NULL                   -- of all files below, in bytes
) WITHOUT ROWID;

CREATE TABLE drv (
    hash20 BLOB PRIMARY KEY,
    name   TEXT NOT NULL,
    aterm  BLOB NOT NULL
) WITHOUT ROWID;

-- Outputs by the derivation that was asked for; counts only while the path is valid.
CREATE TABLE drv_output (
    drv    TEXT NOT NULL,
    output TEXT NOT NULL,
    path   TEXT NOT NULL,
    PRIMARY KEY (drv, output)
) WITHOUT ROWID;
CREATE INDEX drv_output_path ON drv_output(path);

-- Results by the key of the resolved derivation. Many rows may exist for a key: two builds can be compared.
CREATE TABLE trace (
    id          INTEGER PRIMARY KEY,
    key         BLOB    NOT NULL,
    output      TEXT    NOT NULL,
    drv         TEXT    NOT NULL,
    path        TEXT    NOT NULL,
    builder     TEXT    NOT NULL,
    started     INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    log         TEXT
);
CREATE INDEX trace_key ON trace(key, output);
CREATE INDEX trace_path ON trace(path);

CREATE TABLE lease (
    id      INTEGER PRIMARY KEY,
    pid     INTEGER NOT NULL,
    start   INTEGER NOT NULL,
    boot    TEXT    NOT NULL,
    session TEXT                            -- a directory of tmp/, whose flock proves life across pid namespaces
);
CREATE TABLE lease_path (
    lease INTEGER NOT NULL REFERENCES lease(id) ON DELETE CASCADE,
    base  TEXT    NOT NULL,
    PRIMARY KEY (lease, base)
) WITHOUT ROWID;

-- Contents of files outside the store, by what stat says about them.
CREATE TABLE statcache (
    dev      INTEGER NOT NULL,
    ino      INTEGER NOT NULL,
    size     INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    blake3   BLOB    NOT NULL,
    PRIMARY KEY (dev, ino)
) WITHOUT ROWID;
-- Hashes of whole source trees, by the BLAKE3 of their listing.
CREATE TABLE treecache (
    listing  BLOB PRIMARY KEY,
    sha256   BLOB    NOT NULL,
    nar_size INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE evalcache (
    fingerprint BLOB PRIMARY KEY,
    result      TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE build (
    id       INTEGER PRIMARY KEY,
    started  INTEGER NOT NULL,
    finished INTEGER,
    status   TEXT,
    command  TEXT NOT NULL
);
CREATE TABLE build_event (
    build INTEGER NOT NULL REFERENCES build(id) ON DELETE CASCADE,
    seq   INTEGER NOT NULL,
    json  TEXT    NOT NULL,
    PRIMARY KEY (build, seq)
) WITHOUT ROWID;
CREATE TABLE duration (
    id     INTEGER PRIMARY KEY,
    name   TEXT    NOT NULL,
    system TEXT    NOT NULL,
    ms     INTEGER NOT NULL
);
CREATE INDEX duration_name ON duration(name, system, id);
