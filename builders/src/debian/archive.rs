//! What the archives say in this run: every release file and index is fetched and verified once, so that all recipes of
//! a run are locked to one state of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sos_formats::deb::release::format_date;
use sos_formats::deb::{Codec, IndexEntry, Paragraphs, Release};
use sos_formats::diagnostic::{Class, Diagnostic, suggest};
use sos_formats::hash::Sha256;
use sos_formats::lock::{self, LockedIndex, LockedRelease, RootfsSource};

use super::codec::decompress;
use super::verify::{Keyring, Verified};
use crate::fetch::{Accept, Download};

/// Real release files are below one megabyte.
const MAX_RELEASE_BYTES: u64 = 16 << 20;
/// The largest real index is below a tenth of this.
const MAX_INDEX_BYTES: u64 = 1 << 30;

/// Checks the signature of a release file.
type Verify<'a> = dyn Fn(&[u8]) -> Result<Verified, Box<Diagnostic>> + Sync + 'a;

/// The archives as one run sees them.
pub struct Archive {
    download: Box<dyn Download>,
    /// Decides whether keys and release files are still valid.
    now_secs: i64,
    /// By URL and keyring.
    releases: Memo<(String, Option<Sha256>), Signed>,
    /// By URL and digest.
    indexes: Memo<(String, Sha256), String>,
    warnings: Mutex<Vec<String>>,
}

/// A release file that may be used.
pub(crate) struct Signed {
    pub(crate) locked: LockedRelease,
    pub(crate) release: Release,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive")
            .field("now_secs", &self.now_secs)
            .finish_non_exhaustive()
    }
}

impl Archive {
    /// Looks at archives through `download`, at the time `now_secs`.
    pub fn new(download: impl Download + 'static, now_secs: i64) -> Self {
        Self {
            download: Box::new(download),
            now_secs,
            releases: Memo::default(),
            indexes: Memo::default(),
            warnings: Mutex::default(),
        }
    }

