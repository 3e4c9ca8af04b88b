//! What a name leads to, before anything is pulled.

use bytes::Bytes;
use reqwest::{Method, header};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Sha256;

use super::access::Access;
use super::client::{Ask, Client};
use super::pull::{ACCEPT, may_be};
use super::reference::Reference;
use super::words::{Use, other_bytes, web_page};
use crate::fetch::{Fetcher, looks_like_html};
use crate::oci::documents::{CONFIG_TYPE, oci_type};
use crate::oci::source::{Document, ManifestDocument, strange_layer};

/// What Docker calls the configuration of an image.
const DOCKER_CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The digest of a manifest or index.
    pub digest: Sha256,
    /// Why it is perhaps nothing that a recipe can use, in words that go on after its name. Of an index nothing is known: which of its
    /// images is meant, a recipe says.
    pub doubt: Option<String>,
}

/// Asks a registry what a name leads to now: the digest of a manifest or index. Without a tag, `latest` is meant.
///
/// # Errors
/// When the registry cannot be reached, does not let the user in, has nothing of that name, or says another digest than that of the
/// bytes that it gives; when what is there could not be pulled from any registry.
pub fn resolve(
    fetcher: &Fetcher,
    access: &Access,
    reference: &Reference,
) -> Result<Resolved, Box<Diagnostic>> {
    let client = Client::new(fetcher, access, reference, Use::Resolve)?;
    let name = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => digest,
        (None, Some(tag)) => tag,
        (None, None) => "latest",
    };
    let answer = client.ask(&Ask {
        method: Method::GET,
        url: client.url(&format!("manifests/{name}"))?,
        headers: &[(header::ACCEPT, ACCEPT)],
        body: Bytes::new(),
        scope: &format!("repository:{}:pull", reference.name),
        again: true,
    })?;
    if answer.status != 200 {
        let what = format!("tell what `{reference}` is");
        return Err(client.unexpected(&what, &answer));
    }
    if looks_like_html(&answer.body) {
        return Err(web_page(reference));
    }
    let found = Sha256::of(&answer.body);
    let digest = format!("sha256:{found}");
    let stated = answer.header("docker-content-digest");
    let mut stated = stated.into_iter().chain(reference.digest.as_deref());
    if let Some(stated) = stated.find(|stated| *stated != digest) {
        let size = answer.body.len() as u64;
        return Err(other_bytes(reference, stated, &digest, size));
    }
    // What is pinned must be what can be pulled later.
    let read = Document::parse(&answer.body).and_then(|document| match document {
        Document::Manifest(manifest) => {
            let mut blobs = manifest.layers.iter().chain([&manifest.config]);
            blobs.try_for_each(may_be).map(|()| doubt(&manifest))
        }
        Document::Index(_) => Ok(None),
    });
    match read {
        Ok(doubt) => Ok(Resolved {
            digest: found,
            doubt,
        }),
        Err(what) => {
            let message = format!("the image `{reference}` cannot be pinned: {digest}: {what}");
            Err(Box::new(
                Diagnostic::error("oci-bad-image", Class::Fetch, message)
                    .help("name an image, or send this one to the registry again"),
            ))
        }
    }
}

/// Why something that can be pulled is perhaps no image, or none that can be pulled. Registries hold other things, too, and a recipe may
/// want them.
fn doubt(manifest: &ManifestDocument) -> Option<String> {
    if let Some(what) = strange_layer(manifest) {
        return Some(format!(
            "can be pulled, and no root filesystem can be made of it: {what}"
        ));
    }
    let mut layers = manifest.layers.iter();
    if let Some(layer) = layers.find(|layer| oci_type(&layer.media_type).is_none()) {
        let (digest, kind) = (&layer.digest, &layer.media_type);
        return Some(format!(
            "can only be pulled where the registry has all of it: its layer {digest} is of the kind `{kind}`, which few registries take"
        ));
    }
    let kind = manifest.config.media_type.as_str();
    (![CONFIG_TYPE, DOCKER_CONFIG_TYPE].contains(&kind)).then(|| {
        format!(
            "is perhaps no image: its configuration {} is of the kind `{kind}`",
            manifest.config.digest
        )
    })
}
