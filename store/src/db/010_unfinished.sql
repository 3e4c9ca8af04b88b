-- Targets of runs that have not come to their end: what their finished steps have made is kept.
CREATE TABLE unfinished (
    id      INTEGER PRIMARY KEY,
    attr    TEXT    NOT NULL,               -- the attribute path by which it is asked for, with its file, or the base name of its .drv
    project TEXT    NOT NULL,               -- the directory
    drv     TEXT    NOT NULL,               -- base name of the .drv, whose graph is in the table drv
    noted   INTEGER NOT NULL                -- seconds since 1970
);
CREATE UNIQUE INDEX unfinished_of ON unfinished(attr, project);
