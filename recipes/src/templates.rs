//! Small working projects for `sos init`.

/// One project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// Name, as given to `--template`.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Relative path and text of each file.
    pub files: &'static [(&'static str, &'static str)],
}

/// Every template, the default one first.
pub const TEMPLATES: &[Template] = &[
    Template {
        name: "debian",
        about: "a Debian root filesystem as a container image, with a program compiled from C",
        files: &[
            (".gitignore", include_str!("templates/debian/gitignore")),
            ("sos.nix", include_str!("templates/debian/sos.nix")),
            (
                "host.rootfs.toml",
                include_str!("templates/debian/host.rootfs.toml"),
            ),
            (
                "toolchain.rootfs.toml",
                include_str!("templates/debian/toolchain.rootfs.toml"),
            ),
            ("hello.c", include_str!("templates/debian/hello.c")),
        ],
    },
    Template {
        name: "nix",
        about: "derivations in the Nix language that run commands in a small Debian",
        files: &[
            (".gitignore", include_str!("templates/nix/gitignore")),
            ("sos.nix", include_str!("templates/nix/sos.nix")),
        ],
    },
];

/// Returns a template by its name.
pub fn find(name: &str) -> Option<&'static Template> {
    TEMPLATES.iter().find(|t| t.name == name)
}
