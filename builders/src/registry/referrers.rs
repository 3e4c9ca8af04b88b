//! What is about another image, for registries that do not keep such lists themselves: an index under a tag that is made of the
//! digest of what it is about.

use bytes::Bytes;
use reqwest::{Method, header};
use serde_json::{Value, json};
use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};

use super::client::Answer;
use super::push::Push;
use crate::oci::documents::{Descriptor, INDEX_TYPE, is_hex};
use crate::oci::strict;

/// How often the list is written before somebody else who writes it, too, counts as an error.
const MAX_WRITES: usize = 4;

/// A manifest that is about another one.
pub(super) struct Referrer {
    /// The digits of what it is about.
    subject: String,
    /// How the list names it.
    entry: Value,
}

impl Referrer {
    /// Reads what a manifest or index is about, if it is about anything.
    pub(super) fn of(document: &Descriptor, bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let subject = value["subject"]["digest"].as_str()?;
        let subject = subject.strip_prefix("sha256:").filter(|hex| is_hex(hex))?;
        let stated = value["mediaType"].as_str();
        let mut entry = json!({
            "mediaType": stated.unwrap_or(&document.media_type),
            "digest": document.digest,
            "size": document.size,
        });
        // What it is when it does not say so is the kind of its configuration.
        let kind = [&value["artifactType"], &value["config"]["mediaType"]]
            .into_iter()
            .find_map(|kind| kind.as_str().filter(|kind| !kind.is_empty()));
        if let Some(kind) = kind {
            entry["artifactType"] = kind.into();
        }
        if let Some(annotations) = value["annotations"].as_object() {
            entry["annotations"] = annotations.clone().into();
        }
        Some(Self {
            subject: subject.to_owned(),
            entry,
        })
    }

    fn tag(&self) -> String {
        format!("sha256-{}", self.subject)
    }

    fn is_in(&self, index: &Value) -> bool {
        let all = index["manifests"].as_array();
        all.is_some_and(|all| all.iter().any(|one| one["digest"] == self.entry["digest"]))
    }
}

impl Push<'_> {
    /// Whether the registry's own list has it.
    pub(super) fn lists(&self, referrer: &Referrer) -> Result<bool, BuilderError> {
        let answer = self.get(&format!("referrers/sha256:{}", referrer.subject))?;
        let found = (answer.status == 200).then(|| strict::parse(&answer.body).ok());
        Ok(found.flatten().is_some_and(|index| referrer.is_in(&index)))
    }

    /// Adds it to the list under the tag, unless it is there.
    pub(super) fn refer(&self, referrer: &Referrer) -> Result<(), BuilderError> {
        let place = format!("manifests/{}", referrer.tag());
        for _ in 0..MAX_WRITES {
            let answer = self.get(&place)?;
            let mut index = match answer.status {
                404 => json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [] }),
                200 => self.index(&referrer.tag(), &answer)?,
                _ => {
                    let what = "tell what is about an image";
                    return Err(self.client.unexpected(what, &answer).into());
                }
            };
            // Read again after it was written: another one may have written at the same time.
            if referrer.is_in(&index) {
                return Ok(());
            }
            if let Some(all) = index["manifests"].as_array_mut() {
                all.push(referrer.entry.clone());
            }
            let body = serde_json::to_vec(&index)
                .map_err(|error| BuilderError::failed(format!("cannot write JSON: {error}")))?;
            let url = self.client.url(&place)?;
            let headers = [(header::CONTENT_TYPE, INDEX_TYPE)];
            let answer = self.ask(Method::PUT, url, &headers, Bytes::from(body), true)?;
            if answer.status != 201 {
                let what = "take the list of what is about an image";
                return Err(self.client.unexpected(what, &answer).into());
            }
        }
        let message = format!(
            "the tag `{}` of `{}` does not keep what is written to it",
            referrer.tag(),
            self.client.reference
        );
        Err(Diagnostic::error("registry-failed", Class::Fetch, message)
            .note("it is the list of what is about an image, and each writer writes it whole")
            .help("push again when nobody else does")
            .into())
    }

    fn index(&self, tag: &str, answer: &Answer) -> Result<Value, BuilderError> {
        let index = strict::parse(&answer.body)
            .ok()
            .filter(|index| index["manifests"].is_array());
        index.ok_or_else(|| {
            let message = format!(
                "the tag `{tag}` of `{}` is no list of what is about an image",
                self.client.reference
            );
            Diagnostic::error("registry-failed", Class::Fetch, message)
                .note("signatures and the like are listed there, as the registry keeps no such list itself")
                .help("delete the tag, and push again")
                .into()
        })
    }

    fn get(&self, rest: &str) -> Result<Answer, BuilderError> {
        let url = self.client.url(rest)?;
        let headers = [(header::ACCEPT, INDEX_TYPE)];
        Ok(self.ask(Method::GET, url, &headers, Bytes::new(), true)?)
    }
}
