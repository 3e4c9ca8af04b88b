//! The one client of a run: expands mirrors, walks the sources in order, reports them all when none works.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::HeaderValue;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Hash;
use tokio::runtime::{Builder, Handle, Runtime};

use super::failure::{ClearText, Failure};
use super::health::Health;
use super::limits::{Limits, MAX_SOURCES};
use super::observer::Observer;
use super::report::{self, Attempt};
use super::sink::Sink;
use super::transfer::{Expected, Transfer};
use crate::mirrors::Mirrors;

/// What to fetch and how to know that it is right.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The name that people know it by, for messages.
    pub name: &'a str,
    /// The sources, best first: `https`, `http`, `file` and `mirror` URLs.
    pub urls: &'a [String],
    /// The hash of the file as transferred.
    pub hash: Option<&'a Hash>,
    /// The right hash as the recipe has it: messages use the same notation.
    pub written: Option<&'a str>,
    /// The size of the file as transferred.
    pub size: Option<u64>,
    /// The most bytes that are accepted.
    pub limit: u64,
    /// Whether this is a fixed output of a derivation: wrong content then has the exit class of a hash mismatch.
    pub fixed_output: bool,
    /// Whether the network must not be used for this one.
    pub offline: bool,
}

/// How one source is asked, when not as all of them.
pub(crate) struct Way<'a> {
    /// Knows which redirects are followed.
    pub(crate) client: &'a Client,
    /// Shows who asks; a server that redirects to another one does not pass that on.
    pub(crate) authorization: Option<&'a HeaderValue>,
}

/// A fetch that worked.
#[derive(Debug)]
pub struct Fetched {
    /// The source that delivered.
    pub url: String,
    /// The size of the file as transferred.
    pub size: u64,
    /// One line for each source that was given up before.
    pub given_up: Vec<String>,
}

/// A fetch that did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Nobody waits for it any more.
    #[error("cancelled")]
    Cancelled,
    /// No source delivered; every one of them is listed.
    #[error("{}", .0.message)]
    Failed(Box<Diagnostic>),
}

/// Fetches files; cheap to clone, all clones share connections and what is known about the servers.
#[derive(Clone)]
pub struct Fetcher {
    shared: Arc<Shared>,
}

struct Shared {
    mirrors: Mirrors,
    offline: bool,
    limits: Limits,
    health: Health,
    /// Made by the first fetch that needs the network: reading the certificates of the system takes time.
    network: Mutex<Option<Network>>,
}

struct Network {
    client: Client,
    runtime: Option<Runtime>,
}

