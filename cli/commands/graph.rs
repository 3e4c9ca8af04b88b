//! `sos graph`: what a target is made of, or refers to, as a picture.

use std::collections::{BTreeMap, VecDeque};

use sos_engine::{EventSink, Wanted, load_derivation, present_output};
use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;

use crate::args::{LockFlags, TargetArgs};
use crate::commands::build;
use crate::evaluate::{self, Evaluated, Item, Mode};
use crate::failure::Failure;
use crate::graph::{self, Graph, Node, State};
use crate::render::output::{self, Items};
use crate::run::{self, RunOptions};
use crate::session::Session;
use crate::target;

/// Draw what a target is made of, with what is there, what failed, and what takes longest
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sos graph .#image | dot -Tpdf > image.pdf\n  sos graph .#image --format html > image.html   one file, with search\n  sos graph .#image --runtime --depth 2          what the result refers to\n\nOf more than 300 nodes, what was asked for, what failed, what runs, the way that takes longest and their neighbours are drawn; the\nrest is put into groups and counted. JSON always has all of it."
)]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lock: LockFlags,
    /// How to write it
    #[arg(long, value_enum, default_value = "dot")]
    format: Format,
    /// Go only so many steps from the target
    #[arg(long, value_name = "STEPS")]
    depth: Option<usize>,
    /// Draw what the results refer to, in place of what they are made of
    #[arg(long)]
    runtime: bool,
    /// Draw every node, however many there are
    #[arg(long)]
    all: bool,
}

/// Forms of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For Graphviz
    Dot,
    /// A picture
    Svg,
    /// A page of one file
    Html,
    /// For programs
    Json,
}

/// Runs the verb.
///
/// # Errors
/// Problems of the recipe; with `--runtime`, `graph-not-built` when there is no result yet.
pub(crate) fn run(session: &Session, args: &GraphArgs) -> Result<(), Failure> {
    let targets = evaluate::targets(session, &args.target)?;
    let mode = Mode::planning(args.lock).with_whole_graph();
    let evaluated = build::resolve(session, &args.target, &targets, &mode)?;
    let names: Vec<&str> = targets.iter().map(|t| t.text.as_str()).collect();
    let names = names.join(" ");
    let mut whole = if args.runtime {
        runtime(session, &evaluated, args.depth)?
    } else {
        let options = RunOptions {
            offline: args.lock.offline,
            project: target::project(&targets),
            ..RunOptions::default()
        };
        made_of(session, &evaluated, args.depth, &options)?
    };
    // The derivations themselves are not needed any more, and may be much.
    drop(evaluated);
    whole.title = if args.runtime {
        format!("{names}: what it refers to")
    } else {
        format!("{names}: what it is made of")
    };
    whole.mark_critical();
    let format = if session.global.json {
        Format::Json
    } else {
        args.format
    };
    if format == Format::Json {
        return json(&whole);
    }
    if !session.global.quiet
        && matches!(format, Format::Dot | Format::Svg)
        && !args.all
        && whole.nodes.len() > graph::MAX_DRAWN
    {
        output::message(&format!(
            "{} nodes: those that matter are drawn, the others are in groups; `--all` draws each",
            whole.nodes.len()
        ));
    }
    let folded = (!args.all).then(|| graph::fold(&whole));
    let drawn = folded.as_ref().unwrap_or(&whole);
    output::pieces(|out| match format {
        Format::Svg => graph::svg::svg(drawn, out),
        Format::Html => graph::html::html(drawn, &whole, out),
        Format::Dot | Format::Json => graph::dot::dot(drawn, out),
    })
}

/// The derivations.
fn made_of(
    session: &Session,
    evaluated: &Evaluated<Vec<Item>>,
    depth: Option<usize>,
    options: &RunOptions,
) -> Result<Graph, Failure> {
    let store = session.store()?;
    let engine = run::engine(session, options, EventSink::null())?;
    let mut wanted: Vec<Wanted> = build::wanted(&evaluated.values);
    for item in evaluated.values.iter().flatten() {
        let Item::Object(path) = item else { continue };
        // What built an object that was named itself, if that is known.
        let trace = store.traces_of(path)?.into_iter().next_back();
        let trace = trace.ok_or_else(|| {
            let path = path.absolute(store.store_dir());
            Failure::new(
                Diagnostic::error(
                    "graph-not-built",
                    Class::Other,
                    format!("`{path}` was not built here: what it is made of is not known"),
                )
                .help("`--runtime` draws what it refers to"),
            )
        })?;
        wanted.push(Wanted {
            drv: trace.trace.drv,
            outputs: vec![trace.trace.output],
        });
    }
    let dag = engine.dag(&evaluated.graph, &wanted, depth)?;
    let place: BTreeMap<&StorePath, usize> =
        dag.iter().enumerate().map(|(id, n)| (&n.drv, id)).collect();
    let mut roots: Vec<usize> = wanted.iter().map(|want| place[&want.drv]).collect();
    roots.sort_unstable();
    roots.dedup();
    drop(place);
    let dir = session.store_dir()?;
    let mut graph = Graph {
        nodes: Vec::with_capacity(dag.len()),
        needs: Vec::with_capacity(dag.len()),
        roots,
        ..Graph::default()
    };
    for one in dag {
        graph.nodes.push(Node {
            key: one.drv.absolute(&dir),
            name: Derivation::name_from_path(&one.drv).to_owned(),
            state: one.state,
            ms: one.took_ms.or(one.expected_ms),
            bytes: one.bytes,
            critical: false,
            hidden: one.hidden,
            members: Vec::new(),
        });
        graph.needs.push(one.needs);
    }
    Ok(graph)
}

