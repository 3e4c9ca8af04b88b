//! A graph as a picture.

use std::io::{self, Write};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::layout::{Layout, Piece, layout};
use super::{Graph, Node, about, key};
use crate::render::markup::escaped;

/// Columns of text in a node, at most.
const NAME_COLUMNS: usize = 36;
/// Width of a column of text: that of a monospaced letter of 12 pixels.
const COLUMN: f64 = 7.23;
const HEIGHT: f64 = 36.0;
const MARGIN: f64 = 16.0;

/// What nodes and edges look like, by day and by night; also within a page.
pub(crate) const STYLE: &str = "\
svg.graph{--line:#8a8f98;--text:#1c1f23;--soft:#565c66;--bg:#fff;--hot:#c2410c;\
--failed:#f9c9c5;--running:#c4dafa;--to-build:#fde9b3;--to-fetch:#fff5da;--built:#cdebcf;--cached:#e8f5e8;--not-needed:#f1f2f4;--group:#f7f7f9;\
background:var(--bg);font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}\
@media(prefers-color-scheme:dark){svg.graph{--line:#6b7280;--text:#e6e8eb;--soft:#a3a9b3;--bg:#15171a;--hot:#fb923c;\
--failed:#6f2c28;--running:#23456f;--to-build:#5d4a12;--to-fetch:#453b1f;--built:#1f4a26;--cached:#22352a;--not-needed:#2a2d31;--group:#212429}}\
svg.graph path{fill:none;stroke:var(--line)}\
svg.graph path.hot{stroke:var(--hot);stroke-width:2.5}\
svg.graph rect{stroke:var(--line)}\
svg.graph .hot rect{stroke:var(--hot);stroke-width:2.5}\
svg.graph .group rect{fill:var(--group);stroke-dasharray:5 3}\
svg.graph .failed rect{fill:var(--failed)}svg.graph .running rect{fill:var(--running)}\
svg.graph .to-build rect{fill:var(--to-build)}svg.graph .to-fetch rect{fill:var(--to-fetch)}\
svg.graph .built rect{fill:var(--built)}svg.graph .cached rect{fill:var(--cached)}svg.graph .not-needed rect{fill:var(--not-needed)}\
svg.graph text{fill:var(--text);text-anchor:middle}svg.graph text.about{fill:var(--soft);font-size:10px}";

/// Draws the graph as a document of its own.
pub(crate) fn svg(graph: &Graph, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")?;
    draw(graph, true, out)
}

/// Draws the graph; `alone` brings its style along.
pub(crate) fn draw(graph: &Graph, alone: bool, out: &mut dyn Write) -> io::Result<()> {
    let size = |node: &Node| {
        // The second line is in smaller letters.
        let about = columns(&about(node)) * COLUMN * 10.0 / 12.0;
        let width = (columns(&elided(&node.name)) * COLUMN).max(about);
        (width.ceil() + 18.0, HEIGHT)
    };
    let sizes: Vec<(f64, f64)> = graph.nodes.iter().map(size).collect();
    let layout = layout(graph, &sizes);
    let (width, height) = (layout.width + 2.0 * MARGIN, layout.height + 2.0 * MARGIN);
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"graph\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">"
    )?;
    writeln!(out, "<title>{}</title>", escaped(&graph.title))?;
    if alone {
        writeln!(out, "<style>{STYLE}</style>")?;
    }
    writeln!(out, "<g transform=\"translate({MARGIN} {MARGIN})\">")?;
    edges(graph, &layout, out)?;
    for (id, node) in graph.nodes.iter().enumerate() {
        let (x, y) = layout.places[id];
        let (width, height) = sizes[id];
        let hot = if node.critical { " hot" } else { "" };
        let about = about(node);
        writeln!(
            out,
            "<g id=\"n{id}\" class=\"{}{hot}\" transform=\"translate({x:.1} {y:.1})\"><title>{}</title><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"5\"/><text y=\"-3\">{}</text><text class=\"about\" y=\"11\">{}</text></g>",
            class(node),
            escaped(&format!("{}\n{}\n{about}", node.name, node.key)),
            -width / 2.0,
            -height / 2.0,
            escaped(&elided(&node.name)),
            escaped(&about),
        )?;
    }
    out.write_all(b"</g>\n</svg>\n")
}

