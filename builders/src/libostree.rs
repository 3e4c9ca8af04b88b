//! What libostree does for us: pulling, checking repositories of the machine, deploying. Built in with the feature `libostree`, which
//! needs libostree-dev and pkg-config.
//!
//! Objects are written by our own code; here a second implementation looks at them.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use ostree::gio::prelude::*;
use ostree::glib::{self, VariantDict};
use ostree::{RepoMode, RepoPullFlags, SysrootSimpleWriteDeploymentFlags, gio};
use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Sha256;

use crate::build::Build;

/// How often a pull looks whether it shall go on.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Problems that one message names.
const SHOWN: usize = 10;

/// Pulls a commit into a new repository in `repo`.
pub(crate) fn pull(
    build: &dyn Build,
    repo: &Path,
    url: &str,
    commit: &Sha256,
) -> Result<(), BuilderError> {
    let failed = |e: glib::Error| {
        let message = format!("cannot pull {commit} from `{url}`: {}", e.message());
        BuilderError::from(
            Diagnostic::error("ostree-pull", Class::Fetch, message)
                .help("see whether the repository has this commit: `ostree remote refs`"),
        )
    };
    let stop = gio::Cancellable::new();
    let (done, finished) = channel();
    std::thread::scope(|scope| {
        let (token, commit) = (stop.clone(), commit.to_string());
        // Not every part of libostree may be used from two threads: it has this one for itself.
        scope.spawn(move || {
            let result = pull_here(repo, url, &commit, &token);
            let _nobody_waits = done.send(result).is_err();
        });
        loop {
            match finished.recv_timeout(LOOK_EVERY) {
                Ok(result) => return result.map_err(failed),
                Err(RecvTimeoutError::Timeout) if build.cancelled() => {
                    // The scope waits until it has ended.
                    stop.cancel();
                    return Err(BuilderError::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(BuilderError::failed("libostree ended without a word"));
                }
            }
        }
    })
}

fn pull_here(
    dir: &Path,
    url: &str,
    commit: &str,
    stop: &gio::Cancellable,
) -> Result<(), glib::Error> {
    let repo = ostree::Repo::new_for_path(dir);
    // Static deltas are for such repositories only.
    repo.create(RepoMode::BareUser, Some(stop))?;
    let config = repo.copy_config();
    // What is pulled is copied into the store, which syncs it.
    config.set_boolean("core", "fsync", false);
    repo.write_config(&config)?;
    repo.reload_config(Some(stop))?;
    let options = VariantDict::new(None);
    // The checksum in the recipe says what is right.
    options.insert("gpg-verify", false);
    options.insert("gpg-verify-summary", false);
    repo.remote_add("origin", Some(url), Some(&options.end()), Some(stop))?;
    let options = VariantDict::new(None);
    options.insert("refs", vec![commit.to_owned()]);
    options.insert("depth", 0_i32);
    repo.pull_with_options("origin", &options.end(), None, Some(stop))
}

/// Checks every object of a repository of the machine against its name; gives how many there are.
///
/// # Errors
/// `Diagnostic` naming objects that are damaged.
pub fn fsck(dir: &Path) -> Result<u64, BuilderError> {
    let failed = |e: glib::Error| {
        BuilderError::failed(format!("cannot check `{}`: {}", dir.display(), e.message()))
    };
    let repo = ostree::Repo::new_for_path(dir);
    repo.open(gio::Cancellable::NONE).map_err(failed)?;
    let objects = repo
        .list_objects(
            ostree::ffi::OSTREE_REPO_LIST_OBJECTS_ALL,
            gio::Cancellable::NONE,
        )
        .map_err(failed)?;
    let mut names: Vec<(String, ostree::ObjectType)> = objects
        .into_keys()
        .map(|name| (name.checksum().to_owned(), name.object_type()))
        .collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let mut problems = Vec::new();
    for (checksum, kind) in &names {
        if let Err(error) = repo.fsck_object(*kind, checksum, gio::Cancellable::NONE) {
            problems.push(error.message().to_owned());
        }
    }
    if problems.is_empty() {
        return Ok(names.len() as u64);
    }
    let message = format!(
        "{} objects of the repository `{}` are damaged",
        problems.len(),
        dir.display()
    );
    let mut all = Diagnostic::error("export-fsck", Class::HashMismatch, message);
    for problem in problems.iter().take(SHOWN) {
        all = all.note(problem.clone());
    }
    Err(all
        .help("delete them and export again: what is missing is written")
        .into())
}

/// Deploys a commit of the repository in `repo` into a system root, which is made when it is not there: the next boot is of this
/// commit, the one before stays as the second entry.
///
/// # Errors
/// `Diagnostic` with what libostree says; only root may deploy.
pub fn deploy(
    repo: &Path,
    branch: &str,
    sysroot: &Path,
    os: &str,
    kargs: &[&str],
) -> Result<String, BuilderError> {
    deploy_with(repo, branch, sysroot, os, kargs).map_err(|e| {
        let message = format!(
            "cannot deploy `{branch}` into `{}`: {}",
            sysroot.display(),
            e.message()
        );
        Diagnostic::error("export-deploy", Class::Machine, message)
            .help("a commit that can be deployed is made by `sos.bootc { ... }.ostree`; only root may deploy")
            .into()
    })
}

fn deploy_with(
    repo: &Path,
    branch: &str,
    path: &Path,
    os: &str,
    kargs: &[&str],
) -> Result<String, glib::Error> {
    let none = gio::Cancellable::NONE;
    let sysroot = ostree::Sysroot::new(Some(&gio::File::for_path(path)));
    sysroot.ensure_initialized(none)?;
    sysroot.load(none)?;
    if sysroot.deployments().is_empty() && !path.join("ostree/deploy").join(os).is_dir() {
        sysroot.init_osname(os, none)?;
    }
    let into = sysroot.repo();
    let config = into.copy_config();
    // Boot entries are written, and no boot loader of this machine is run.
    config.set_string("sysroot", "bootloader", "none");
    into.write_config(&config)?;
    into.reload_config(none)?;
    let url = format!("file://{}", repo.display());
    into.pull(&url, &[branch], RepoPullFlags::MIRROR, None, none)?;
    let Some(commit) = into.resolve_rev(branch, false)? else {
        return Err(glib::Error::new(
            gio::IOErrorEnum::NotFound,
            "the repository has no such ref",
        ));
    };
    let origin = sysroot.origin_new_from_refspec(branch);
    let merge = sysroot.merge_deployment(Some(os));
    let new = sysroot.deploy_tree(
        Some(os),
        &commit,
        Some(&origin),
        merge.as_ref(),
        kargs,
        none,
    )?;
    let flags = SysrootSimpleWriteDeploymentFlags::NONE;
    sysroot.simple_write_deployment(Some(os), &new, merge.as_ref(), flags, none)?;
    Ok(commit.to_string())
}
