-- What is special below a manifest node, so that nothing has to be read to pass it by: see `rootfs/below.rs`. Nodes that an older
-- sos noted have nothing here.
ALTER TABLE node ADD COLUMN below BLOB;
