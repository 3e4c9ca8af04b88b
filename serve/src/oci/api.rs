//! `/v2/…`: the part of the distribution API that pulls.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::images::{INDEX_TYPE, Repository};
use super::names::{digest, is_name, is_tag};
use crate::answer::{Answer, Cache};
use crate::mirror::Mirror;
use crate::request::Asked;

/// The most names or tags in one answer.
const MAX_LISTED: usize = 1000;

/// Answers a request below `/v2/`.
pub(crate) fn answer(mirror: &Mirror, asked: &Asked, path: &[&str]) -> Answer {
    route(mirror, asked, path).header("docker-distribution-api-version", "registry/2.0")
}

fn route(mirror: &Mirror, asked: &Asked, path: &[&str]) -> Answer {
    if asked.writes {
        let what = "this registry is read only";
        return refused(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", what)
            .header("allow", "GET, HEAD");
    }
    match path {
        [] | [""] => json_of(&json!({})),
        ["_catalog"] => {
            let names: Vec<&str> = mirror.offers.images.names().collect();
            listed(
                asked,
                "/v2/_catalog",
                &names,
                |names| json!({ "repositories": names }),
            )
        }
        [name @ .., "tags", "list"] => with(mirror, name, |name, images| {
            let tags: Vec<&str> = images.tags.keys().map(String::as_str).collect();
            let address = format!("/v2/{name}/tags/list");
            listed(
                asked,
                &address,
                &tags,
                |tags| json!({ "name": name, "tags": tags }),
            )
        }),
        [name @ .., "manifests", reference] => {
            with(mirror, name, |_, images| manifest(images, reference))
        }
        [name @ .., "blobs", digest] => with(mirror, name, |_, images| blob(images, digest)),
        [name @ .., "referrers", digest] => {
            with(mirror, name, |_, images| referrers(asked, images, digest))
        }
        _ => refused(
            StatusCode::NOT_FOUND,
            "UNSUPPORTED",
            "there is nothing here",
        ),
    }
}

/// An error, in the form of the specification.
fn refused(status: StatusCode, code: &str, message: &str) -> Answer {
    json_of(&json!({ "errors": [{ "code": code, "message": message }] })).status(status)
}

fn json_of(value: &Value) -> Answer {
    Answer::bytes(value.to_string(), "application/json")
}

/// Finds the images of a name.
fn with(mirror: &Mirror, name: &[&str], then: impl FnOnce(&str, &Repository) -> Answer) -> Answer {
    let name = name.join("/");
    if !is_name(&name) {
        let what = format!("`{name}` cannot be the name of an image");
        return refused(StatusCode::BAD_REQUEST, "NAME_INVALID", &what);
    }
    match mirror.offers.images.get(&name) {
        Some(images) => then(&name, images),
        None => {
            let what = format!("no image `{name}` is offered");
            refused(StatusCode::NOT_FOUND, "NAME_UNKNOWN", &what)
        }
    }
}

fn bad_digest(text: &str) -> Answer {
    let what = format!("`{text}` is not a digest");
    refused(StatusCode::BAD_REQUEST, "DIGEST_INVALID", &what)
}

fn manifest(images: &Repository, reference: &str) -> Answer {
    let unknown = || {
        let what = format!("there is no manifest `{reference}`");
        refused(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", &what)
    };
    let by_digest = reference.contains(':');
    let name = if by_digest {
        if digest(reference).is_none() {
            return bad_digest(reference);
        }
        reference
    } else if !is_tag(reference) {
        return unknown();
    } else {
        match images.tags.get(reference) {
            Some((digest, _)) => digest,
            None => return unknown(),
        }
    };
    let Some((layout, about)) = images.manifest(name) else {
        return unknown();
    };
    match layout.open(name, about) {
        Ok((file, size)) => Answer::file(file, size, &about.media_type)
            .keep(if by_digest {
                Cache::Immutable
            } else {
                Cache::Never
            })
            .tagged(name)
            .header("docker-content-digest", name),
        Err(error) => Answer::broken(&error.to_string()),
    }
}

fn blob(images: &Repository, name: &str) -> Answer {
    let Some((algo, hex)) = digest(name) else {
        return bad_digest(name);
    };
    match images.blob(algo, hex) {
        Ok((file, size)) => Answer::file(file, size, "application/octet-stream")
            .keep(Cache::Immutable)
            .tagged(name)
            .header("docker-content-digest", name),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let what = format!("there is no blob `{name}`");
            refused(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", &what)
        }
        Err(error) => Answer::broken(&error.to_string()),
    }
}

fn referrers(asked: &Asked, images: &Repository, name: &str) -> Answer {
    if digest(name).is_none() {
        return bad_digest(name);
    }
    let wanted = asked.query("artifactType");
    let about = images.about(name).into_iter();
    let about = about.filter(|(_, one)| wanted.is_none() || one.artifact_type == wanted);
    let manifests: Vec<Value> = about
        .map(|(digest, one)| {
            let mut descriptor = json!({
                "mediaType": one.media_type, "digest": digest, "size": one.size,
            });
            if let Some(kind) = &one.artifact_type {
                descriptor["artifactType"] = kind.as_str().into();
            }
            if !one.annotations.is_empty() {
                descriptor["annotations"] = one.annotations.clone().into();
            }
            descriptor
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests });
    let answer = Answer::bytes(index.to_string(), INDEX_TYPE);
    if wanted.is_some() {
        return answer.header("oci-filters-applied", "artifactType");
    }
    answer
}

/// A part of a sorted list, and where the rest is.
fn listed(
    asked: &Asked,
    address: &str,
    all: &[&str],
    shape: impl FnOnce(&[&str]) -> Value,
) -> Answer {
    let from = match asked.query("last") {
        Some(last) => all.partition_point(|one| *one <= last.as_str()),
        None => 0,
    };
    let asked_for = asked.query("n").and_then(|n| n.parse::<usize>().ok());
    let count = asked_for.unwrap_or(MAX_LISTED).min(MAX_LISTED);
    let rest = all.get(from..).unwrap_or_default();
    let part = rest.get(..count).unwrap_or(rest);
    let answer = json_of(&shape(part));
    match part.last() {
        Some(last) if part.len() < rest.len() => {
            let next = format!("<{address}?n={count}&last={last}>; rel=\"next\"");
            answer.header("link", next)
        }
        _ => answer,
    }
}
