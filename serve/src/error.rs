//! What keeps a mirror from being served.

use std::io;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::StoreError;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, ServeError>;

/// Why something cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The text is no address.
    #[error("`{address}` is not an address to listen on")]
    BadAddress {
        /// What was given.
        address: String,
    },
    /// Nobody can listen there.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// What was given.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The text is no secret key.
    #[error("this is not a secret key: {0}")]
    BadKey(&'static str),
    /// The text cannot name an image.
    #[error("`{name}` cannot be the name of an image")]
    BadName {
        /// What was given.
        name: String,
    },
    /// Two images would have one name.
    #[error("two images would be `{name}:{tag}`")]
    NameTaken {
        /// The name.
        name: String,
        /// The tag.
        tag: String,
        /// The store paths of both.
        paths: [String; 2],
    },
    /// Two commits would have one ref, and neither comes from the other.
    #[error("two commits would be the ref `{branch}`")]
    RefTaken {
        /// The ref.
        branch: String,
        /// The store paths of both.
        paths: [String; 2],
    },
    /// An image layout cannot be read.
    #[error("the image `{path}` cannot be read: {what}")]
    BadImage {
        /// Its store path.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A repository cannot be read.
    #[error("the repository `{path}` cannot be read: {what}")]
    BadRepository {
        /// Its store path.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A directory is no repository that can be served.
    #[error("`{path}` is no OSTree repository to serve: {what}")]
    NoRepository {
        /// The directory.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A repository outside the store is served alone.
    #[error("`{path}` cannot be served beside other commits")]
    RepositoryAlone {
        /// What came last.
        path: String,
    },
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ServeError> for Diagnostic {
    fn from(error: ServeError) -> Self {
        let text = error.to_string();
        let both = |[one, other]: &[String; 2]| format!("they are `{one}` and `{other}`");
        match error {
            ServeError::Store(error) => error.into(),
            ServeError::BadAddress { .. } => Self::error("serve-address", Class::Usage, text)
                .help("write `ADDRESS:PORT`, as in `127.0.0.1:8089` or `[::1]:0`; port 0 picks a free one"),
            ServeError::Listen { source, .. } => {
                let taken = source.kind() == io::ErrorKind::AddrInUse;
                let diagnostic = Self::error("serve-listen", Class::Machine, text);
                diagnostic.note(source.to_string()).help(if taken {
                    "name another port with `--listen ADDRESS:PORT`; port 0 picks a free one"
                } else {
                    "`ip address` lists the addresses of this machine; ports below 1024 are for root"
                })
            }
            ServeError::BadKey(_) => Self::error("serve-bad-key", Class::Usage, text)
                .note("a secret key is `NAME:` and 64 bytes in base64")
                .help("`nix-store --generate-binary-cache-key NAME SECRET PUBLIC` makes a pair"),
            ServeError::BadName { .. } => Self::error("serve-bad-name", Class::Usage, text).help(
                "write small letters and digits, joined by one of `._-/`, as in `team/web=TARGET`",
            ),
            ServeError::NameTaken { paths, .. } => Self::error("serve-name-taken", Class::Usage, text)
                .note(both(&paths))
                .help("give one of them another name, `NAME=TARGET`, or another `tag` in its recipe"),
            ServeError::RefTaken { paths, .. } => Self::error("serve-ref-taken", Class::Usage, text)
                .note(both(&paths))
                .help("give one of them another `ref` in its recipe, or make it the `parent` of the other"),
            ServeError::BadImage { .. } => Self::error("serve-bad-image", Class::Other, text)
                .help("`sos store check` looks whether the store is damaged"),
            ServeError::NoRepository { .. } => Self::error("serve-no-repository", Class::Usage, text)
                .help("name a directory that `sos export TARGET ostree:DIR` has written"),
            ServeError::RepositoryAlone { .. } => {
                Self::error("serve-repository-alone", Class::Usage, text)
                    .note("a repository has one summary, which somebody may have signed")
                    .help("add the commits to it with `sos export TARGET ostree:DIR`, or leave one of them out")
            }
            ServeError::BadRepository { .. } => {
                Self::error("serve-bad-repository", Class::Other, text)
                    .help("`sos store check` looks whether the store is damaged")
            }
        }
    }
}
