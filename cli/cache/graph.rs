//! The build graph of a cached evaluation: texts of derivations, and where a person wrote them.

use std::collections::BTreeMap;
use std::sync::Arc;

use sos_engine::Graph;
use sos_formats::diagnostic::{Label, SourceFile};
use sos_formats::store_path::StorePath;

use super::bytes::{Reader, Writer};

/// Derivations of a graph that is kept; what has more is evaluated again when something must be built.
const MAX_DERIVATIONS: usize = 30_000;

/// Bytes of a graph that are unpacked.
const MAX_BYTES: usize = 1 << 30;

/// Level at which a graph is compressed: it is made after every evaluation, and read only for builds.
const LEVEL: i32 = 1;

/// Writes derivations.
pub(super) fn write_drvs(w: &mut Writer, texts: &BTreeMap<StorePath, Arc<[u8]>>) {
    w.list(texts.iter(), |w, (path, text)| {
        w.object(path);
        w.bytes(text);
    });
}

/// Reads derivations into a graph.
pub(super) fn read_drvs(r: &mut Reader<'_>) -> Option<Graph> {
    Some(Graph {
        texts: r.list(|r| Some((r.object()?, r.bytes()?.into())))?,
        ..Graph::default()
    })
}

/// Packs a whole graph; nothing when it is too large to be worth it.
pub(super) fn pack(graph: &Graph) -> Option<Vec<u8>> {
    // What is here as more than text did not come from an evaluation.
    if graph.texts.len() > MAX_DERIVATIONS || !graph.drvs.is_empty() {
        return None;
    }
    let mut w = Writer::default();
    write_drvs(&mut w, &graph.texts);
    let mut sources: Vec<&Arc<SourceFile>> = Vec::new();
    let mut place = Writer::default();
    place.list(graph.places.iter(), |w, (path, label)| {
        let known = sources.iter().rposition(|s| Arc::ptr_eq(s, &label.file));
        let number = known.unwrap_or_else(|| {
            sources.push(&label.file);
            sources.len() - 1
        });
        w.object(path);
        w.number(number);
        w.number(label.span.start);
        w.number(label.span.end);
        w.text(&label.text);
    });
    w.list(sources.iter(), |w, source| {
        w.text(&source.name);
        w.text(&source.text);
    });
    w.0.extend_from_slice(&place.0);
    zstd::bulk::compress(&w.0, LEVEL).ok().map(|packed| {
        let mut out = Writer::default();
        out.number(w.0.len());
        out.0.extend_from_slice(&packed);
        out.0
    })
}

/// Unpacks a graph.
pub(super) fn unpack(packed: &[u8]) -> Option<Graph> {
    let mut r = Reader(packed);
    let length = r.number().filter(|l| *l <= MAX_BYTES)?;
    let bytes = zstd::bulk::decompress(r.0, length).ok()?;
    let mut r = Reader(&bytes);
    let mut graph = read_drvs(&mut r)?;
    let sources: Vec<Arc<SourceFile>> = r.list(|r| Some(SourceFile::new(r.text()?, r.text()?)))?;
    let places: Vec<(StorePath, Label)> = r.list(|r| {
        let path = r.object()?;
        let file = sources.get(r.number()?)?;
        let span = r.number()?..r.number()?;
        Some((path, Label::new(file, span, r.text()?)))
    })?;
    graph.places.extend(places);
    Some(graph)
}