impl Drop for Network {
    fn drop(&mut self) {
        // Dropping a runtime waits for it, which is not allowed inside another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher")
            .field("offline", &self.shared.offline)
            .finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Makes a fetcher with the usual limits.
    pub fn new(mirrors: Mirrors, offline: bool) -> Self {
        Self::with_limits(mirrors, offline, Limits::default())
    }

    /// Makes a fetcher with other limits.
    pub fn with_limits(mirrors: Mirrors, offline: bool, limits: Limits) -> Self {
        let shared = Shared {
            mirrors,
            offline,
            limits,
            health: Health::default(),
            network: Mutex::new(None),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Fetches one file into a sink; blocks the calling thread, which must not be one of an async runtime.
    pub fn fetch(
        &self,
        request: &Request<'_>,
        sink: &mut dyn Sink,
        observer: &dyn Observer,
    ) -> Result<Fetched, FetchError> {
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for listed in request.urls {
            let sources = match self.expand(listed) {
                Ok(sources) => sources,
                Err(diagnostic) if request.urls.len() == 1 => {
                    return Err(FetchError::Failed(diagnostic));
                }
                Err(diagnostic) => {
                    attempts.push(Attempt::new(
                        listed,
                        Failure::Url {
                            reason: diagnostic.message,
                        },
                    ));
                    continue;
                }
            };
            for url in sources {
                if seen.contains(&url) || seen.len() >= MAX_SOURCES {
                    continue;
                }
                match self.source(&url, request, None, sink, observer) {
                    Ok(size) => {
                        let given_up = attempts.iter().map(ToString::to_string).collect();
                        return Ok(Fetched {
                            url: report::shown(&url),
                            size,
                            given_up,
                        });
                    }
                    Err(Failure::Cancelled) => return Err(FetchError::Cancelled),
                    Err(failure) => {
                        let last = failure.is_final();
                        let attempt = Attempt::new(&url, failure);
                        observer.note(&attempt.to_string());
                        attempts.push(attempt);
                        if last {
                            return Err(FetchError::Failed(Box::new(report::none_worked(
                                request, &attempts,
                            ))));
                        }
                    }
                }
                seen.push(url);
            }
        }
        Err(FetchError::Failed(Box::new(report::none_worked(
            request, &attempts,
        ))))
    }

    /// Tells whether something is known to serve a `mirror://` URL; any other URL is known.
    pub fn is_known(&self, url: &str) -> bool {
        self.expand(url).is_ok()
    }

    /// Gives the places that a `mirror://` URL stands for; any other URL stands for itself.
    fn expand(&self, url: &str) -> Result<Vec<String>, Box<Diagnostic>> {
        if url.starts_with("mirror://") {
            self.shared.mirrors.expand(url)
        } else {
            Ok(vec![url.to_owned()])
        }
    }

    /// Fetches from one source, in a way of the caller's, who has the words for what fails.
    pub(crate) fn source(
        &self,
        url: &str,
        request: &Request<'_>,
        way: Option<&Way<'_>>,
        sink: &mut dyn Sink,
        observer: &dyn Observer,
    ) -> Result<u64, Failure> {
        let url = Url::parse(url).map_err(|error| Failure::Url {
            reason: format!("not a URL: {error}"),
        })?;
        let shared = &*self.shared;
        let limit = request.size.unwrap_or(request.limit).min(request.limit);
        let expected = Expected {
            hash: request.hash,
            size: request.size,
            limit,
        };
        match url.scheme() {
            "file" => {
                let file = std::fs::File::open(local_path(&url)?).map_err(Failure::Read)?;
                return Transfer::begin(&shared.limits, expected, sink, observer)?.local(file);
            }
            "http" | "https" => {}
            other => {
                return Err(Failure::Url {
                    reason: format!("the scheme `{other}` is not supported"),
                });
            }
        }
        if has_credentials(&url) {
            return Err(Failure::Url {
                reason: "names a user or password; sos sends no credentials".into(),
            });
        }
        if shared.offline || request.offline {
            return Err(Failure::Offline);
        }
        let server = url.origin().ascii_serialization();
        if let Some(reason) = shared.health.closed(&server) {
            return Err(Failure::Down { server, reason });
        }
        let (usual, runtime) = shared.network()?;
        let result = match Transfer::begin(&shared.limits, expected, sink, observer) {
            Ok(transfer) => {
                let transfer = transfer.shown_as(way.and_then(|way| way.authorization));
                let client = way.map_or(&usual, |way| way.client);
                runtime.block_on(transfer.http(client, &url))
            }
            Err(failure) => Err(failure),
        };
        match &result {
            Err(Failure::Cancelled | Failure::Write(_)) => {}
            Err(failure) if failure.blames_server() => {
                shared
                    .health
                    .failed(&server, failure, shared.limits.strikes);
            }
            _ => shared.health.answered(&server),
        }
        result
    }
}

impl Fetcher {
    /// What else speaks with servers, in its own way, runs on this, and keeps to these limits.
    pub(crate) fn runtime(&self) -> Result<(Handle, Limits), Failure> {
        if self.shared.offline {
            return Err(Failure::Offline);
        }
        let (_, runtime) = self.shared.network()?;
        Ok((runtime, self.shared.limits.clone()))
    }
}

impl Shared {
    /// Gives the client and the runtime that its connections live on, made on first use.
    fn network(&self) -> Result<(Client, Handle), Failure> {
        let mut network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Network {
            client,
            runtime: Some(runtime),
        }) = &*network
        {
            return Ok((client.clone(), runtime.handle().clone()));
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("fetch")
            .enable_all()
            .build()
            .map_err(Failure::Read)?;
        let client = Client::builder()
            .user_agent(concat!("sos/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.limits.connect)
            .referer(false)
            .redirect(redirects(self.limits.redirects, |_| Ok(())))
            .build()
            .map_err(|error| Failure::Connect {
                reason: format!("cannot set up TLS: {error}"),
            })?;
        let handle = runtime.handle().clone();
        *network = Some(Network {
            client: client.clone(),
            runtime: Some(runtime),
        });
        Ok((client, handle))
    }
}

/// Follows a bounded number of redirects, never in a circle, never with credentials, and only where `allowed` says nothing against it.
pub(crate) fn redirects(
    most: usize,
    allowed: impl Fn(&Url) -> Result<(), ClearText> + Send + Sync + 'static,
) -> Policy {
    Policy::custom(move |attempt| {
        if attempt.previous().contains(attempt.url()) {
            attempt.error("in a circle")
        } else if attempt.previous().len() > most {
            attempt.error(format!("more than {most} times"))
        } else if has_credentials(attempt.url()) {
            attempt.error("to a URL with a user or password; sos sends no credentials")
        } else if !matches!(attempt.url().scheme(), "http" | "https") {
            attempt.error("to something that is not http or https")
        } else {
            match allowed(attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(why) => attempt.error(why),
            }
        }
    })
}

/// Tells whether a URL names a user or a password.
fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Gives the path of a `file` URL.
fn local_path(url: &Url) -> Result<PathBuf, Failure> {
    url.to_file_path().map_err(|()| Failure::Url {
        reason: "names a file on another machine".into(),
    })
}

/// Makes the error for something that is missing and may not be fetched.
pub(crate) fn offline(name: &str, notes: Vec<String>) -> Diagnostic {
    let mut diagnostic = Diagnostic::error(
        "fetch-offline",
        Class::Fetch,
        format!("`{name}` is not in the store, and sos is offline"),
    );
    for note in notes {
        diagnostic = diagnostic.note(note);
    }
    diagnostic
        .help("run the same command once without `--offline`; what it fetches stays in the store")
}