/// The class of a node in CSS.
pub(crate) fn class(node: &Node) -> &'static str {
    if node.members.is_empty() {
        key(node.state)
    } else {
        "group"
    }
}

fn edges(graph: &Graph, layout: &Layout, out: &mut dyn Write) -> io::Result<()> {
    let is_hot = |piece: &Piece| {
        let to = |id: &usize| graph.nodes[*id].critical;
        graph.nodes[piece.from].critical && piece.to.iter().any(to)
    };
    // What is marked is drawn last, above the rest.
    for hot in [false, true] {
        for piece in layout.pieces.iter().filter(|piece| is_hot(piece) == hot) {
            let ((x1, y1), (x2, y2)) = (piece.start, piece.end);
            let middle = (x1 + x2) / 2.0;
            let class = if hot { " class=\"hot\"" } else { "" };
            write!(
                out,
                "<path{class} d=\"M{x1:.1} {y1:.1}C{middle:.1} {y1:.1} {middle:.1} {y2:.1} {x2:.1} {y2:.1}"
            )?;
            if let Some(x) = piece.level_to {
                write!(out, "H{x:.1}")?;
            }
            writeln!(out, "\"/>")?;
        }
    }
    Ok(())
}

#[allow(
    clippy::cast_precision_loss,
    reason = "lengths of names are far below what a float holds exactly"
)]
fn columns(text: &str) -> f64 {
    text.width() as f64
}

/// A name without its middle if it is long.
fn elided(name: &str) -> String {
    if name.width() <= NAME_COLUMNS {
        return name.to_owned();
    }
    let fits = |most: usize, chars: &mut dyn Iterator<Item = char>| {
        let mut used = 0;
        let mut out = Vec::new();
        for c in chars {
            used += c.width().unwrap_or(0);
            if used > most {
                break;
            }
            out.push(c);
        }
        out
    };
    let head = fits(NAME_COLUMNS / 2, &mut name.chars());
    let mut tail = fits(NAME_COLUMNS - NAME_COLUMNS / 2 - 1, &mut name.chars().rev());
    tail.reverse();
    head.into_iter().chain(['…']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{graph, large, text_of};
    use super::super::{Graph, fold};
    use super::*;

    #[test]
    fn long_names_lose_their_middle() {
        let name = format!("begin-{}-end", "x".repeat(60));
        let short = elided(&name);
        assert_eq!(short.width(), NAME_COLUMNS);
        assert!(short.starts_with("begin-") && short.ends_with("-end") && short.contains('…'));
        assert!(elided(&"漢".repeat(40)).width() <= NAME_COLUMNS);
        assert_eq!(elided("short"), "short");
    }

    #[test]
    fn names_cannot_break_out() {
        let mut one = graph(&[&[]]);
        one.nodes[0].name = "</text><script>alert('x')&\u{1b}\0".to_owned();
        one.title = "<!--".to_owned();
        let text = text_of(|out| svg(&one, out));
        assert!(!text.contains("<script") && !text.contains("<!--") && !text.contains('\0'));
        assert!(
            text.contains("&lt;/text&gt;&lt;script&gt;alert(&#39;x&#39;)&amp;\u{fffd}\u{fffd}")
        );
    }

    #[test]
    fn the_same_graph_is_the_same_picture() {
        let draw = |graph: &Graph| text_of(|out| svg(&fold(graph), out));
        let large = large(3000);
        assert_eq!(draw(&large), draw(&large.clone()));
    }
}
