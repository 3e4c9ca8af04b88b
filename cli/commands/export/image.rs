//! Images as layouts and archives, and in registries.

use std::path::{Path, PathBuf};

use sos_builders::export::{self, ExportedImage, OnWait};
use sos_builders::fetch::Fetcher;
use sos_builders::oci;
use sos_builders::registry::{self, Pushed, Reference};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::{ObjectKind, PathInfo};

use super::place::{Above, check_file, check_place};
use super::{refused, tell_waiting};
use crate::failure::Failure;
use crate::render::{output, size};
use crate::session::Session;

/// What else is said about an image that goes to a registry.
pub(super) struct ImageFlags {
    pub(super) offline: bool,
    /// Repositories of the same registry that may have its layers.
    pub(super) mount_from: Vec<String>,
}

/// Where an image goes.
pub(super) enum ImageDest {
    Layout { dir: PathBuf, tag: Option<String> },
    Archive { file: PathBuf, tag: Option<String> },
    Registry(Reference),
}

impl ImageDest {
    /// Reads what stands behind the scheme, if it is one of images.
    pub(super) fn parse(scheme: &str, rest: &str) -> Option<Result<Self, Failure>> {
        if scheme == "docker" {
            let name = rest.strip_prefix("//").unwrap_or(rest);
            let read = Reference::parse(name).map_err(|problem| Failure::new(*problem));
            return Some(read.map(Self::Registry));
        }
        let (place, tag) = match rest.split_once(':') {
            Some((place, tag)) => (place.into(), Some(tag.to_owned())),
            None => (rest.into(), None),
        };
        match scheme {
            "oci" => Some(Ok(Self::Layout { dir: place, tag })),
            "oci-archive" => Some(Ok(Self::Archive { file: place, tag })),
            _ => None,
        }
    }

    /// Looks before anything is built.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let bad = |code, message: String| Diagnostic::error(code, Class::Usage, message);
        let (Self::Layout { dir: place, tag } | Self::Archive { file: place, tag }) = self else {
            return Ok(());
        };
        if place.as_os_str().is_empty() {
            return Err(Failure::new(
                bad(
                    "export-destination",
                    "there is nothing between `:` and the tag".to_owned(),
                )
                .help("write a directory or a file there: `oci:DIR:TAG`, `oci-archive:FILE:TAG`"),
            ));
        }
        if let Some(tag) = tag.as_ref().filter(|tag| !oci::is_ref_name(tag)) {
            return Err(Failure::new(
                bad("export-destination", format!("`{tag}` is not a tag"))
                    .help("write letters and digits joined by one of `-._:@/+`: `oci:DIR:latest`"),
            ));
        }
        match self {
            Self::Archive { file, .. } => check_file(file, "oci-archive"),
            // As other tools do, the directories above a layout are made with it.
            _ => check_place(place, Above::CanBe),
        }
    }

    /// Writes an object of the store there.
    pub(super) fn write(
        &self,
        session: &Session,
        info: &PathInfo,
        args: &ImageFlags,
    ) -> Result<(), Failure> {
        let layout = layout_of(session, info)?;
        let exported = match self {
            Self::Layout { dir, tag } => {
                let on_wait = OnWait(Some(&|dir| tell_waiting(session, dir)));
                export::add_to_layout(&layout, dir, tag.as_deref(), on_wait)
            }
            Self::Archive { file, tag } => export::write_archive(&layout, file, tag.as_deref()),
            Self::Registry(reference) => {
                let fetcher = Fetcher::new(session.mirrors(), args.offline);
                let access = session.registries();
                let pushed =
                    registry::push(&fetcher, &access, &layout, reference, &args.mount_from);
                return sent(session, &pushed.map_err(refused)?);
            }
        };
        told(session, &exported.map_err(refused)?)
    }
}

/// Where the layout of an image object is.
fn layout_of(session: &Session, info: &PathInfo) -> Result<PathBuf, Failure> {
    let store = session.store()?;
    let place = store.physical(&info.path);
    if info.kind == ObjectKind::Tree && oci::is_layout(Path::new(&place)) {
        return Ok(place);
    }
    Err(Failure::new(
        Diagnostic::error(
            "export-no-image",
            Class::Usage,
            format!("`{}` is no image", info.path.absolute(store.store_dir())),
        )
        .help("`sos.oci { name; rootfs; }` makes one of a root filesystem"),
    ))
}

fn told(session: &Session, exported: &ExportedImage) -> Result<(), Failure> {
    if session.global.json {
        return output::json(&serde_json::json!({
            "digest": exported.digest,
            "name": exported.tag,
            "blobs": exported.blobs,
            "present": exported.present,
        }));
    }
    if !session.global.quiet {
        let blobs = usize::try_from(exported.blobs).unwrap_or(usize::MAX);
        output::message(&format!(
            "wrote {}, {} were there",
            size::count(blobs, "blob"),
            exported.present
        ));
    }
    match &exported.tag {
        Some(tag) => output::line(&format!("{} {tag}", exported.digest)),
        None => output::line(&exported.digest),
    }
}

fn sent(session: &Session, pushed: &Pushed) -> Result<(), Failure> {
    if session.global.json {
        return output::json(&serde_json::json!({
            "digest": pushed.digest,
            "name": pushed.name,
            "sent": pushed.sent,
            "bytes": pushed.bytes,
            "mounted": pushed.mounted,
            "present": pushed.present,
        }));
    }
    if !session.global.quiet {
        let blobs = usize::try_from(pushed.sent).unwrap_or(usize::MAX);
        output::message(&format!(
            "sent {}, manifests among them ({}), {} were there, {} taken over from other repositories",
            size::count(blobs, "blob"),
            size::bytes(pushed.bytes),
            pushed.present,
            pushed.mounted
        ));
        if pushed.by_digest {
            output::message(
                "it has no tag there, and only its digest leads to it: write `:TAG` behind the name for one",
            );
        }
    }
    output::line(&format!("{} {}", pushed.digest, pushed.name))
}
