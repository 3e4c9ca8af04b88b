//! The text of the `sos` library, in the Nix language, as the evaluator sees it under `<sos>`.

/// Name and text of each file.
pub const LIBRARY: &[(&str, &str)] = &[
    ("default.nix", include_str!("lib/default.nix")),
    ("bootc.nix", include_str!("lib/bootc.nix")),
    ("bootstrap.nix", include_str!("lib/bootstrap.nix")),
    ("debian.nix", include_str!("lib/debian.nix")),
    ("derive.nix", include_str!("lib/derive.nix")),
    ("disk.nix", include_str!("lib/disk.nix")),
    ("fetch.nix", include_str!("lib/fetch.nix")),
    ("filesystem.nix", include_str!("lib/filesystem.nix")),
    ("oci.nix", include_str!("lib/oci.nix")),
    ("ostree.nix", include_str!("lib/ostree.nix")),
    ("rootfs.nix", include_str!("lib/rootfs.nix")),
    ("run.nix", include_str!("lib/run.nix")),
];
