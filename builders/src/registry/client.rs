//! Requests to one repository: who asks, redirects, trying again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use serde_json::Value;
use sos_formats::diagnostic::{Class, Diagnostic};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::access::{Access, is_local};
use super::auth::Credentials;
use super::challenge;
use super::reference::Reference;
use super::words::{Use, failed, unexpected};
use crate::fetch::{ClearText, Failure, Fetcher, Limits, redirects, send_failure};
use crate::oci::source::MAX_DOCUMENT_BYTES;

/// The most bytes of a token and of what surrounds it.
const MAX_TOKEN_BYTES: u64 = 1 << 20;
/// How often one request is sent when who asks is not known: without, with a token, with a new one.
const MAX_CHALLENGES: usize = 3;
/// How slowly what is sent may go before that counts as no answer.
const SLOWEST_BYTES_A_SECOND: u64 = 16 << 10;

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// What was asked in the end.
    pub(super) url: Url,
}

impl Answer {
    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Where the answer says that an upload goes on.
    pub(super) fn location(&self) -> Option<Url> {
        self.url.join(self.header("location")?).ok()
    }

    /// The errors that a registry lists.
    pub(super) fn errors(&self) -> Vec<String> {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let list = body["errors"].as_array().cloned().unwrap_or_default();
        let shown = |error: &Value| {
            let code = error["code"].as_str().unwrap_or("UNKNOWN");
            let message = error["message"].as_str().unwrap_or_default();
            // A registry may write anything; a line of it is enough.
            let message: String = message
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect();
            format!("{code}: {message}")
        };
        list.iter().take(5).map(shown).collect()
    }
}

/// A request.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: &'a [(HeaderName, &'a str)],
    pub(super) body: Bytes,
    /// What the token must allow, several separated by blanks.
    pub(super) scope: &'a str,
    /// Whether the same request may be sent twice.
    pub(super) again: bool,
}

/// One repository.
pub(super) struct Client<'a> {
    pub(super) reference: &'a Reference,
    /// What it is used for.
    usage: Use,
    http: reqwest::Client,
    pub(super) runtime: Handle,
    pub(super) limits: Limits,
    base: Url,
    access: &'a Access,
    /// The `Authorization` header for each scope.
    known: Mutex<BTreeMap<String, HeaderValue>>,
    /// Where the credentials are from that were shown.
    from: Mutex<Option<String>>,
}

impl<'a> Client<'a> {
    /// Prepares for a repository; nothing is asked yet.
    pub(super) fn new(
        fetcher: &Fetcher,
        access: &'a Access,
        reference: &'a Reference,
        usage: Use,
    ) -> Result<Self, Box<Diagnostic>> {
        let failed = |failure: Failure| failed(reference, usage, &failure);
        let (runtime, limits) = fetcher.runtime().map_err(failed)?;
        // Redirects are followed here, where it is seen to whom credentials go.
        let http = with_redirects(&limits, reqwest::redirect::Policy::none()).map_err(failed)?;
        let base = Url::parse(&reference.base(access)).map_err(|error| {
            failed(Failure::Url {
                reason: error.to_string(),
            })
        })?;
        Ok(Self {
            reference,
            usage,
            http,
            runtime,
            limits,
            base,
            access,
            known: Mutex::default(),
            from: Mutex::default(),
        })
    }

    /// A client for blobs, which are large, and lie on other servers with many registries: it follows redirects by itself, to where
    /// this one would go.
    pub(super) fn for_blobs(&self) -> Result<reqwest::Client, Box<Diagnostic>> {
        let (access, at_home) = (self.access.clone(), self.at_home());
        let policy = redirects(self.limits.redirects, move |url| {
            if access.allows(url, at_home) {
                return Ok(());
            }
            Err(ClearText(url.origin().ascii_serialization()))
        });
        with_redirects(&self.limits, policy).map_err(|failure| self.failed(&failure))
    }

    /// Whether the registry is on this machine, and may send to other servers of it.
    fn at_home(&self) -> bool {
        self.base.scheme() == "http" && is_local(&self.base)
    }

    /// The address of something in the repository.
    pub(super) fn url(&self, rest: &str) -> Result<Url, Box<Diagnostic>> {
        let url = self.base.join(&format!("{}/{rest}", self.reference.name));
        url.map_err(|error| {
            self.failed(&Failure::Url {
                reason: error.to_string(),
            })
        })
    }

    /// The error for a registry that cannot be spoken with.
    pub(super) fn failed(&self, failure: &Failure) -> Box<Diagnostic> {
        failed(self.reference, self.usage, failure)
    }

    /// The error for an answer that is not what was asked for.
    pub(super) fn unexpected(&self, what: &str, answer: &Answer) -> Box<Diagnostic> {
        unexpected(
            self.reference,
            self.usage,
            what,
            answer.status,
            &answer.errors(),
        )
    }

