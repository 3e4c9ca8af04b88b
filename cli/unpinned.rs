//! Pins that are taken back: a name of a registry is pinned before its image is pulled, and an image that cannot be pulled must not stay
//! in the lock, where the next build would ask for it again whatever the registry has by then.

use std::sync::Arc;

use memchr::memmem;
use sos_engine::{BuildReport, Graph};
use sos_formats::derivation::Derivation;
use sos_formats::store_path::{StoreDir, StorePath};
use sos_recipes::{Change, LockReport};
use sos_store::Store;

use crate::render::output;
use crate::session::Session;

const PULL: &[u8] = b"builtin:oci-pull";

/// The pulls of a build whose pins this run has written.
pub(crate) struct Fresh {
    /// Lock by lock: the references that were pinned, and the derivations that pull them.
    locks: Vec<(LockReport, Vec<Pin>)>,
}

struct Pin {
    reference: String,
    drvs: Vec<StorePath>,
}

/// Takes them out of a graph before it is built; nothing when the run has pinned no image.
pub(crate) fn fresh(locks: &[LockReport], graph: &Graph, dir: &StoreDir) -> Fresh {
    let of_image = |change: &Change| match change {
        Change::Image { after, .. } => {
            Some((after.reference.clone(), format!("sha256:{}", after.digest)))
        }
        _ => None,
    };
    let mut pulls = None;
    let mut found = Vec::new();
    for lock in locks {
        let pins: Vec<Pin> = lock
            .changes
            .iter()
            .filter_map(of_image)
            .map(|(reference, digest)| {
                let pulls = pulls.get_or_insert_with(|| self::pulls(graph, dir));
                let own = pulls.iter().filter(|pull| pull.reference == reference);
                let own = own.filter(|pull| pull.digest == digest);
                Pin {
                    drvs: own.map(|pull| pull.drv.clone()).collect(),
                    reference,
                }
            })
            .collect();
        if !pins.is_empty() {
            found.push((lock.clone(), pins));
        }
    }
    Fresh { locks: found }
}

struct PullOf {
    drv: StorePath,
    reference: String,
    digest: String,
}

/// Every pull of a graph.
fn pulls(graph: &Graph, dir: &StoreDir) -> Vec<PullOf> {
    let texts = graph
        .texts
        .iter()
        .filter(|(_, text)| memmem::find(text, PULL).is_some());
    let read = |(path, text): (&StorePath, &Arc<[u8]>)| {
        let drv = Derivation::parse_aterm(text, dir).ok()?;
        Some((path.clone(), Arc::new(drv)))
    };
    let all = texts.filter_map(read);
    let all = all.chain(
        graph
            .drvs
            .iter()
            .map(|(path, drv)| (path.clone(), Arc::clone(drv))),
    );
    let pull = |(drv, read): (StorePath, Arc<Derivation>)| {
        let json = read.env.get(b"__json".as_slice())?;
        let attrs: serde_json::Value = serde_json::from_slice(json).ok()?;
        let text = |name: &str| attrs[name].as_str().map(str::to_owned);
        (read.builder == PULL).then_some(())?;
        Some(PullOf {
            drv,
            reference: text("ref")?,
            digest: text("digest")?,
        })
    };
    all.filter_map(pull).collect()
}

impl Fresh {
    /// Takes back the pins of images that could not be pulled, or that had not come when the build was stopped, and says so. A pin stays
    /// when its image has come, for another machine for example, and when nobody has tried to pull it: what failed then was something else.
    pub(crate) fn take_back(self, session: &Session, store: &Store, report: &BuildReport) {
        let has_come =
            |drv: &StorePath| store.drv_outputs(drv).is_ok_and(|found| !found.is_empty());
        for (lock, pins) in self.locks {
            let bad = pins.iter().filter(|pin| {
                let is_bad = |drv| report.cancelled || report.failed.contains(drv);
                pin.drvs.iter().any(is_bad) && !pin.drvs.iter().any(has_come)
            });
            let bad: Vec<&str> = bad.map(|pin| pin.reference.as_str()).collect();
            if bad.is_empty() {
                continue;
            }
            let taken = match lock.unpin(&bad) {
                Ok(taken) => taken,
                // What the build failed of is the problem, and was told.
                Err(problem) => {
                    output::message(&format!("warning: {}", problem.message));
                    continue;
                }
            };
            if session.global.quiet || session.global.json {
                continue;
            }
            let why = match report.cancelled {
                true => "it has not come",
                false => "it could not be pulled",
            };
            for reference in taken {
                output::message(&format!("`{reference}` is not pinned any more: {why}"));
            }
        }
    }
}
