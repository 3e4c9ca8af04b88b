//! Fetching one suite: its release file, verified, and the package indexes that the file names.

use sha2::{Digest as _, Sha256};
use sos_formats::deb::release::format_date;
use sos_formats::deb::{Codec, IndexEntry, Paragraphs, Release};
use sos_formats::diagnostic::{Class, Diagnostic, Label, suggest};
use sos_formats::hash;
use sos_formats::lock::{LockedIndex, LockedRelease, LockedSuite, RootfsSource, Wanted};

use super::codec::decompress;
use super::verify::{Keyring, Verified};
use crate::fetch::Download;

/// Real release files are below one megabyte.
const MAX_RELEASE_BYTES: u64 = 16 << 20;
/// The largest real index is below a tenth of this.
const MAX_INDEX_BYTES: u64 = 1 << 30;

/// A suite as it is now.
#[derive(Debug)]
pub(crate) struct Suite {
    /// What the lock says of it.
    pub(crate) locked: LockedSuite,
    /// The priority that apt gives its packages.
    pub(crate) pin: i32,
    /// The text of each index.
    pub(crate) indexes: Vec<String>,
    /// How people call it, for messages.
    pub(crate) name: String,
}

/// Where and how to fetch.
pub(crate) struct Fetching<'f> {
    pub(crate) download: &'f dyn Download,
    pub(crate) now_secs: i64,
    pub(crate) arch: &'f str,
}

