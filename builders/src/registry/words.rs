//! What is said of registries that do not do what they should: what happened, and what can be done about it.

use sos_formats::diagnostic::{Class, Diagnostic};

use super::client::is_passing;
use super::reference::Reference;
use crate::fetch::{Failure, offline};

/// What a registry is used for, as the way out depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// To say what a name leads to.
    Resolve,
    /// To give an image.
    Pull,
    /// To take an image.
    Push,
}

/// The error for a registry that cannot be spoken with.
pub(super) fn failed(reference: &Reference, usage: Use, failure: &Failure) -> Box<Diagnostic> {
    if matches!(failure, Failure::Offline) {
        return Box::new(offline(&reference.to_string(), Vec::new()));
    }
    let host = &reference.host;
    let message = format!("the registry `{host}` cannot be used");
    let note = match failure {
        Failure::TooLarge { .. } => format!("what it sent is {failure}"),
        other => other.to_string(),
    };
    let problem = Diagnostic::error("registry-failed", Class::Fetch, message).note(note);
    Box::new(
        problem.help(match failure {
            Failure::NotHttps => allow(host),
            Failure::Clear { server, .. } => {
                let to = server.strip_prefix("http://").unwrap_or(server);
                format!(
                    "whoever runs the registry should make that https; until then: {}",
                    allow(to)
                )
            }
            Failure::Redirect { .. } => {
                "correct the host, or tell whoever runs the registry: it must send on to https"
                    .to_owned()
            }
            Failure::TooLarge { .. } => {
                "name an image: nothing that describes one is that large".to_owned()
            }
            _ => again(usage),
        }),
    )
}

/// How plain http is allowed.
fn allow(host: &str) -> String {
    format!(
        "if nobody can listen on the way there, allow plain http: `plain-http = [\"{host}\"]` below `[registry]` in \
         `~/.config/sos/config.toml`, or `SOS_PLAIN_HTTP_REGISTRIES={host}`"
    )
}

/// What helps against what passes.
fn again(usage: Use) -> String {
    match usage {
        Use::Resolve | Use::Pull => {
            "correct the name of the host, run the command again later, or name another registry that has the image"
        }
        Use::Push => {
            "correct the name of the host, or run the command again later; blobs that arrived whole are not sent again"
        }
    }
    .to_owned()
}

/// What can be done about bytes that only this registry sends.
const ELSEWHERE: &str = "run the command again; if it stays so, name another registry in `ref` that has the image: what a digest names is \
     the same everywhere";

/// The error for a registry that sends something else under a digest.
pub(super) fn other_bytes(
    reference: &Reference,
    digest: &str,
    found: &str,
    size: u64,
) -> Box<Diagnostic> {
    let message = format!(
        "the registry `{}` sent other bytes than their digest says",
        reference.host
    );
    Box::new(
        Diagnostic::error("oci-bad-image", Class::Fetch, message)
            .note(format!("of `{reference}` it was asked for {digest}"))
            .note(format!("what it sent is {found} ({size} bytes)"))
            .help(ELSEWHERE),
    )
}

/// The error for a blob that is longer or shorter than the manifest says, so that its digest was not even looked at.
pub(super) fn wrong_size(reference: &Reference, digest: &str, what: &str) -> Box<Diagnostic> {
    let message = format!("the registry `{}` sent {what}", reference.host);
    Box::new(
        Diagnostic::error("oci-bad-image", Class::Fetch, message)
            .note(format!("of `{reference}` it was asked for {digest}"))
            .help(ELSEWHERE)
            .help("when that one sends the same, the manifest is wrong: name another image"),
    )
}

/// The error for a web page in place of a document.
pub(super) fn web_page(reference: &Reference) -> Box<Diagnostic> {
    let message = format!("the registry `{}` answered with a web page", reference.host);
    Box::new(
        Diagnostic::error("registry-failed", Class::Fetch, message)
            .note(format!("it was asked for the manifest of `{reference}`"))
            .help("correct the host, or log in to the network if it asks for that"),
    )
}

/// The error for an answer that is not what was asked for; `what` goes on after "did not".
pub(super) fn unexpected(
    reference: &Reference,
    usage: Use,
    what: &str,
    status: u16,
    errors: &[String],
) -> Box<Diagnostic> {
    let message = format!("the registry `{}` did not {what}", reference.host);
    let problem = Diagnostic::error("registry-failed", Class::Fetch, message)
        .note(format!("it answered {status}"));
    let problem = errors
        .iter()
        .fold(problem, |problem, error| problem.note(error));
    if matches!(status, 401 | 403) {
        let host = &reference.host;
        return Box::new(problem.help(format!("log in: `podman login {host}`")));
    }
    Box::new(problem.help(match (status, usage) {
        (404, Use::Resolve) => "correct the name of the repository, the tag or the digest",
        (404, Use::Pull) => "correct `ref` or `digest`: the registry has no such image",
        (404, Use::Push) => "correct the name of the repository",
        (_, Use::Push) if is_passing(status) => {
            "run the command again later; blobs that arrived whole are not sent again"
        }
        (405, Use::Push) => {
            "this registry takes no images at all, as a mirror or one that is read only: name another one"
        }
        (_, Use::Push) => "the registry's own records say more: it does not take such an image",
        (_, Use::Resolve | Use::Pull) if is_passing(status) => {
            "run the command again later, or name another registry that has the image"
        }
        (_, Use::Resolve | Use::Pull) => {
            "correct the host: this may be no registry, or one that speaks another protocol"
        }
    }))
}
