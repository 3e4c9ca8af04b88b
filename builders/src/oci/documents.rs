//! The JSON documents of an image: compact, keys in a fixed order, because their bytes are their identity.
//!
//! The types are this crate's own: those of `oci-spec` keep labels and annotations in hash maps, whose order is not
//! fixed. Tests read every document back with `oci-spec`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sos_formats::hash::Sha256;

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// The whole file `oci-layout`.
pub(crate) const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// The annotation that holds the tag.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Tells whether a text is a SHA-256 in lower case.
pub(crate) fn is_hex(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Gives the kind of a layer in OCI's words; nothing for one that may not be copied, and for what is no layer.
pub(crate) fn oci_type(kind: &str) -> Option<&str> {
    Some(match kind {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.v1.tar+gzip"
        }
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd" => kind,
        _ => return None,
    })
}

/// Whether a kind of layer is an archive of files: also those that may not be copied, which the specification wants to be read.
pub(super) fn is_of_files(kind: &str) -> bool {
    oci_type(kind).is_some()
        || matches!(
            kind,
            "application/vnd.oci.image.layer.nondistributable.v1.tar"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        )
}

/// A sorted map of strings.
pub(crate) type Strings = BTreeMap<String, String>;

/// What an image runs, as a recipe says it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RunAttrs {
    pub(super) user: Option<String>,
    #[serde(alias = "ExposedPorts")]
    pub(super) exposed_ports: Vec<String>,
    pub(super) env: Env,
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    pub(super) volumes: Vec<String>,
    pub(super) workdir: Option<String>,
    pub(super) labels: Strings,
    pub(super) stop_signal: Option<String>,
}

/// The environment: a list of `NAME=value`, kept in its order, or a set, sorted by name.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Env {
    List(Vec<String>),
    Set(Strings),
}

impl Default for Env {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl Env {
    pub(super) fn into_list(self) -> Vec<String> {
        match self {
            Self::List(list) => list,
            Self::Set(set) => set
                .into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        }
    }
}

/// An object without members, the value of ports and volumes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Empty {}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Config {
    pub(super) created: String,
    pub(super) architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) variant: Option<String>,
    pub(super) os: &'static str,
    pub(super) config: Value,
    pub(super) rootfs: RootFs,
    pub(super) history: Vec<Value>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Run {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) exposed_ports: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) cmd: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) volumes: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) working_dir: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: Strings,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stop_signal: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct RootFs {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) diff_ids: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct History {
    pub(super) created: String,
    pub(super) created_by: String,
}

/// The machine that an image is for, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// Names a blob or a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: Strings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

impl Descriptor {
    /// Gives the name of the blob in a layout: 64 digits. Only SHA-256 is understood.
    pub(crate) fn hex(&self) -> Option<&str> {
        let hex = self.digest.strip_prefix("sha256:")?;
        is_hex(hex).then_some(hex)
    }

    /// Describes bytes at hand.
    pub(crate) fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{}", Sha256::of(bytes)),
            size: bytes.len() as u64,
            annotations: Strings::new(),
            platform: None,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    pub(super) media_type: &'static str,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: Strings,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    pub(crate) media_type: &'static str,
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: Strings,
}
