//! Builtin builders: fetch, Debian, rootfs edits, OCI, OSTree, disks.
//!
//! [`registry()`] makes them known to an engine; each is named by the `builder` of a derivation, as in `builtin:fetch`.

pub mod bootc;
mod build;
pub mod buildenv;
pub mod channel;
pub mod debian;
pub mod disk;
pub mod export;
pub mod fetch;
pub mod filesystem;
pub(crate) mod fragments;
#[cfg(feature = "libostree")]
pub mod libostree;
pub mod media;
pub mod mirror;
pub mod mirrors;
pub mod oci;
pub mod ostree;
#[cfg(test)]
mod peers;
pub mod registry;
pub mod rootfs_edit;
pub mod tree;
mod unfit;
mod vcs;
mod walk;

use sos_engine::Registry;

use crate::bootc::BootcBuilder;
use crate::buildenv::BuildEnvBuilder;
use crate::channel::UnpackChannelBuilder;
use crate::debian::UnpackBuilder;
use crate::disk::{
    DiskBuilder, InitrdBuilder, IsoBuilder, NetbootBuilder, ProvisionBuilder, Qcow2Builder,
    UkiBuilder,
};
use crate::fetch::{FetchBuilder, FetchUrlBuilder, Fetcher};
use crate::filesystem::{FilesystemBuilder, VerityBuilder};
use crate::media::{BuilderHex0Builder, PayloadBuilder, RootfsFileBuilder};
use crate::mirrors::Mirrors;
use crate::oci::{
    OciBuilder, OciChunksBuilder, OciIndexBuilder, OciLayerBuilder, OciRootfsBuilder,
};
use crate::ostree::{
    OstreeBuilder, OstreeCheckoutBuilder, OstreeContainerBuilder, OstreePullBuilder, SysrootBuilder,
};
use crate::registry::{Access, OciPullBuilder};
use crate::rootfs_edit::RootfsEditBuilder;

/// What the builders need to know of this machine and this run.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// What `mirror://` URLs stand for.
    pub mirrors: Mirrors,
    /// Whether the network may not be used.
    pub offline: bool,
    /// How registries are spoken with.
    pub registries: Access,
    /// The command that pins anew what is built, for advice; empty for the one without a target.
    pub relock: String,
}

/// Makes the registry of all builders of this crate, with a fetcher of its own.
#[must_use]
pub fn registry(config: Config) -> Registry {
    let fetcher = Fetcher::new(config.mirrors, config.offline);
    let mut registry = registry_with(&fetcher);
    registry.register(OciPullBuilder::new(fetcher.clone(), config.registries));
    registry.register(FetchBuilder::advising(fetcher, config.relock));
    registry
}

/// Makes the registry around a fetcher that is used elsewhere too, so that both share connections and experience.
#[must_use]
pub fn registry_with(fetcher: &Fetcher) -> Registry {
    let mut registry = Registry::new();
    registry
        .register(FetchBuilder::new(fetcher.clone()))
        .register(FetchUrlBuilder::new(fetcher.clone()))
        .register(OciLayerBuilder)
        .register(OciPullBuilder::new(fetcher.clone(), Access::default()))
        .register(OciBuilder)
        .register(OciChunksBuilder)
        .register(OciIndexBuilder)
        .register(OciRootfsBuilder)
        .register(OstreeBuilder)
        .register(SysrootBuilder)
        .register(DiskBuilder)
        .register(InitrdBuilder)
        .register(IsoBuilder)
        .register(NetbootBuilder)
        .register(ProvisionBuilder)
        .register(Qcow2Builder)
        .register(UkiBuilder)
        .register(FilesystemBuilder)
        .register(VerityBuilder)
        .register(BootcBuilder)
        .register(OstreeCheckoutBuilder)
        .register(OstreeContainerBuilder)
        .register(OstreePullBuilder)
        .register(RootfsEditBuilder)
        .register(UnpackBuilder)
        .register(BuilderHex0Builder)
        .register(PayloadBuilder)
        .register(RootfsFileBuilder)
        .register(BuildEnvBuilder)
        .register(UnpackChannelBuilder);
    registry
}
