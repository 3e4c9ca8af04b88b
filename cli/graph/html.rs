//! A graph as a page: one file, complete without a script.

use std::fmt::Write as _;

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
pub(crate) fn html(drawn: &Graph, whole: &Graph) -> String {
    let mut text =
        String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    let mut put = |part: &str| text.push_str(part);
    put("<meta name=\"viewport\" content=\"width=device-width\">\n");
    put(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n",
    );
    put(&format!("<title>{}</title>\n", escaped(&whole.title)));
    put(&format!(
        "<style>{PAGE_STYLE}{STYLE}</style>\n</head>\n<body>\n"
    ));
    put(&format!(
        "<h1>{}</h1>\n<p class=\"counts\">",
        escaped(&whole.title)
    ));
    for (state, count) in whole.counts() {
        put(&format!("<span>{count} {}</span>", word(state)));
    }
    put("</p>\n");
    if drawn.nodes.len() < whole.nodes.len() {
        put(&format!(
            "<p>{} nodes are too many to draw: shown are what was asked for, what failed, what runs, the way that takes longest (marked), and what is next to these; the rest is counted.</p>\n",
            whole.nodes.len()
        ));
    }
    put(
        "<p hidden><input type=\"search\" placeholder=\"part of a name\" aria-label=\"search\"> <button value=\"1.25\">larger</button> <button value=\"0.8\">smaller</button></p>\n",
    );
    put("<div class=\"frame\">\n");
    draw(drawn, false, &mut text);
    text.push_str("</div>\n<table>\n<thead><tr><th>name</th><th>state</th><th>path</th></tr></thead>\n<tbody>\n");
    for (id, node) in drawn.nodes.iter().enumerate() {
        if !node.members.is_empty() {
            continue;
        }
        // Writing to a string cannot fail.
        let _infallible = writeln!(
            text,
            "<tr class=\"{}\"><td><a href=\"#n{id}\">{}</a></td><td>{}</td><td>{}</td></tr>",
            class(node),
            escaped(&node.name),
            escaped(&about(node)),
            escaped(&node.key)
        );
    }
    text.push_str("</tbody>\n</table>\n");
    for (id, node) in drawn.nodes.iter().enumerate() {
        if node.members.is_empty() {
            continue;
        }
        let _infallible = write!(
            text,
            "<details><summary><a href=\"#n{id}\">{}</a>: {}</summary>\n<ul>\n",
            escaped(&node.key),
            escaped(&node.name)
        );
        for member in node.members.iter().take(LISTED) {
            let _infallible = writeln!(text, "<li>{}</li>", escaped(&whole.nodes[*member].name));
        }
        if node.members.len() > LISTED {
            let _infallible = writeln!(text, "<li>and {} more</li>", node.members.len() - LISTED);
        }
        text.push_str("</ul>\n</details>\n");
    }
    text.push_str("<script>\n");
    text.push_str(include_str!("page.js"));
    text.push_str("</script>\n</body>\n</html>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::super::fold;
    use super::super::tests::large;
    use super::*;

    #[test]
    fn names_cannot_break_out() {
        let mut graph = large(400);
        for node in &mut graph.nodes {
            node.name = "</li></td><script>alert(1)</script>\"'".to_owned();
            node.key.clone_from(&node.name);
        }
        graph.title = "</title><script>".to_owned();
        let page = html(&fold(&graph), &graph);
        assert_eq!(page.matches("<script").count(), 1);
        assert!(page.contains("<details>"));
    }
}