impl Fetching<'_> {
    /// Fetches and checks one suite of a source.
    pub(crate) fn suite(
        &self,
        source: &RootfsSource,
        suite: &Wanted,
        keyring: &Keyring,
    ) -> Result<Suite, Box<Diagnostic>> {
        let uri = source.uri.trim_end_matches('/');
        let name = suite.text.as_str();
        // A name that ends in a slash is a directory of its own, without components.
        let flat = name.ends_with('/');
        let base = if flat {
            format!("{uri}/{}", name.trim_start_matches("./"))
        } else {
            format!("{uri}/dists/{name}/")
        };
        let label = |d: Box<Diagnostic>| Box::new(d.with_labels(suite.label.clone()));
        let (bytes, verified) = self.release(&base, name, keyring).map_err(label)?;
        let release = Release::parse(&verified.text).map_err(|err| {
            label(Box::new(Diagnostic::error(
                "deb-bad-index",
                Class::Fetch,
                format!("the release file of `{name}` is malformed: {err}"),
            )))
        })?;
        self.check(&release, source, suite, flat)?;
        let directories: Vec<String> = if flat {
            vec![String::new()]
        } else {
            let has_all =
                release.architectures.iter().any(|a| a == "all") && !release.all_in_each_arch;
            let mut arches = vec![self.arch];
            arches.extend(has_all.then_some("all"));
            let pairs = source
                .components
                .iter()
                .flat_map(|component| arches.iter().map(move |arch| (component, arch)));
            pairs
                .map(|(component, arch)| format!("{component}/binary-{arch}/"))
                .collect()
        };
        let mut index = Vec::new();
        let mut indexes = Vec::new();
        for directory in directories {
            let (locked, text) = self
                .index(&base, &directory, &release, name)
                .map_err(label)?;
            index.push(locked);
            indexes.push(text);
        }
        let date = release.date_secs.map(format_date).unwrap_or_default();
        let snapshot = source
            .snapshot
            .is_some()
            .then(|| date.replace(['-', ':'], ""));
        Ok(Suite {
            pin: match (release.not_automatic, release.but_automatic_upgrades) {
                (false, _) => 500,
                (true, true) => 100,
                (true, false) => 1,
            },
            indexes,
            name: if flat {
                name.to_owned()
            } else {
                format!("{name} {}", source.components.join(" "))
            },
            locked: LockedSuite {
                uri: source.uri.clone(),
                suite: name.to_owned(),
                components: source.components.clone(),
                inrelease: LockedRelease {
                    sha256: hash::Sha256::of(&bytes),
                    size: bytes.len() as u64,
                    date,
                    keys: verified.keys,
                },
                index,
                snapshot: snapshot.filter(|s| !s.is_empty()),
            },
        })
    }

    /// Gets the signed file, or where there is none, the file and its signature.
    fn release(
        &self,
        base: &str,
        name: &str,
        keyring: &Keyring,
    ) -> Result<(Vec<u8>, Verified), Box<Diagnostic>> {
        let url = |file: &str| vec![format!("{base}{file}")];
        match self
            .download
            .bytes(&url("InRelease"), MAX_RELEASE_BYTES, None)
        {
            Ok(bytes) => {
                let verified = keyring.verify_clear_signed(
                    &bytes,
                    self.now_secs,
                    &format!("{name}/InRelease"),
                )?;
                Ok((bytes, verified))
            }
            Err(first) => {
                let get = |file: &str| {
                    self.download
                        .bytes(&url(file), MAX_RELEASE_BYTES, None)
                        .map_err(|_second| first.clone())
                };
                let (bytes, signature) = (get("Release")?, get("Release.gpg")?);
                let verified = keyring.verify_detached(
                    &bytes,
                    &signature,
                    self.now_secs,
                    &format!("{name}/Release"),
                )?;
                Ok((bytes, verified))
            }
        }
    }

    fn check(
        &self,
        release: &Release,
        source: &RootfsSource,
        suite: &Wanted,
        flat: bool,
    ) -> Result<(), Box<Diagnostic>> {
        let name = &suite.text;
        let fail = |code, class, message: String| {
            Diagnostic::error(code, class, message).with_labels(suite.label.clone())
        };
        if !flat && !release.is_named(name) {
            let message = format!(
                "the release file of `{name}` is that of another suite, `{}` ({})",
                release.codename, release.suite
            );
            return Err(Box::new(fail("deb-wrong-suite", Class::Fetch, message)));
        }
        if let Some(until) = release
            .valid_until_secs
            .filter(|until| *until < self.now_secs && !is_snapshot(&source.uri))
        {
            let message = format!(
                "the release file of `{name}` was valid until {}, now is {}",
                format_date(until),
                format_date(self.now_secs)
            );
            return Err(Box::new(
                fail("deb-release-expired", Class::Fetch, message)
                    .note("a mirror that no longer updates could hide security fixes, so its indexes are not used for locking")
                    .help("use another mirror, or name a snapshot whose URL holds its timestamp; what is locked already still builds"),
            ));
        }
        if !flat && !release.architectures.iter().any(|a| a == self.arch) {
            let message = format!("`{name}` has no packages for `{}`", self.arch);
            return Err(Box::new(
                fail("deb-unknown-arch", Class::Recipe, message)
                    .note(format!("it has {}", release.architectures.join(", "))),
            ));
        }
        if let Some(component) = source
            .components
            .iter()
            .find(|c| !flat && !release.components.contains(c))
        {
            let mut diagnostic = fail(
                "deb-unknown-component",
                Class::Recipe,
                format!("`{name}` has no component `{component}`"),
            )
            .note(format!("it has {}", release.components.join(", ")));
            for known in suggest(component, release.components.iter().map(String::as_str)) {
                diagnostic = diagnostic.help(format!("did you mean `{known}`?"));
            }
            return Err(Box::new(diagnostic));
        }
        Ok(())
    }

    /// Gets the index of one directory in the best compression that the release file offers.
    fn index(
        &self,
        base: &str,
        directory: &str,
        release: &Release,
        name: &str,
    ) -> Result<(LockedIndex, String), Box<Diagnostic>> {
        let fail =
            |class, message: String| Box::new(Diagnostic::error("deb-bad-index", class, message));
        let plain = format!("{directory}Packages");
        let offered = [".xz", ".zst", ".gz", ".bz2", ".lzma", ""]
            .iter()
            .find_map(|suffix| {
                let path = format!("{plain}{suffix}");
                Some((release.files.get(&path)?, Codec::from_suffix(suffix)?, path))
            });
        let Some((entry, codec, path)) = offered else {
            return Err(fail(
                Class::Fetch,
                format!("the release file of `{name}` names no `{plain}`"),
            ));
        };
        let IndexEntry { size_bytes, sha256 } = *entry;
        let mut urls = Vec::new();
        if release.acquire_by_hash {
            // By digest first: the plain name may already be the next index while the release file is still the old one.
            urls.push(format!(
                "{base}{directory}by-hash/SHA256/{}",
                hash::Sha256(sha256)
            ));
        }
        urls.push(format!("{base}{path}"));
        let bytes = self.download.bytes(&urls, size_bytes, Some(&sha256))?;
        if bytes.len() as u64 != size_bytes || Sha256::digest(&bytes)[..] != sha256 {
            return Err(fail(
                Class::Fetch,
                format!("`{path}` of `{name}` is not the one that its release file names"),
            ));
        }
        let limit = release.files.get(&plain).map_or(MAX_INDEX_BYTES, |whole| {
            whole.size_bytes.min(MAX_INDEX_BYTES)
        });
        let text = decompress(codec, &bytes, limit).map_err(|err| {
            fail(
                Class::Fetch,
                format!("cannot decompress `{path}` of `{name}`: {err}"),
            )
        })?;
        Paragraphs::decode(&text)
            .map_err(|err| fail(Class::Fetch, format!("`{path}` of `{name}`: {err}")))?;
        let text = String::from_utf8(text)
            .map_err(|_err| fail(Class::Fetch, format!("`{path}` of `{name}` is not UTF-8")))?;
        Ok((
            LockedIndex {
                path,
                sha256: hash::Sha256(sha256),
                size: size_bytes,
            },
            text,
        ))
    }
}

/// Whether a URL names a moment of the past, as `.../20260711T101637Z/...`: there, old is what is wanted.
fn is_snapshot(uri: &str) -> bool {
    uri.split('/').any(|part| {
        let shape: String = part
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        shape == "00000000T000000Z"
    })
}

/// Adds the place in the recipe to a problem.
pub(crate) fn labelled(diagnostic: Diagnostic, label: Option<&Label>) -> Diagnostic {
    diagnostic.with_labels(label.cloned())
}
