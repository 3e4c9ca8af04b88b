//! Who answers requests: which part of the mirror a path belongs to.

use hyper::StatusCode;
use sos_store::{Lease, Store};

use crate::answer::Answer;
use crate::offers::Offers;
use crate::request::Asked;
use crate::sign::SecretKey;
use crate::{Compression, distfiles, nix, oci, ostree, page};

/// How a store is served.
#[derive(Debug)]
pub struct MirrorOptions {
    /// Signs what the binary cache says; without it only the signatures that objects have are passed on.
    pub key: Option<SecretKey>,
    /// How archives of store paths are compressed, unless a client asks for another form by its name.
    pub compression: Compression,
    /// The address that the page names when a client does not say by which name it knows this server.
    pub address: String,
}

/// A store, seen as a web server.
#[derive(Debug)]
pub struct Mirror {
    pub(crate) store: Store,
    pub(crate) offers: Offers,
    pub(crate) options: MirrorOptions,
}

/// Tells whether the server has something of its own at `/NAME`, so that no file is found there.
pub(crate) fn is_own(name: &str) -> bool {
    matches!(name, "v2" | "ostree" | "nix-cache-info") || name.ends_with(".narinfo")
}

impl Mirror {
    /// Makes the mirror of a store.
    #[must_use]
    pub fn new(store: Store, offers: Offers, options: MirrorOptions) -> Self {
        Self {
            store,
            offers,
            options,
        }
    }

    /// Answers a request; reads the store, so this may block.
    pub(crate) fn answer(&self, asked: &Asked) -> Answer {
        let Some(path) = &asked.path else {
            // What is no path may be a name that nobody has encoded.
            return match !asked.writes && distfiles::is_any(self, &asked.names) {
                true => distfiles::answer(self, &asked.names),
                false => Answer::plain(StatusCode::BAD_REQUEST, "the path cannot be read"),
            };
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if let ["v2", rest @ ..] = path.as_slice() {
            return oci::answer(self, asked, rest);
        }
        if asked.writes {
            return Answer::plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "this mirror is read only: GET and HEAD",
            )
            .header("allow", "GET, HEAD");
        }
        match path.as_slice() {
            [""] => page::page(self, asked),
            ["-", "style.css"] => page::style(),
            ["nix-cache-info"] => nix::about(self),
            ["nar", name] => nix::archive(self, name),
            ["realisations", name] => nix::realisation(self, name),
            ["ostree", rest @ ..] => ostree::answer(self, rest),
            [name] => match name.strip_suffix(".narinfo") {
                Some(hash) => nix::info(self, hash),
                None => distfiles::answer(self, &asked.names),
            },
            _ => Answer::missing(),
        }
    }

    /// Keeps an object from being collected until the lease is dropped. Where a lease cannot be written down, as on a full disk, the
    /// object is served all the same: if it goes away meanwhile, the connection ends early.
    pub(crate) fn protect(&self, path: &sos_formats::store_path::StorePath) -> Option<Lease> {
        let hold = || -> sos_store::Result<Lease> {
            let lease = self.store.lease()?;
            lease.hold(std::slice::from_ref(path))?;
            Ok(lease)
        };
        hold()
            .inspect_err(|error| tracing::debug!(%error, "an object that is sent is not held"))
            .ok()
    }
}
