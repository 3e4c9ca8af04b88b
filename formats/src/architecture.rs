//! Names of architectures: those of Debian, of images, of Nix and of the kernel for one and the same machine.
//!
//! Source: the port names of Debian (`dpkg-architecture -L`), `GOARCH` and its variants as image-spec uses them, `uname -m`.

/// One architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// Debian's name; that of the kernel where Debian has none.
    pub debian: &'static str,
    /// Go's name, which images have.
    pub go: &'static str,
    /// What images add to it.
    pub variant: Option<&'static str>,
    /// What Nix calls a machine with Linux.
    pub nix: &'static str,
    /// Further names that people write.
    others: &'static [&'static str],
}

const fn architecture(
    debian: &'static str,
    go: &'static str,
    variant: Option<&'static str>,
    nix: &'static str,
    others: &'static [&'static str],
) -> Architecture {
    Architecture {
        debian,
        go,
        variant,
        nix,
        others,
    }
}

/// All that are known.
pub const ARCHITECTURES: [Architecture; 11] = [
    architecture("amd64", "amd64", None, "x86_64-linux", &[]),
    architecture("arm64", "arm64", None, "aarch64-linux", &[]),
    architecture("i386", "386", None, "i686-linux", &[]),
    architecture("armhf", "arm", Some("v7"), "armv7l-linux", &[]),
    architecture("armel", "arm", Some("v5"), "armv5tel-linux", &[]),
    architecture("armv6l", "arm", Some("v6"), "armv6l-linux", &[]),
    architecture("riscv64", "riscv64", None, "riscv64-linux", &[]),
    architecture(
        "ppc64el",
        "ppc64le",
        None,
        "powerpc64le-linux",
        &["ppc64le"],
    ),
    architecture("s390x", "s390x", None, "s390x-linux", &[]),
    architecture("mips64el", "mips64le", None, "mips64el-linux", &[]),
    architecture("loong64", "loong64", None, "loongarch64-linux", &[]),
];

impl Architecture {
    /// Finds an architecture by one of its names, Nix's with or without `-linux`. Go's `arm` is the newest of the three.
    ///
    /// ```
    /// use sos_formats::architecture::Architecture;
    /// let found = Architecture::named("x86_64-linux").map(|found| found.debian);
    /// assert_eq!(found, Some("amd64"));
    /// ```
    pub fn named(name: &str) -> Option<&'static Self> {
        let name = name.strip_suffix("-linux").unwrap_or(name);
        ARCHITECTURES
            .iter()
            .find(|one| one.names().any(|known| known == name))
    }

    /// All its names; several machines share Go's `arm`.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        let kernel = self.nix.strip_suffix("-linux").unwrap_or(self.nix);
        let more = self.others.iter().copied();
        [self.debian, self.go, kernel, self.nix]
            .into_iter()
            .chain(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_one_machine() {
        for (names, go, variant) in [
            (&["amd64", "x86_64", "x86_64-linux"][..], "amd64", None),
            (&["i386", "i686", "386", "i686-linux"], "386", None),
            (&["arm64", "aarch64", "aarch64-linux"], "arm64", None),
            (&["armhf", "armv7l", "arm"], "arm", Some("v7")),
            (&["armel", "armv5tel"], "arm", Some("v5")),
            (&["armv6l"], "arm", Some("v6")),
            (&["ppc64el", "ppc64le", "powerpc64le"], "ppc64le", None),
            (&["mips64el", "mips64le"], "mips64le", None),
            (&["loong64", "loongarch64"], "loong64", None),
            (&["riscv64", "riscv64-linux"], "riscv64", None),
            (&["s390x"], "s390x", None),
        ] {
            for name in names {
                let found = Architecture::named(name).map(|one| (one.go, one.variant));
                assert_eq!(found, Some((go, variant)), "{name}");
            }
        }
        for name in ["", "vax", "x86", "linux", "-linux", "AMD64"] {
            assert_eq!(Architecture::named(name), None, "{name}");
        }
    }

    #[test]
    fn no_name_stands_for_two() {
        let mut seen = std::collections::BTreeSet::new();
        for one in &ARCHITECTURES {
            assert!(seen.insert((one.go, one.variant)), "{one:?}");
            assert_eq!(Architecture::named(one.debian), Some(one));
            assert_eq!(Architecture::named(one.nix), Some(one));
        }
    }
}
