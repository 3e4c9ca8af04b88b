//! The content-addressed store: blobs, trees, rootfs manifests, metadata, garbage collection.
