-- What each target of each project was the last time that all of it was there, built or found: causes are told by comparing with it.
CREATE TABLE target (
    id      INTEGER PRIMARY KEY,            -- the newest has the largest
    attr    TEXT    NOT NULL,               -- the attribute path by which it is asked for, with its file
    project TEXT    NOT NULL,               -- the directory
    drv     TEXT    NOT NULL,               -- base name of the .drv
    noted   INTEGER NOT NULL                -- seconds since 1970
);
CREATE UNIQUE INDEX target_of ON target(attr, project);
