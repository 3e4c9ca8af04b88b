//! How recipes ask the world outside for what they leave open: the resolver and the fetcher.

use sos_builders::debian::Archive;
use sos_builders::fetch::{Download, Fetcher};
use sos_builders::mirrors::Mirrors;
use sos_builders::registry::{self, Access, Reference};
use sos_formats::diagnostic::Diagnostic;
use sos_formats::hash::Sha256;
use sos_formats::lock::{ImageEntry, RootfsLocked, RootfsRequest, UrlEntry};
use sos_recipes::Pins;

use crate::render::output;

/// The largest file that is pinned by downloading it.
const MAX_PINNED_BYTES: u64 = 4 << 30;

/// Pins over the network.
pub(crate) struct NetworkPins {
    fetcher: Fetcher,
    /// Kept for the whole evaluation: all recipes see one state of the archives.
    archive: Archive,
    /// How registries are spoken with.
    registries: Access,
    /// Says nothing of what goes on.
    quiet: bool,
}

impl NetworkPins {
    /// Pins through `mirrors`, or only through files when `offline`.
    pub(crate) fn new(mirrors: Mirrors, registries: Access, offline: bool, quiet: bool) -> Self {
        let fetcher = Fetcher::new(mirrors, offline);
        Self {
            archive: Archive::new(fetcher.clone(), now_secs()),
            fetcher,
            registries,
            quiet,
        }
    }
}

impl Pins for NetworkPins {
    fn lock_rootfs(&self, request: &RootfsRequest) -> Result<RootfsLocked, Vec<Diagnostic>> {
        if !self.quiet {
            output::message(&format!("resolving the packages of {}", request.name));
        }
        let locked = self.archive.resolve(request);
        for warning in self.archive.take_warnings() {
            output::message(&format!("warning: {warning}"));
        }
        locked
    }

    fn lock_url(&self, url: &str) -> Result<UrlEntry, Box<Diagnostic>> {
        if !self.quiet {
            output::message(&format!("pinning {url}"));
        }
        let bytes = self
            .fetcher
            .bytes(&[url.to_owned()], MAX_PINNED_BYTES, None)?;
        Ok(UrlEntry {
            url: url.to_owned(),
            sha256: Sha256::of(&bytes),
            size: bytes.len() as u64,
        })
    }

    fn lock_image(&self, reference: &str) -> Result<ImageEntry, Box<Diagnostic>> {
        if !self.quiet {
            output::message(&format!("pinning {reference}"));
        }
        let name = Reference::parse(reference)?;
        let found = registry::resolve(&self.fetcher, &self.registries, &name)?;
        if let Some(doubt) = found.doubt {
            output::message(&format!("warning: `{reference}` {doubt}"));
        }
        Ok(ImageEntry {
            reference: reference.to_owned(),
            digest: found.digest,
        })
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "an archive says until when its index may be trusted"
)]
fn now_secs() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}
