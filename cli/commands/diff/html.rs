//! A difference as one page, without a script and without anything from elsewhere.

use crate::render::difference;
use crate::render::markup::escaped;

use super::{Changed, Comparison, sizes};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.2rem .6rem;border-bottom:1px solid #8884;overflow-wrap:anywhere}pre{overflow-x:auto;padding:.6rem;background:#8881}.add{color:#1a7f37}.del{color:#b42318}@media (prefers-color-scheme:dark){body{background:#16181d;color:#e6e6e6}.add{color:#7ee787}.del{color:#ff9b8f}}";

/// The whole page.
pub(super) fn page(comparison: &Comparison) -> String {
    let (a, b) = (&comparison.a, &comparison.b);
    let title = escaped(&format!("{} and {}", a.name, b.name));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<table>\n"
    );
    for (what, value) in [("a", &a.name), ("b", &b.name)] {
        out.push_str(&row(&[what.to_owned(), value.clone()]));
    }
    for (what, value) in sizes(comparison) {
        out.push_str(&row(&[what.to_owned(), value]));
    }
    out.push_str("</table>\n");
    for (title, list) in [
        ("Packages", &comparison.packages),
        ("Closure", &comparison.closure),
        ("Inputs", &comparison.inputs),
    ] {
        out.push_str(&section(title, list));
    }
    out.push_str(&format!("<h2>Files: {}</h2>\n", comparison.files.len()));
    if !comparison.files.is_empty() {
        out.push_str("<table>\n");
        for (at, found) in comparison.files.iter().enumerate() {
            let changes: Vec<String> = found.changes.iter().map(difference::change).collect();
            out.push_str(&row(&[difference::path(&found.path), changes.join("; ")]));
            if let Some(contents) = comparison.contents.get(&at) {
                out.push_str(&format!(
                    "<tr><td colspan=\"2\"><pre>{}</pre></td></tr>\n",
                    colored(contents)
                ));
            }
        }
        out.push_str("</table>\n");
    }
    out + "</body></html>\n"
}

fn row(cells: &[String]) -> String {
    let cells: String = cells
        .iter()
        .map(|cell| format!("<td>{}</td>", escaped(cell)))
        .collect();
    format!("<tr>{cells}</tr>\n")
}

fn section(title: &str, list: &[Changed]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let mut out = format!(
        "<h2>{title}: {}</h2>\n<table>\n<tr><th>name</th><th>a</th><th>b</th></tr>\n",
        list.len()
    );
    for changed in list {
        let value = |value: &Option<String>| value.clone().unwrap_or_default();
        out.push_str(&row(&[
            changed.name.clone(),
            value(&changed.old),
            value(&changed.new),
        ]));
    }
    out + "</table>\n"
}

/// Lines that are gone and lines that are new get their colours.
fn colored(text: &str) -> String {
    let line = |line: &str| {
        let class = match line.as_bytes().first() {
            Some(b'+') => "add",
            Some(b'-') => "del",
            _ => return escaped(line),
        };
        format!("<span class=\"{class}\">{}</span>", escaped(line))
    };
    let lines: Vec<String> = text.lines().map(line).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_build_is_markup() {
        assert_eq!(
            escaped("<a b=\"c\">&'\u{1b}"),
            "&lt;a b=&quot;c&quot;&gt;&amp;&#39;\u{fffd}"
        );
        assert_eq!(
            colored("+<b>\n x"),
            "<span class=\"add\">+&lt;b&gt;</span>\n x"
        );
    }
}