/// The objects.
fn runtime(
    session: &Session,
    evaluated: &Evaluated<Vec<Item>>,
    depth: Option<usize>,
) -> Result<Graph, Failure> {
    let store = session.store()?;
    let dir = session.store_dir()?;
    let mut starts = Vec::new();
    for item in evaluated.values.iter().flatten() {
        match item {
            Item::Object(path) => starts.push(path.clone()),
            Item::Derivation { drv, outputs } => {
                let known = load_derivation(store, &evaluated.graph, drv)?;
                let all: Vec<String> = known.outputs.keys().cloned().collect();
                for output in if outputs.is_empty() { &all } else { outputs } {
                    let path = present_output(store, drv, &known, output)?.ok_or_else(|| {
                        Failure::new(
                            Diagnostic::error(
                                "graph-not-built",
                                Class::Other,
                                format!(
                                    "`{}` is not built: what it will refer to is not known",
                                    Derivation::name_from_path(drv)
                                ),
                            )
                            .help("`sos build` makes it; without `--runtime`, what it is made of is drawn"),
                        )
                    })?;
                    starts.push(path);
                }
            }
        }
    }
    let mut graph = Graph::default();
    let mut index: BTreeMap<StorePath, usize> = BTreeMap::new();
    let mut todo: VecDeque<(StorePath, usize)> = VecDeque::new();
    let mut place = |path: &StorePath, depth: usize, graph: &mut Graph, todo: &mut VecDeque<_>| {
        *index.entry(path.clone()).or_insert_with(|| {
            graph.nodes.push(Node {
                key: path.absolute(&dir),
                name: path.name().to_owned(),
                state: State::Cached,
                ms: None,
                bytes: 0,
                critical: false,
                hidden: 0,
                members: Vec::new(),
            });
            graph.needs.push(Vec::new());
            todo.push_back((path.clone(), depth));
            graph.nodes.len() - 1
        })
    };
    for path in &starts {
        let id = place(path, 0, &mut graph, &mut todo);
        if !graph.roots.contains(&id) {
            graph.roots.push(id);
        }
    }
    while let Some((path, steps)) = todo.pop_front() {
        let id = place(&path, steps, &mut graph, &mut todo);
        let Some(info) = store.query(&path)? else {
            continue;
        };
        graph.nodes[id].bytes = info.nar_size;
        if store.traces_of(&path)?.into_iter().next().is_some() {
            graph.nodes[id].state = State::Built;
        }
        for reference in info.references.iter().filter(|one| **one != path) {
            if depth.is_some_and(|most| steps >= most) {
                graph.nodes[id].hidden += 1;
                continue;
            }
            let need = place(reference, steps + 1, &mut graph, &mut todo);
            graph.needs[id].push(need);
        }
    }
    Ok(graph)
}

/// A graph in JSON.
#[derive(serde::Serialize)]
struct Whole<'a, N, R> {
    nodes: N,
    roots: R,
    title: &'a str,
}

/// A node in JSON; what it needs is told by its paths.
#[derive(serde::Serialize)]
struct Part<'a, K> {
    bytes: u64,
    critical: bool,
    hidden: usize,
    ms: Option<u64>,
    name: &'a str,
    needs: K,
    path: &'a str,
    state: &'a str,
}

fn json(graph: &Graph) -> Result<(), Failure> {
    let key = |id: &usize| graph.nodes[*id].key.as_str();
    let part = |id: usize| {
        let node = &graph.nodes[id];
        Part {
            bytes: node.bytes,
            critical: node.critical,
            hidden: node.hidden,
            ms: node.ms,
            name: &node.name,
            needs: Items(move || graph.needs[id].iter().map(key)),
            path: &node.key,
            state: graph::key(node.state),
        }
    };
    output::json(&Whole {
        nodes: Items(|| (0..graph.nodes.len()).map(part)),
        roots: Items(|| graph.roots.iter().map(key)),
        title: &graph.title,
    })
}