    /// Takes what was wrong with mirrors that others made up for: one line each.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.warnings))
    }

    /// Gives the release file of a suite, whose files lie below `base`.
    pub(crate) fn release(
        &self,
        base: &str,
        name: &str,
        source: &RootfsSource,
    ) -> Result<Arc<Signed>, Box<Diagnostic>> {
        let keyring = match &source.keyring {
            lock::Keyring::Debian => None,
            lock::Keyring::File { bytes, .. } => Some(Sha256::of(bytes)),
        };
        self.releases.get((base.to_owned(), keyring), || {
            let keyring = match &source.keyring {
                lock::Keyring::Debian => Keyring::debian()?,
                lock::Keyring::File { name, bytes } => Keyring::parse(name, bytes)?,
            };
            self.fetch_release(base, name, &keyring)
        })
    }

    /// Gets the signed file, or where there is none, the file and its signature.
    fn fetch_release(
        &self,
        base: &str,
        name: &str,
        keyring: &Keyring,
    ) -> Result<Signed, Box<Diagnostic>> {
        let refused = AtomicBool::new(false);
        // A mirror that serves an old file, or a forged one, must not keep the next from being asked.
        let first_good = |file: &str, verify: &Verify<'_>| {
            let judge = |bytes: &[u8]| self.judge(base, name, bytes, verify(bytes)?);
            let accept = |bytes: &[u8]| {
                let judged = judge(bytes);
                refused.fetch_or(judged.is_err(), Ordering::Relaxed);
                judged.map(drop)
            };
            let bytes = self.fetch(base, name, file, &accept, &refused)?;
            judge(&bytes)
        };
        let what = format!("{name}/InRelease");
        first_good("InRelease", &|bytes| {
            keyring.verify_clear_signed(bytes, self.now_secs, &what)
        })
        .or_else(|first| {
            if refused.load(Ordering::Relaxed) {
                return Err(first);
            }
            let signature = self
                .fetch(base, name, "Release.gpg", &|_| Ok(()), &refused)
                .map_err(|_second| first.clone())?;
            let what = format!("{name}/Release");
            let signed = first_good("Release", &|bytes| {
                keyring.verify_detached(bytes, &signature, self.now_secs, &what)
            });
            signed.map_err(|second| {
                if refused.load(Ordering::Relaxed) {
                    second
                } else {
                    first
                }
            })
        })
    }

    fn fetch(
        &self,
        base: &str,
        name: &str,
        file: &str,
        accept: &Accept<'_>,
        refused: &AtomicBool,
    ) -> Result<Vec<u8>, Box<Diagnostic>> {
        let urls = [format!("{base}{file}")];
        let got = self
            .download
            .accepted(&urls, MAX_RELEASE_BYTES, None, accept)
            .map_err(|why| of_suite(base, name, *why))?;
        if refused.load(Ordering::Relaxed) {
            lock(&self.warnings).extend(got.given_up);
        }
        Ok(got.bytes)
    }

    /// Says whether a release file whose signature is good may be used for this suite now.
    fn judge(
        &self,
        base: &str,
        name: &str,
        bytes: &[u8],
        verified: Verified,
    ) -> Result<Signed, Box<Diagnostic>> {
        let fail = |code, message: String| Box::new(Diagnostic::error(code, Class::Fetch, message));
        let release = Release::parse(&verified.text).map_err(|err| {
            let message = format!("the release file of `{name}` is malformed: {err}");
            fail("deb-bad-index", message)
        })?;
        if !name.ends_with('/') && !release.is_named(name) {
            let message = format!(
                "the release file of `{name}` is that of another suite, `{}` ({})",
                release.codename, release.suite
            );
            return Err(fail("deb-wrong-suite", message));
        }
        if let Some(until) = release
            .valid_until_secs
            .filter(|until| *until < self.now_secs && !is_snapshot(base))
        {
            let message = format!(
                "the release file of `{name}` was valid until {}, now is {}",
                format_date(until),
                format_date(self.now_secs)
            );
            return Err(Box::new(
                fail("deb-release-expired", message)
                    .note("a mirror that no longer updates could hide security fixes, so its indexes are not used for locking")
                    .help("use another mirror, or name a snapshot whose URL holds its timestamp; what is locked already still builds"),
            ));
        }
        Ok(Signed {
            locked: LockedRelease {
                sha256: Sha256::of(bytes),
                size: bytes.len() as u64,
                date: release.date_secs.map(format_date).unwrap_or_default(),
                keys: verified.keys,
            },
            release,
        })
    }

    /// Gives the index of one directory, in the best compression that the release file offers.
    pub(crate) fn index(
        &self,
        base: &str,
        directory: &str,
        release: &Release,
        name: &str,
    ) -> Result<(LockedIndex, Arc<String>), Box<Diagnostic>> {
        let plain = format!("{directory}Packages");
        let offered = [".xz", ".zst", ".gz", ".bz2", ".lzma", ""]
            .iter()
            .find_map(|suffix| {
                let path = format!("{plain}{suffix}");
                Some((release.files.get(&path)?, Codec::from_suffix(suffix)?, path))
            });
        let Some((entry, codec, path)) = offered else {
            let message = format!("the release file of `{name}` names no `{plain}`");
            return Err(bad_index(message));
        };
        let limit = release.files.get(&plain).map_or(MAX_INDEX_BYTES, |whole| {
            whole.size_bytes.min(MAX_INDEX_BYTES)
        });
        let locked = LockedIndex {
            path,
            sha256: Sha256(entry.sha256),
            size: entry.size_bytes,
        };
        let url = format!("{base}{}", locked.path);
        let text = self.indexes.get((url.clone(), locked.sha256), || {
            let mut urls = Vec::new();
            if release.acquire_by_hash {
                // By digest first: the plain name may already be the next index while the release file is still the old one.
                let digest = locked.sha256;
                urls.push(format!("{base}{directory}by-hash/SHA256/{digest}"));
            }
            urls.push(url.clone());
            self.fetch_index(
                &urls,
                entry,
                codec,
                limit,
                &format!("`{}` of `{name}`", locked.path),
            )
        })?;
        Ok((locked, text))
    }

    /// Fetches an index and unpacks it; `what` names it in messages.
    fn fetch_index(
        &self,
        urls: &[String],
        entry: &IndexEntry,
        codec: Codec,
        limit: u64,
        what: &str,
    ) -> Result<String, Box<Diagnostic>> {
        let bytes = self
            .download
            .bytes(urls, entry.size_bytes, Some(&entry.sha256))?;
        if bytes.len() as u64 != entry.size_bytes || Sha256::of(&bytes).0 != entry.sha256 {
            let message = format!("{what} is not the one that its release file names");
            return Err(bad_index(message));
        }
        let text = decompress(codec, &bytes, limit)
            .map_err(|err| bad_index(format!("cannot decompress {what}: {err}")))?;
        Paragraphs::decode(&text).map_err(|err| bad_index(format!("{what}: {err}")))?;
        String::from_utf8(text).map_err(|_err| bad_index(format!("{what} is not UTF-8")))
    }
}

