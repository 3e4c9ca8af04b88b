//! Why something was built, from the journal: the way from a derivation to what a person changed, and what else followed from it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use sos_formats::derivation::Derivation;
use sos_formats::store_path::StorePath;
use sos_store::{BuildId, Step, Store, StoreError};

use crate::cause::{Cause, Causes, between};
use crate::engine::Plan;
use crate::event::Text;
use crate::journal::StepDetail;

/// Steps of one derivation that are looked at for one that tells its cause.
const STEPS: u32 = 16;
/// Steps of one name that are looked through for the first one with a change.
const STEPS_NAMED: u32 = 64;

/// One derivation on the way, and the cause that leads on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The derivation.
    pub drv: StorePath,
    /// Why it was built, as far as this way goes.
    pub cause: Cause,
    /// Where it is written.
    pub at: Option<Text>,
}

/// One thing that was changed, and how it led to a build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reason {
    /// From the derivation that was asked for to the one whose cause is a change by a person. Never empty.
    pub way: Vec<Link>,
    /// The first run in which the change was met.
    pub first_seen: Option<BuildId>,
    /// Derivations of the same run that were built for the same reason, without the one that was asked for.
    pub others: usize,
    /// Derivations of the same run that were not built, although they are behind the change: their inputs came out identical.
    pub stopped: usize,
}

impl Reason {
    /// The end of the way.
    #[must_use]
    pub fn root(&self) -> Option<&Link> {
        self.way.last()
    }
}

/// A derivation of a run with what the journal, or a plan, says of it.
struct Told {
    drv: StorePath,
    causes: Option<Causes>,
    needs: Vec<String>,
    was_built: bool,
}

/// What a change led to in one run.
#[derive(Default)]
struct Followed {
    built: BTreeSet<StorePath>,
    stopped: usize,
}

/// What the journal has of a derivation.
struct Known {
    /// Why it was built the last time.
    causes: Option<Causes>,
    /// Which derivation made each input, by base names.
    makers: BTreeMap<String, String>,
}

impl Known {
    fn maker_of(&self, input: &StorePath) -> Option<StorePath> {
        StorePath::from_base(self.makers.get(input.as_str())?).ok()
    }
}

/// Answers questions about the past, and about a plan.
pub struct Explainer<'a> {
    store: &'a Store,
    planned: BTreeMap<StorePath, Causes>,
    plan: Vec<Told>,
    runs: BTreeMap<i64, Rc<Vec<Told>>>,
    followed: BTreeMap<(Option<i64>, String), Rc<Followed>>,
    /// What was asked of the journal about derivations, up to a run.
    known: RefCell<BTreeMap<(StorePath, i64), Rc<Known>>>,
    seen: BTreeMap<String, Option<BuildId>>,
}

impl<'a> Explainer<'a> {
    /// Makes one that knows what the store remembers.
    #[must_use]
    pub fn new(store: &'a Store) -> Self {
        Self {
            store,
            planned: BTreeMap::new(),
            plan: Vec::new(),
            runs: BTreeMap::new(),
            followed: BTreeMap::new(),
            known: RefCell::default(),
            seen: BTreeMap::new(),
        }
    }

    /// Makes it know a plan, too.
    #[must_use]
    pub fn with_plan(mut self, plan: &Plan) -> Self {
        for planned in plan.to_build.iter().chain(&plan.to_fetch) {
            self.planned
                .insert(planned.drv.clone(), planned.cause.clone());
            self.plan.push(Told {
                drv: planned.drv.clone(),
                causes: Some(planned.cause.clone()),
                needs: Vec::new(),
                was_built: true,
            });
        }
        self
    }

    /// Tells what led to a step.
    ///
    /// # Errors
    /// When the database fails.
    pub fn step(&mut self, step: &Step) -> Result<Vec<Reason>, StoreError> {
        match causes_of(step) {
            Some(causes) => self.reasons(&step.drv, &causes, Some(step.build)),
            None => Ok(Vec::new()),
        }
    }

    /// Tells what would lead to a build that the plan has; nothing for what it does not have.
    ///
    /// # Errors
    /// When the database fails.
    pub fn planned(
        &mut self,
        drv: &StorePath,
    ) -> Result<Option<(Causes, Vec<Reason>)>, StoreError> {
        let Some(causes) = self.planned.get(drv).cloned() else {
            return Ok(None);
        };
        let reasons = self.reasons(drv, &causes, None)?;
        Ok(Some((causes, reasons)))
    }

