//! Why something was built, from the journal: the way from a derivation to what a person changed, and what else followed from it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
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
    /// Other files that its recipe reads and that had changed.
    pub read: Vec<String>,
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
    /// Derivations of the same run that are behind the change and were not tried, because one failed or the run was stopped.
    pub untried: usize,
}

/// What was changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reasons {
    /// One way, which is a shortest one, to each change; nearest first, those of one derivation together.
    pub told: Vec<Reason>,
    /// Changes besides that were not asked for.
    pub more: usize,
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
    /// Not built, and not because its inputs came out identical.
    is_untried: bool,
}

/// The derivations of a run, by what a change is followed with.
struct Run {
    told: Vec<Told>,
    by_drv: BTreeMap<StorePath, usize>,
    /// What was built because of a change, by its key.
    by_key: BTreeMap<String, Vec<usize>>,
    /// What was built because an input changed, by the derivation that made it.
    users: BTreeMap<StorePath, Vec<usize>>,
    /// What was not built, by the base names of what it needs.
    waiting: BTreeMap<String, Vec<usize>>,
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
    plan: Rc<Run>,
    runs: BTreeMap<i64, Rc<Run>>,
    at_most: usize,
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
            plan: Rc::new(Run::of(store, Vec::new())),
            runs: BTreeMap::new(),
            at_most: usize::MAX,
            known: RefCell::default(),
            seen: BTreeMap::new(),
        }
    }

    /// Makes it tell at most so many changes of one derivation, and count the others.
    #[must_use]
    pub fn at_most(mut self, changes: usize) -> Self {
        self.at_most = changes;
        self
    }

    /// Makes it know a plan, too.
    #[must_use]
    pub fn with_plan(mut self, plan: &Plan) -> Self {
        let mut told = Vec::new();
        for planned in plan.to_build.iter().chain(&plan.to_fetch) {
            self.planned
                .insert(planned.drv.clone(), planned.cause.clone());
            told.push(Told {
                drv: planned.drv.clone(),
                causes: Some(planned.cause.clone()),
                needs: Vec::new(),
                was_built: true,
                is_untried: false,
            });
        }
        self.plan = Rc::new(Run::of(self.store, told));
        self
    }

    /// Tells what led to a step.
    ///
    /// # Errors
    /// When the database fails.
    pub fn step(&mut self, step: &Step) -> Result<Reasons, StoreError> {
        match causes_of(step) {
            Some(causes) => self.reasons(&step.drv, &causes, Some(step.build)),
            None => Ok(Reasons::default()),
        }
    }

    /// Tells what would lead to a build that the plan has; nothing for what it does not have.
    ///
    /// # Errors
    /// When the database fails.
    pub fn planned(&mut self, drv: &StorePath) -> Result<Option<(Causes, Reasons)>, StoreError> {
        let Some(causes) = self.planned.get(drv).cloned() else {
            return Ok(None);
        };
        let reasons = self.reasons(drv, &causes, None)?;
        Ok(Some((causes, reasons)))
    }

    /// Walks from a derivation to everything that was changed, nearest first. Each derivation is met once.
    fn reasons(
        &mut self,
        drv: &StorePath,
        causes: &Causes,
        build: Option<BuildId>,
    ) -> Result<Reasons, StoreError> {
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
        let mut more = 0;
        let mut at = 0;
        while at < visits.len() {
            let (here, causes) = (visits[at].drv.clone(), visits[at].causes.clone());
            for cause in causes.all().filter(|cause| !cause.is_of_mirrors()) {
                match self.behind(cause, &causes, until)? {
                    Some((next, causes)) if met.insert(next.clone()) => visits.push(Visit {
                        drv: next,
                        causes,
                        by: Some((at, cause.clone())),
                    }),
                    Some(_) => {}
                    None if !roots.insert(key(&here, cause, causes.at.as_ref())) => {}
                    None if ways.len() >= self.at_most => more += 1,
                    None => {
                        let mut way = vec![Link {
                            drv: here.clone(),
                            cause: cause.clone(),
                            at: causes.at.clone(),
                            read: causes.read.clone(),
                        }];
                        let mut visit = &visits[at];
                        while let Some((by, cause)) = &visit.by {
                            visit = &visits[*by];
                            way.push(Link {
                                drv: visit.drv.clone(),
                                cause: cause.clone(),
                                at: visit.causes.at.clone(),
                                read: visit.causes.read.clone(),
                            });
                        }
                        way.reverse();
                        ways.push(way);
                    }
                }
            }
            at += 1;
        }
        let told = ways.into_iter().map(|way| self.reason(way, drv, build));
        Ok(Reasons {
            told: told.collect::<Result<_, _>>()?,
            more,
        })
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
            untried: 0,
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
            // Not a change that was met some day, but something that happened to what had not changed.
            Cause::Forced | Cause::GcEd | Cause::OutputMissing => None,
            _ => Some(root.drv.clone()),
        };
        if let Some(subject) = subject {
            reason.first_seen = self.first_seen(&root, &subject, build)?;
        }
        let run = match build {
            None => self.plan.clone(),
            Some(build) => self.run(build)?,
        };
        let followed = run.follow(&root, asked);
        (reason.others, reason.stopped, reason.untried) = followed;
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
        let memo = key(&root.drv, &root.cause, root.at.as_ref());
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
                let (at, read) = recorded
                    .map(|causes| (causes.at, causes.read))
                    .unwrap_or_default();
                return Ok(Some((from, Causes { at, read, ..causes })));
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

    fn run(&mut self, build: BuildId) -> Result<Rc<Run>, StoreError> {
        if let Some(known) = self.runs.get(&build.0) {
            return Ok(known.clone());
        }
        let steps = self.store.steps_of_build(build)?;
        let told = steps.into_iter().map(|step| Told {
            causes: causes_of(&step),
            needs: detail_of(&step).unwrap_or_default().needs,
            was_built: step.started_ms.is_some(),
            is_untried: is_untried(&step),
            drv: step.drv,
        });
        let told = Rc::new(Run::of(self.store, told.collect()));
        self.runs.insert(build.0, told.clone());
        Ok(told)
    }
}

