//! The JSON documents of an image: compact, keys in a fixed order, because their bytes are their identity.
//!
//! The types are this crate's own: those of `oci-spec` keep labels and annotations in hash maps, whose order is not
//! fixed. Tests read every document back with `oci-spec`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sos_formats::hash::Sha256;

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// The whole file `oci-layout`.
pub(super) const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// The annotation that holds the tag.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A sorted map of strings.
pub(super) type Strings = BTreeMap<String, String>;

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
    pub(super) architecture: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) variant: Option<&'static str>,
    pub(super) os: &'static str,
    pub(super) config: Run,
    pub(super) rootfs: RootFs,
    pub(super) history: Vec<History>,
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
    pub(super) created_by: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Platform {
    pub(super) architecture: &'static str,
    pub(super) os: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) variant: Option<&'static str>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: Strings,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
}

impl Descriptor {
    /// Describes bytes at hand.
    pub(super) fn of(media_type: &str, bytes: &[u8]) -> Self {
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
pub(super) struct Index {
    pub(super) schema_version: u32,
    pub(super) media_type: &'static str,
    pub(super) manifests: Vec<Descriptor>,
}