    /// Walks from a derivation to everything that was changed, nearest first.
    fn reasons(
        &mut self,
        drv: &StorePath,
        causes: &Causes,
        build: Option<BuildId>,
    ) -> Result<Vec<Reason>, StoreError> {
        struct Visit {
            drv: StorePath,
            causes: Causes,
            /// Who asked, and why.
            by: Option<(usize, Cause)>,
        }
        let until = build.unwrap_or(BuildId(i64::MAX));
        let mut visits = vec![Visit {
            drv: drv.clone(),
            causes: causes.clone(),
            by: None,
        }];
        let mut met: BTreeSet<StorePath> = [drv.clone()].into();
        let mut roots = BTreeSet::new();
        let mut ways = Vec::new();
        let mut at = 0;
        while at < visits.len() {
            let (here, causes) = (visits[at].drv.clone(), visits[at].causes.clone());
            for cause in causes.all() {
                match self.behind(cause, &causes, until)? {
                    Some((next, causes)) if met.insert(next.clone()) => visits.push(Visit {
                        drv: next,
                        causes,
                        by: Some((at, cause.clone())),
                    }),
                    Some(_) => {}
                    None if roots.insert(key(&here, cause)) => {
                        let mut way = vec![Link {
                            drv: here.clone(),
                            cause: cause.clone(),
                            at: causes.at.clone(),
                        }];
                        let mut visit = &visits[at];
                        while let Some((by, cause)) = &visit.by {
                            visit = &visits[*by];
                            way.push(Link {
                                drv: visit.drv.clone(),
                                cause: cause.clone(),
                                at: visit.causes.at.clone(),
                            });
                        }
                        way.reverse();
                        ways.push(way);
                    }
                    None => {}
                }
            }
            at += 1;
        }
        ways.into_iter()
            .map(|way| self.reason(way, drv, build))
            .collect()
    }

    fn reason(
        &mut self,
        way: Vec<Link>,
        asked: &StorePath,
        build: Option<BuildId>,
    ) -> Result<Reason, StoreError> {
        let mut reason = Reason {
            way,
            first_seen: None,
            others: 0,
            stopped: 0,
        };
        let Some(root) = reason.root().cloned() else {
            return Ok(reason);
        };
        let subject = match &root.cause {
            Cause::InputChanged {
                new: Some(new),
                from: None,
                ..
            } => StorePath::from_absolute(self.store.store_dir(), new.as_str()).ok(),
            _ => Some(root.drv.clone()),
        };
        if let Some(subject) = subject {
            reason.first_seen = self.first_seen(&root, &subject, build)?;
        }
        let followed = self.followed(&root, build)?;
        reason.others = followed.built.len() - usize::from(followed.built.contains(asked));
        reason.stopped = followed.stopped;
        Ok(reason)
    }

    /// The first run in which a change was met: a source by its path, anything else by its derivation; or by an earlier one that
    /// was built because the same variable got the same value.
    fn first_seen(
        &mut self,
        root: &Link,
        subject: &StorePath,
        build: Option<BuildId>,
    ) -> Result<Option<BuildId>, StoreError> {
        let memo = key(&root.drv, &root.cause);
        if let Some(known) = self.seen.get(&memo) {
            return Ok(*known);
        }
        let mut first = self.store.first_seen(subject)?;
        if let Cause::EnvChanged { new: Some(_), .. } = &root.cause {
            let steps = self
                .store
                .newest_steps_named(name_of(&root.drv), STEPS_NAMED)?;
            let same = steps.iter().filter(|step| {
                let is_before = build.is_none_or(|build| step.build <= build);
                let causes = causes_of(step).filter(|_| is_before);
                causes
                    .is_some_and(|causes| causes.all().any(|cause| same_value(cause, &root.cause)))
            });
            first = same.map(|step| step.build).chain(first).min();
        }
        self.seen.insert(memo, first);
        Ok(first)
    }

    /// What is behind a cause: the derivation that made the input, and why that was built. Nothing when the cause is the change
    /// itself, or the journal knows no more.
    fn behind(
        &self,
        cause: &Cause,
        of: &Causes,
        until: BuildId,
    ) -> Result<Option<(StorePath, Causes)>, StoreError> {
        let dir = self.store.store_dir();
        let parse = |text: &Text| StorePath::from_absolute(dir, text.as_str()).ok();
        let Cause::InputChanged {
            old: Some(old),
            from: Some(from),
            new: Some(_),
            ..
        } = cause
        else {
            return Ok(None);
        };
        let (Some(old), Some(from)) = (parse(old), parse(from)) else {
            return Ok(None);
        };
        if let Some(causes) = self.planned.get(&from) {
            return Ok(Some((from, causes.clone())));
        }
        let known = self.known(&from, until)?;
        let recorded = known.causes.clone();
        // What it was built from the last time is not always what it was in the build that this one is compared with.
        let was = match of.was.as_ref().and_then(&parse) {
            Some(before) => self.known(&before, until)?.maker_of(&old),
            None => None,
        };
        let compared_with = recorded
            .as_ref()
            .and_then(|causes| causes.was.as_ref())
            .and_then(&parse);
        if let Some(was) = was.filter(|was| compared_with.as_ref() != Some(was) && *was != from) {
            let made = |path: &StorePath| known.maker_of(path);
            if let Some(causes) = between(self.store, &was, &from, &made)? {
                return Ok(Some((from, causes)));
            }
        }
        Ok(recorded.map(|causes| (from, causes)))
    }