/// Names of suites that a misspelt one may have meant.
const SUITES: &[&str] = &[
    "stable", "testing", "unstable", "sid", "forky", "trixie", "bookworm", "bullseye", "buster",
];

/// Puts the failure to fetch a release file into the words of the recipe, which names a suite and no file.
fn of_suite(base: &str, name: &str, why: Diagnostic) -> Box<Diagnostic> {
    let gone = |note: &String| {
        ["answered 404", "answered 410", "No such file"]
            .iter()
            .any(|sign| note.contains(sign))
    };
    if why.code != "fetch-failed" {
        return Box::new(why);
    }
    if !why.notes.iter().any(gone) {
        return Box::new(why.note(format!("this is the release file of the suite `{name}`")));
    }
    let archive = base.split("/dists/").next().unwrap_or(base);
    let message = format!("`{archive}` has no suite `{name}`");
    let mut diagnostic = Diagnostic::error("deb-unknown-suite", Class::Fetch, message);
    for note in why.notes {
        diagnostic = diagnostic.note(note);
    }
    // `bookwrm-security` is near nothing, but what stands before the dash is.
    let (release, rest) = name
        .split_once('-')
        .map_or((name, ""), |(r, _)| (r, &name[r.len()..]));
    let near = suggest(release, SUITES.iter().copied());
    let help = match near.first() {
        Some(suite) if *suite != release => format!("did you mean `{suite}{rest}`?"),
        _ => format!("name a suite that `{archive}` has, or another archive in `uri`"),
    };
    Box::new(diagnostic.help(help))
}

fn bad_index(message: String) -> Box<Diagnostic> {
    Box::new(Diagnostic::error("deb-bad-index", Class::Fetch, message))
}

/// Whether a URL names a moment of the past, as `.../20260711T101637Z/...`: there, old is what is wanted.
fn is_snapshot(url: &str) -> bool {
    url.split('/').any(|part| {
        let shape: String = part
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        shape == "00000000T000000Z"
    })
}

/// Results that are made once; a failure is not kept, so that the next one who asks tries again.
struct Memo<K, V>(Mutex<BTreeMap<K, Slot<V>>>);

/// Locked while its value is being made: whoever wants the same one waits for it.
type Slot<V> = Arc<Mutex<Option<Arc<V>>>>;

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord, V> Memo<K, V> {
    fn get<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<Arc<V>, E> {
        let slot = lock(&self.0)
            .entry(key)
            .or_insert_with(|| Arc::new(Mutex::new(None)))
            .clone();
        let mut slot = lock(&slot);
        if let Some(made) = &*slot {
            return Ok(made.clone());
        }
        let made = Arc::new(make()?);
        *slot = Some(made.clone());
        Ok(made)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
