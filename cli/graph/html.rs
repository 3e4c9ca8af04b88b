//! A graph as a page: one file, complete without a script.

use std::io::{self, Write};

use super::svg::{STYLE, class, draw};
use super::{Graph, about, word};
use crate::render::markup::escaped;

/// Names that are listed of a group.
const LISTED: usize = 500;

const PAGE_STYLE: &str = "\
:root{color-scheme:light dark}body{margin:1.5rem;font:15px/1.45 system-ui,sans-serif}h1{font-size:1.25rem;margin:0 0 .3rem}\
.frame{overflow:auto;max-height:75vh;border:1px solid #8886;margin:1rem 0}.frame svg{display:block}\
table{border-collapse:collapse;font-size:14px}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}\
td:last-child{font-family:ui-monospace,monospace;font-size:12px;word-break:break-all}.other{opacity:.15}tr.other{display:none}\
.counts span{margin-right:1rem}details{margin:.3rem 0}li{font-family:ui-monospace,monospace;font-size:12px}";

/// Writes the page: what is drawn, and of the whole graph what the groups stand for.
pub(crate) fn html(drawn: &Graph, whole: &Graph, out: &mut dyn Write) -> io::Result<()> {
    let title = escaped(&whole.title);
    out.write_all(b"<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n")?;
    writeln!(
        out,
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
    )?;
    writeln!(out, "<title>{title}</title>")?;
    writeln!(out, "<style>{PAGE_STYLE}{STYLE}</style>\n</head>\n<body>")?;
    write!(out, "<h1>{title}</h1>\n<p class=\"counts\">")?;
    for (state, count) in whole.counts() {
        write!(out, "<span>{count} {}</span>", word(state))?;
    }
    writeln!(out, "</p>")?;
    if drawn.nodes.len() < whole.nodes.len() {
        writeln!(
            out,
            "<p>{} nodes are too many to draw: shown are what was asked for, what failed, what runs, the way that takes longest (marked), and what is next to these; the rest is counted.</p>",
            whole.nodes.len()
        )?;
    }
    writeln!(
        out,
        "<p hidden><input type=\"search\" placeholder=\"part of a name\" aria-label=\"search\"> <button value=\"1.25\">larger</button> <button value=\"0.8\">smaller</button></p>"
    )?;
    writeln!(out, "<div class=\"frame\">")?;
    draw(drawn, false, out)?;
    writeln!(
        out,
        "</div>\n<table>\n<thead><tr><th>name</th><th>state</th><th>path</th></tr></thead>\n<tbody>"
    )?;
    for (id, node) in drawn.nodes.iter().enumerate() {
        if !node.members.is_empty() {
            continue;
        }
        writeln!(
            out,
            "<tr class=\"{}\"><td><a href=\"#n{id}\">{}</a></td><td>{}</td><td>{}</td></tr>",
            class(node),
            escaped(&node.name),
            escaped(&about(node)),
            escaped(&node.key)
        )?;
    }
    writeln!(out, "</tbody>\n</table>")?;
    for (id, node) in drawn.nodes.iter().enumerate() {
        if node.members.is_empty() {
            continue;
        }
        write!(
            out,
            "<details><summary><a href=\"#n{id}\">{}</a>: {}</summary>\n<ul>\n",
            escaped(&node.key),
            escaped(&node.name)
        )?;
        for member in node.members.iter().take(LISTED) {
            writeln!(out, "<li>{}</li>", escaped(&whole.nodes[*member].name))?;
        }
        if node.members.len() > LISTED {
            writeln!(out, "<li>and {} more</li>", node.members.len() - LISTED)?;
        }
        writeln!(out, "</ul>\n</details>")?;
    }
    writeln!(out, "<script>")?;
    out.write_all(include_bytes!("page.js"))?;
    writeln!(out, "</script>\n</body>\n</html>")
}

#[cfg(test)]
mod tests {
    use super::super::fold;
    use super::super::tests::{large, text_of};
    use super::*;

    #[test]
    fn names_cannot_break_out() {
        let mut graph = large(400);
        for node in &mut graph.nodes {
            node.name = "</li></td><script>alert(1)</script>\"'".to_owned();
            node.key.clone_from(&node.name);
        }
        graph.title = "</title><script>".to_owned();
        let page = text_of(|out| html(&fold(&graph), &graph, out));
        assert_eq!(page.matches("<script").count(), 1);
        assert!(page.contains("<details>"));
    }
}