impl Run {
    fn of(store: &Store, told: Vec<Told>) -> Self {
        let dir = store.store_dir();
        let mut run = Self {
            told: Vec::new(),
            by_drv: BTreeMap::new(),
            by_key: BTreeMap::new(),
            users: BTreeMap::new(),
            waiting: BTreeMap::new(),
        };
        for (at, one) in told.iter().enumerate() {
            run.by_drv.insert(one.drv.clone(), at);
            if !one.was_built {
                for need in &one.needs {
                    run.waiting.entry(need.clone()).or_default().push(at);
                }
                continue;
            }
            let Some(causes) = &one.causes else { continue };
            for cause in causes.all() {
                let key = key(&one.drv, cause, causes.at.as_ref());
                run.by_key.entry(key).or_default().push(at);
                if let Cause::InputChanged {
                    from: Some(from), ..
                } = cause
                    && let Ok(from) = StorePath::from_absolute(dir, from.as_str())
                {
                    run.users.entry(from).or_default().push(at);
                }
            }
        }
        run.told = told;
        run
    }

    /// Follows a change: how many were built because of it without the one that was asked for, and how many would have been if
    /// their inputs had come out otherwise, and if nothing had failed.
    fn follow(&self, root: &Link, asked: &StorePath) -> (usize, usize, usize) {
        let key = key(&root.drv, &root.cause, root.at.as_ref());
        let mut reached = vec![false; self.told.len()];
        let mut behind: Vec<&StorePath> = Vec::new();
        // That of another run may be where it began.
        match self.by_drv.get(&root.drv) {
            Some(at) => visit(*at, &self.told, &mut reached, &mut behind),
            None => behind.push(&root.drv),
        }
        for at in self.by_key.get(&key).into_iter().flatten() {
            visit(*at, &self.told, &mut reached, &mut behind);
        }
        let mut next = 0;
        while let Some(drv) = behind.get(next).copied() {
            next += 1;
            for at in self.users.get(drv).into_iter().flatten() {
                visit(*at, &self.told, &mut reached, &mut behind);
            }
        }
        let built = self.told.iter().zip(&reached);
        let built = built
            .filter(|(told, reached)| **reached && told.was_built && told.drv != *asked)
            .count();
        // What stops is behind something that was built, or behind something that stopped.
        let mut next = 0;
        while let Some(drv) = behind.get(next).copied() {
            next += 1;
            for at in self.waiting.get(drv.as_str()).into_iter().flatten() {
                visit(*at, &self.told, &mut reached, &mut behind);
            }
        }
        let count = |is_untried: bool| {
            let all = self.told.iter().zip(&reached);
            let fits = |told: &Told| !told.was_built && told.is_untried == is_untried;
            all.filter(|(told, reached)| **reached && fits(told))
                .count()
        };
        (built, count(false), count(true))
    }
}

