//! `builtin:debian-unpack`: the essential packages of a suite laid out in a root file system, so that their own dpkg can run.
//!
//! The files only; no maintainer script runs and nothing is registered. A step then installs the same packages with the dpkg
//! inside: `dpkg --install --force-depends` unpacks them once more, on purpose, now with their scripts (base-passwd's makes
//! `/etc/passwd`). This is how mmdebstrap begins, but without tar, dpkg-deb or a directory: decompressed streams go straight
//! into blobs of the store, several packages at a time.

mod place;
mod read;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::hash::Blake3;

use crate::build::Build;
use place::Place;
use read::Contents;

/// Lays packages out.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnpackBuilder;

#[derive(Clone, Debug, Deserialize)]
struct UnpackAttrs {
    /// The packages, in the order in which later files replace earlier ones.
    #[serde(default)]
    debs: Vec<String>,
    /// No time in the result is later.
    epoch: i64,
    /// Whether `/bin` and its like are links into `/usr`.
    #[serde(default)]
    merged_usr: bool,
}

impl Builder for UnpackBuilder {
    fn name(&self) -> &'static str {
        "builtin:debian-unpack"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: UnpackAttrs = ctx.attrs_as()?;
        let root = unpack(ctx, &attrs)?;
        ctx.set_rootfs("out", root);
        Ok(())
    }
}

fn unpack(build: &dyn Build, attrs: &UnpackAttrs) -> Result<Blake3, BuilderError> {
    let packages = read_all(build, attrs)?;
    let mut place = Place::new(build.store(), attrs.epoch);
    if attrs.merged_usr {
        let top: Vec<&[u8]> = packages.iter().flat_map(Contents::top_names).collect();
        place.merge_usr(&top)?;
    }
    for package in &packages {
        place.package(package)?;
    }
    let arch = packages
        .iter()
        .map(|p| p.arch.as_str())
        .find(|arch| *arch != "all")
        .unwrap_or("all");
    place.database(arch)?;
    place.finish(build.store())
}

/// Reads all packages into the store, as many at a time as there are cores. The outcome does not depend on how many.
fn read_all(build: &dyn Build, attrs: &UnpackAttrs) -> Result<Vec<Contents>, BuilderError> {
    let paths = attrs
        .debs
        .iter()
        .map(|deb| build.tree(deb))
        .collect::<Result<Vec<_>, _>>()?;
    let (store, total) = (build.store(), paths.len());
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let done: Mutex<Vec<Option<Result<Contents, BuilderError>>>> =
        Mutex::new((0..total).map(|_| None).collect());
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = paths.get(i).filter(|_| !stop.load(Ordering::Relaxed)) else {
                return;
            };
            let result = read::package(store, path, &stop);
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            done.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(result);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..build.cores().clamp(1, total.max(1)))
            .map(|_| scope.spawn(work))
            .collect();
        // Only this thread may speak to the build; it watches the others.
        while threads.iter().any(|thread| !thread.is_finished()) {
            if build.cancelled() {
                stop.store(true, Ordering::Relaxed);
            }
            let finished = done
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .flatten()
                .count();
            build.progress(finished as u64, total as u64);
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
    });
    if build.cancelled() {
        return Err(BuilderError::Cancelled);
    }
    build.progress(total as u64, total as u64);
    let results = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    // The first in order that failed, so that the same fault gives the same message.
    let mut packages = Vec::with_capacity(total);
    let mut skipped = false;
    for result in results {
        match result {
            Some(Ok(package)) => packages.push(package),
            Some(Err(error)) => return Err(error),
            None => skipped = true,
        }
    }
    if skipped {
        return Err(BuilderError::failed(
            "a thread that reads packages stopped unexpectedly",
        ));
    }
    for package in &packages {
        build.log(&format!(
            "{} {}: {} entries",
            package.name,
            package.version,
            package.entries.len()
        ));
    }
    Ok(packages)
}
