//! A graph in the language of Graphviz.

use std::io::{self, Write};

use super::{Graph, about};

/// Writes the graph; an arrow leads from what is needed to what needs it.
pub(crate) fn dot(graph: &Graph, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "digraph {} {{\n  rankdir = LR;\n  node [shape = box, style = filled, fillcolor = white];",
        quoted(&graph.title)
    )?;
    for (id, node) in graph.nodes.iter().enumerate() {
        let (color, style) = if node.members.is_empty() {
            (color(node.state), "filled")
        } else {
            ("#eeeeee", "filled,dashed")
        };
        writeln!(
            out,
            "  n{id} [label = {}, tooltip = {}, fillcolor = \"{color}\", style = \"{style}\"{}];",
            quoted(&format!("{}\n{}", node.name, about(node))),
            quoted(&node.key),
            if node.critical { ", penwidth = 3" } else { "" },
        )?;
    }
    for (id, needs) in graph.needs.iter().enumerate() {
        for need in needs {
            let both = graph.nodes[id].critical && graph.nodes[*need].critical;
            let heavy = if both { " [penwidth = 3]" } else { "" };
            writeln!(out, "  n{need} -> n{id}{heavy};")?;
        }
    }
    out.write_all(b"}\n")
}

fn color(state: super::State) -> &'static str {
    use super::State;
    match state {
        State::Failed => "#f4b6b2",
        State::Running => "#b9d3f5",
        State::ToBuild => "#fbe3a4",
        State::ToFetch => "#fdf0cf",
        State::Built => "#c3e6c5",
        State::Cached => "#e2f2e2",
        State::Unneeded => "#f0f0f0",
    }
}

/// A text in the quotes of Graphviz, with backslashes as themselves.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            // Graphviz ends a file at a zero, and shows no other control character.
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::{graph, text_of};
    use super::*;

    #[test]
    fn names_cannot_break_out() {
        let mut one = graph(&[&[]]);
        one.nodes[0].name = "a\"]; b\\ [\0\n".to_owned();
        let text = text_of(|out| dot(&one, out));
        assert!(
            text.contains("label = \"a\\\"]; b\\\\ [\u{fffd}\\n\\nbuilt"),
            "{text}"
        );
    }
}