fn visit<'a>(at: usize, told: &'a [Told], reached: &mut [bool], behind: &mut Vec<&'a StorePath>) {
    if let (Some(reached), Some(told)) = (reached.get_mut(at), told.get(at))
        && !std::mem::replace(reached, true)
    {
        behind.push(&told.drv);
    }
}

/// Whether a derivation was to be built and was not tried: one that it needs failed, or the run was stopped.
fn is_untried(step: &Step) -> bool {
    step.started_ms.is_none() && step.status == "skipped"
}

/// What kept a derivation from being tried in the run of this step: the names of the derivations that it needs and that failed there,
/// none when the run was stopped. Nothing for one that was tried, or that was there.
///
/// # Errors
/// When the database fails.
pub fn kept_from(store: &Store, step: &Step) -> Result<Option<Vec<String>>, StoreError> {
    if !is_untried(step) {
        return Ok(None);
    }
    let steps = store.steps_of_build(step.build)?;
    let by_base: BTreeMap<&str, &Step> = steps.iter().map(|one| (one.drv.as_str(), one)).collect();
    let mut met: BTreeSet<String> = [step.drv.as_str().to_owned()].into();
    let mut open = vec![step.drv.as_str().to_owned()];
    let mut failed = BTreeSet::new();
    while let Some(base) = open.pop() {
        let Some(one) = by_base.get(base.as_str()) else {
            continue;
        };
        if one.status == "failed" {
            failed.insert(one.name.clone());
        }
        let needs = detail_of(one).unwrap_or_default().needs;
        open.extend(needs.into_iter().filter(|need| met.insert(need.clone())));
    }
    Ok(Some(failed.into_iter().collect()))
}

/// Whether two changes gave the same variable the same value.
fn same_value(one: &Cause, other: &Cause) -> bool {
    matches!((one, other), (
        Cause::EnvChanged { name: a, new: x, .. },
        Cause::EnvChanged { name: b, new: y, .. },
    ) if a == b && x == y)
}

/// What makes a change the same one, wherever it is met.
fn key(drv: &StorePath, cause: &Cause, at: Option<&Text>) -> String {
    match (cause, at) {
        (Cause::InputChanged { old, new, .. }, _) => {
            let text =
                |path: &Option<Text>| path.as_ref().map_or_else(String::new, Text::to_string);
            format!("{} {}", text(old), text(new))
        }
        // One line of a recipe may stand in the environment of many derivations.
        (
            Cause::EnvChanged {
                old: Some(_),
                new: Some(_),
                ..
            },
            Some(at),
        ) => format!("{at} {}", serde_json::to_string(cause).unwrap_or_default()),
        (other, _) => format!(
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