    /// The header that shows who asks for what a scope allows, once a request with it was answered.
    pub(super) fn authorization(&self, scope: &str) -> Option<HeaderValue> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(scope).cloned()
    }

    /// Forgets who asks, as tokens do not last.
    pub(super) fn forget(&self, scope: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(scope);
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// When there is none, or the registry does not let the user in; any other status is an answer.
    pub(super) fn ask(&self, ask: &Ask<'_>) -> Result<Answer, Box<Diagnostic>> {
        self.runtime.block_on(self.answered(ask))
    }

    async fn answered(&self, ask: &Ask<'_>) -> Result<Answer, Box<Diagnostic>> {
        let mut wait = self.limits.backoff;
        let tries = if ask.again { self.limits.retries } else { 0 };
        for left in (0..=tries).rev() {
            let failure = match self.once(ask).await? {
                Ok(answer) if left > 0 && is_passing(answer.status) => None,
                Ok(answer) => return Ok(answer),
                // Whether it may be sent there does not change by waiting.
                Err(failure)
                    if left == 0
                        || matches!(
                            failure,
                            Failure::Clear { .. }
                                | Failure::NotHttps
                                | Failure::Redirect { .. }
                                | Failure::TooLarge { .. }
                        ) =>
                {
                    return Err(self.failed(&failure));
                }
                Err(failure) => Some(failure),
            };
            tracing::debug!(url = %ask.url, ?failure, "registry: trying again");
            sleep(wait.min(self.limits.max_backoff)).await;
            wait = wait.saturating_mul(2);
        }
        Err(self.failed(&Failure::Cancelled))
    }

    /// Asks once, showing who asks when the registry wants to know.
    async fn once(&self, ask: &Ask<'_>) -> Result<Result<Answer, Failure>, Box<Diagnostic>> {
        for challenge in 0..MAX_CHALLENGES {
            let authorization = self.authorization(ask.scope);
            let shown = authorization.is_some();
            let answer = match self.followed(ask, authorization).await {
                Ok(answer) => answer,
                Err(failure) => return Ok(Err(failure)),
            };
            let ours = answer.url.origin() == self.base.origin();
            if answer.status != 401 || !ours {
                return match answer.status {
                    401 | 403 => Err(self.denied(&answer, shown)),
                    _ => Ok(Ok(answer)),
                };
            }
            self.forget(ask.scope);
            let challenges = answer.header("www-authenticate").unwrap_or_default();
            if challenge + 1 == MAX_CHALLENGES
                || !self.introduce(challenges, ask.scope, shown).await?
            {
                return Err(self.denied(&answer, shown));
            }
        }
        Ok(Err(Failure::Cancelled))
    }

    /// Sends a request and follows where a question is redirected to; only the registry itself sees who asks.
    async fn followed(
        &self,
        ask: &Ask<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Answer, Failure> {
        let mut url = ask.url.clone();
        let asks = ask.method == Method::GET || ask.method == Method::HEAD;
        for _ in 0..=self.limits.redirects {
            self.check(&url, "it sends on to")?;
            let mut request = self
                .http
                .request(ask.method.clone(), url.clone())
                .header(header::ACCEPT_ENCODING, "identity");
            for (name, value) in ask.headers {
                request = request.header(name, *value);
            }
            if !asks {
                request = request.body(ask.body.clone());
            }
            if let Some(value) = &authorization
                && url.origin() == self.base.origin()
            {
                request = request.header(header::AUTHORIZATION, value);
            }
            let answer = self
                .sent(request, ask.body.len(), MAX_DOCUMENT_BYTES)
                .await?;
            if !asks || !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            url = answer.location().ok_or_else(|| Failure::Redirect {
                reason: "to nowhere".to_owned(),
            })?;
        }
        Err(Failure::Redirect {
            reason: format!("more than {} times", self.limits.redirects),
        })
    }

    /// Looks whether a URL may be asked, and says how it came there when not.
    fn check(&self, url: &Url, what: &'static str) -> Result<(), Failure> {
        if self.access.allows(url, self.at_home()) {
            return Ok(());
        }
        Err(match url.scheme() {
            "http" => Failure::Clear {
                what,
                server: url.origin().ascii_serialization(),
            },
            scheme => Failure::Redirect {
                reason: format!("to something that is `{scheme}` and not https"),
            },
        })
    }

    /// Sends a request of so many bytes and takes an answer of at most `limit`.
    async fn sent(
        &self,
        request: reqwest::RequestBuilder,
        size: usize,
        limit: u64,
    ) -> Result<Answer, Failure> {
        let sending = Duration::from_secs(size as u64 / SLOWEST_BYTES_A_SECOND);
        let wait = self.limits.connect + self.limits.answer + sending;
        let no_answer = |_elapsed| Failure::NoAnswer {
            after: self.limits.answer,
        };
        let mut response = timeout(wait, request.send())
            .await
            .map_err(no_answer)?
            .map_err(|error| send_failure(&error, &self.limits, 0))?;
        let mut answer = Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: Vec::new(),
            url: response.url().clone(),
        };
        loop {
            let received = answer.body.len() as u64;
            let chunk = timeout(self.limits.stall, response.chunk())
                .await
                .map_err(|_elapsed| Failure::Stalled { received })?
                .map_err(|error| send_failure(&error, &self.limits, received))?;
            let Some(chunk) = chunk else {
                return Ok(answer);
            };
            if received + chunk.len() as u64 > limit {
                return Err(Failure::TooLarge { limit });
            }
            answer.body.extend_from_slice(&chunk);
        }
    }

    /// Finds out how to show who asks; tells whether there is a way that was not tried.
    async fn introduce(
        &self,
        challenges: &str,
        scope: &str,
        shown: bool,
    ) -> Result<bool, Box<Diagnostic>> {
        let Reference { host, name, .. } = self.reference;
        let found = self.access.auth.find(host, name).await?;
        let credentials = found.map(|(credentials, from)| {
            let mut known = self.from.lock().unwrap_or_else(PoisonError::into_inner);
            *known = Some(from);
            credentials
        });
        for challenge in challenge::parse(challenges) {
            let value = match (challenge.scheme.as_str(), &credentials) {
                // Sent before, it would be refused again.
                ("basic", Some(Credentials::Password { user, password })) if !shown => {
                    Some(basic(user, password))
                }
                ("bearer", _) => {
                    let parameters = &challenge.parameters;
                    let token = self.token(parameters, scope, credentials.as_ref()).await?;
                    token.map(|token| format!("Bearer {token}"))
                }
                _ => None,
            };
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                let mut value = value;
                value.set_sensitive(true);
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(scope.to_owned(), value);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gets a token from where the registry says.
    async fn token(
        &self,
        parameters: &BTreeMap<String, String>,
        scope: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Option<String>, Box<Diagnostic>> {
        let refused = |failure: &Failure| {
            let mut problem = *self.failed(failure);
            problem.message = format!("no token for `{}` could be had", self.reference);
            Box::new(problem)
        };
        let Some(realm) = parameters.get("realm") else {
            return Ok(None);
        };
        let mut url = Url::parse(realm).map_err(|error| {
            refused(&Failure::Url {
                reason: format!("the registry names `{realm}`: {error}"),
            })
        })?;
        self.check(&url, "for a token it sends to")
            .map_err(|failure| refused(&failure))?;
        let mut pairs = Vec::new();
        if let Some(service) = parameters.get("service") {
            pairs.push(("service", service.as_str()));
        }
        let request = if let Some(Credentials::Identity(token)) = credentials {
            pairs.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "sos"),
                ("scope", scope),
                ("refresh_token", token),
            ]);
            let mut form = Url::parse("http://form/").map_err(|error| {
                refused(&Failure::Url {
                    reason: error.to_string(),
                })
            })?;
            form.query_pairs_mut().extend_pairs(pairs);
            self.http
                .post(url.clone())
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.query().unwrap_or_default().to_owned())
        } else {
            pairs.extend(scope.split(' ').map(|one| ("scope", one)));
            url.query_pairs_mut().extend_pairs(pairs);
            let request = self.http.get(url.clone());
            match credentials {
                Some(Credentials::Password { user, password }) => {
                    request.header(header::AUTHORIZATION, basic(user, password))
                }
                _ => request,
            }
        };
        let answer = self
            .sent(request, 0, MAX_TOKEN_BYTES)
            .await
            .map_err(|failure| refused(&failure))?;
        if matches!(answer.status, 401 | 403) {
            return Err(self.denied(&answer, credentials.is_some()));
        }
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let token = body["token"].as_str().or(body["access_token"].as_str());
        match token.filter(|token| !token.is_empty()) {
            Some(token) if answer.status == 200 => Ok(Some(token.to_owned())),
            _ => Err(refused(&Failure::Status {
                status: format!("{} and no token", answer.status),
                code: answer.status,
                retry_after: None,
            })),
        }
    }

    /// The error for a user who is not let in.
    fn denied(&self, answer: &Answer, shown: bool) -> Box<Diagnostic> {
        let Reference { host, name, .. } = self.reference;
        let what = if shown {
            "with the credentials that are there"
        } else {
            "without credentials"
        };
        let message = format!("`{host}` does not allow this on `{name}` {what}");
        let mut problem = Diagnostic::error("registry-denied", Class::Fetch, message);
        problem = problem.note(format!("it answered {}", answer.status));
        for error in answer.errors() {
            problem = problem.note(error);
        }
        let from = self.from.lock().unwrap_or_else(PoisonError::into_inner);
        let files = self.access.auth.names();
        match from.as_deref().filter(|_| shown) {
            Some(from) => problem = problem.note(format!("the credentials are from {from}")),
            None if files.is_empty() => {}
            None => problem = problem.note(format!("credentials are looked for in {files}")),
        }
        Box::new(problem.help(format!("log in: `podman login {host}`")))
    }
}

fn with_redirects(
    limits: &Limits,
    policy: reqwest::redirect::Policy,
) -> Result<reqwest::Client, Failure> {
    reqwest::Client::builder()
        .user_agent(concat!("sos/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(limits.connect)
        .referer(false)
        .redirect(policy)
        .build()
        .map_err(|error| Failure::Connect {
            reason: format!("cannot set up TLS: {error}"),
        })
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Whether a status may be another one in a moment.
pub(super) fn is_passing(status: u16) -> bool {
    status == 429 || status == 408 || status >= 500
}