    fn known(&self, drv: &StorePath, until: BuildId) -> Result<Rc<Known>, StoreError> {
        let key = (drv.clone(), until.0);
        if let Some(known) = self.known.borrow().get(&key) {
            return Ok(known.clone());
        }
        let steps = self.store.steps_of_drv(drv, until, STEPS)?;
        let details = steps.iter().filter_map(detail_of);
        let detail = details.into_iter().find(|detail| !detail.inputs.is_empty());
        let inputs = detail.unwrap_or_default().inputs.into_iter();
        let known = Rc::new(Known {
            causes: steps.iter().find_map(causes_of),
            makers: inputs
                .filter_map(|input| Some((input.path, input.drv?)))
                .collect(),
        });
        self.known.borrow_mut().insert(key, known.clone());
        Ok(known)
    }

    /// What a change led to in a run, or in the plan.
    fn followed(
        &mut self,
        root: &Link,
        build: Option<BuildId>,
    ) -> Result<Rc<Followed>, StoreError> {
        let key = key(&root.drv, &root.cause);
        let memo = (build.map(|build| build.0), key.clone());
        if let Some(known) = self.followed.get(&memo) {
            return Ok(known.clone());
        }
        let followed = match build {
            None => follow(&self.plan, root, &key, self.store),
            Some(build) => follow(&self.run(build)?, root, &key, self.store),
        };
        let followed = Rc::new(followed);
        self.followed.insert(memo, followed.clone());
        Ok(followed)
    }

    fn run(&mut self, build: BuildId) -> Result<Rc<Vec<Told>>, StoreError> {
        if let Some(known) = self.runs.get(&build.0) {
            return Ok(known.clone());
        }
        let steps = self.store.steps_of_build(build)?;
        let told = steps.into_iter().map(|step| Told {
            causes: causes_of(&step),
            needs: detail_of(&step).unwrap_or_default().needs,
            was_built: step.started_ms.is_some(),
            drv: step.drv,
        });
        let told = Rc::new(told.collect::<Vec<_>>());
        self.runs.insert(build.0, told.clone());
        Ok(told)
    }
}

/// Follows a change through a run: what was built because of it, and what would have been if the inputs had come out otherwise.
fn follow(run: &[Told], root: &Link, root_key: &str, store: &Store) -> Followed {
    let dir = store.store_dir();
    let mut users: BTreeMap<StorePath, Vec<&Told>> = BTreeMap::new();
    let mut todo: VecDeque<&StorePath> = VecDeque::new();
    // That of another run may be where it began.
    let mut reached: BTreeSet<StorePath> = [root.drv.clone()].into();
    todo.push_back(&root.drv);
    for told in run.iter().filter(|told| told.was_built) {
        for cause in told.causes.iter().flat_map(Causes::all) {
            if key(&told.drv, cause) == root_key && reached.insert(told.drv.clone()) {
                todo.push_back(&told.drv);
            }
            if let Cause::InputChanged {
                from: Some(from), ..
            } = cause
                && let Ok(from) = StorePath::from_absolute(dir, from.as_str())
            {
                users.entry(from).or_default().push(told);
            }
        }
    }
    while let Some(drv) = todo.pop_front() {
        for told in users.get(drv).into_iter().flatten() {
            if reached.insert(told.drv.clone()) {
                todo.push_back(&told.drv);
            }
        }
    }
    let mut behind: BTreeSet<&str> = reached.iter().map(StorePath::as_str).collect();
    let mut stopped = 0;
    // What stops is behind something that was built, or behind something that stopped.
    loop {
        let more: Vec<&Told> = run
            .iter()
            .filter(|told| !told.was_built && !behind.contains(told.drv.as_str()))
            .filter(|told| told.needs.iter().any(|need| behind.contains(need.as_str())))
            .collect();
        if more.is_empty() {
            break;
        }
        stopped += more.len();
        behind.extend(more.iter().map(|told| told.drv.as_str()));
    }
    let built = run
        .iter()
        .filter(|told| told.was_built && reached.contains(&told.drv))
        .map(|told| told.drv.clone());
    Followed {
        built: built.collect(),
        stopped,
    }
}

/// Whether two changes gave the same variable the same value.
fn same_value(one: &Cause, other: &Cause) -> bool {
    matches!((one, other), (
        Cause::EnvChanged { name: a, new: x, .. },
        Cause::EnvChanged { name: b, new: y, .. },
    ) if a == b && x == y)
}

/// What makes a change the same one, wherever it is met.
fn key(drv: &StorePath, cause: &Cause) -> String {
    match cause {
        Cause::InputChanged { old, new, .. } => {
            let text =
                |path: &Option<Text>| path.as_ref().map_or_else(String::new, Text::to_string);
            format!("{} {}", text(old), text(new))
        }
        other => format!(
            "{} {}",
            drv.as_str(),
            serde_json::to_string(other).unwrap_or_default()
        ),
    }
}

/// The causes that a step was noted with; none for one whose builder was not started.
#[must_use]
pub fn causes_of(step: &Step) -> Option<Causes> {
    serde_json::from_str(step.cause.as_deref()?).ok()
}

/// What a step was built from.
#[must_use]
pub fn detail_of(step: &Step) -> Option<StepDetail> {
    serde_json::from_str(step.detail.as_deref()?).ok()
}

/// The name of a derivation, for people.
#[must_use]
pub fn name_of(drv: &StorePath) -> &str {
    Derivation::name_from_path(drv)
}
