//! `/`: what is here, and how to use it. Plain HTML that needs no script; every text in it is escaped.

use sos_store::{ObjectKind, PathInfo};

use crate::answer::Answer;
use crate::distfiles;
use crate::mirror::{Mirror, is_own};
use crate::request::Asked;

/// The most rows of a table.
const MAX_ROWS: usize = 1000;

/// Nothing but the style sheet is loaded, whatever the names of targets try.
const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; overflow-wrap: anywhere; vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: #8881; padding: .6rem; overflow-x: auto; }
p.none { opacity: .7; }
";

/// `/-/style.css`.
pub(crate) fn style() -> Answer {
    Answer::bytes(STYLE, "text/css; charset=utf-8")
}

/// `/`.
pub(crate) fn page(mirror: &Mirror, asked: &Asked) -> Answer {
    match html(mirror, asked) {
        Ok(text) => Answer::bytes(text, "text/html; charset=utf-8")
            .header("content-security-policy", POLICY)
            .header("referrer-policy", "no-referrer"),
        Err(error) => Answer::broken(&error.to_string()),
    }
}

/// Text between tags and in quoted attributes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Line ends stay; other control characters have no place in a page.
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A name as a part of an address.
fn encoded(name: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(byte);
    name.bytes()
        .map(|byte| match plain(&byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    // In tenths, so that nothing is rounded by a float.
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths = tenths.div_ceil(1024);
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        unit => format!("{}.{} {}", tenths / 10, tenths % 10, units[unit]),
    }
}

/// A table being written.
struct Table {
    text: String,
    rows: usize,
    total: usize,
}

impl Table {
    /// With the heads of its columns; those that begin with `#` hold numbers.
    fn new(heads: &[&str], total: usize) -> Self {
        let cells: String = heads
            .iter()
            .map(|head| match head.strip_prefix('#') {
                Some(head) => format!("<th class=\"n\">{head}</th>"),
                None => format!("<th>{head}</th>"),
            })
            .collect();
        Self {
            text: format!("<table><tr>{cells}</tr>\n"),
            rows: 0,
            total,
        }
    }

    /// A row: first a link with its text, then more cells.
    fn row(&mut self, address: Option<&str>, name: &str, cells: &[(&str, &str)]) {
        if self.rows == MAX_ROWS {
            return;
        }
        self.rows += 1;
        let name = escaped(name);
        let first = match address {
            Some(address) => format!("<a href=\"{}\">{name}</a>", escaped(&encoded(address))),
            None => name,
        };
        self.text
            .push_str(&format!("<tr><td><code>{first}</code></td>"));
        for (class, cell) in cells {
            let cell = escaped(cell);
            self.text.push_str(&match *class {
                "" => format!("<td>{cell}</td>"),
                "code" => format!("<td><code>{cell}</code></td>"),
                class => format!("<td class=\"{class}\">{cell}</td>"),
            });
        }
        self.text.push_str("</tr>\n");
    }

    fn end(mut self) -> String {
        self.text.push_str("</table>\n");
        if self.total > self.rows {
            let left = self.total - self.rows;
            self.text
                .push_str(&format!("<p class=\"none\">and {left} more</p>\n"));
        }
        self.text
    }
}

fn pre(lines: &[String]) -> String {
    format!("<pre>{}</pre>\n", escaped(&lines.join("\n")))
}

fn html(mirror: &Mirror, asked: &Asked) -> sos_store::Result<String> {
    let host = asked.host.as_deref().filter(|host| is_host(host));
    let host = host.unwrap_or(&mirror.options.address).to_owned();
    let mut out = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>sos mirror</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><link rel=\"stylesheet\" href=\"/-/style.css\"></head><body>\n\
         <h1>sos mirror</h1>\n",
    );
    out.push_str(&images(mirror, &host));
    out.push_str(&commits(mirror, &host));
    out.push_str(&distfiles(mirror, &host)?);
    out.push_str(&trees(mirror, &host)?);
    out.push_str("</body></html>\n");
    Ok(out)
}

/// A name or address with a port: what is shown is to be pasted into a shell.
fn is_host(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    !text.is_empty() && text.len() <= 255 && text.bytes().all(plain)
}

fn none(what: &str) -> String {
    format!("<p class=\"none\">{what}</p>\n")
}

fn images(mirror: &Mirror, host: &str) -> String {
    let mut out = String::from("<h2>Images</h2>\n");
    let images = &mirror.offers.images;
    let mut table = Table::new(&["image", "digest", "#size"], images.all().count());
    let mut first = None;
    for (name, tag, digest) in images.all() {
        let shown = format!("{name}:{tag}");
        let address = format!("/v2/{name}/manifests/{tag}");
        let bytes = size(images.size(name, digest));
        table.row(Some(&address), &shown, &[("code", digest), ("n", &bytes)]);
        first.get_or_insert(shown);
    }
    match first {
        None => out.push_str(&none("none: no target that is served is an image")),
        Some(image) => {
            out.push_str(&table.end());
            out.push_str(&pre(&[
                format!("podman pull --tls-verify=false {host}/{image}"),
                format!("skopeo copy --src-tls-verify=false docker://{host}/{image} oci:image"),
            ]));
        }
    }
    out
}

fn commits(mirror: &Mirror, host: &str) -> String {
    let mut out = String::from("<h2>OSTree commits</h2>\n");
    let refs: Vec<_> = mirror.offers.commits.refs().collect();
    let mut table = Table::new(&["ref", "commit", "version"], refs.len());
    for (name, about) in &refs {
        let commit = about.commit.to_hex();
        let version = about.version.as_deref().unwrap_or_default();
        let address = format!("/ostree/refs/heads/{name}");
        table.row(Some(&address), name, &[("code", &commit), ("", version)]);
    }
    match refs.first() {
        None => out.push_str(&none("none: no target that is served is a commit")),
        Some((name, _)) => {
            out.push_str(&table.end());
            out.push_str(&pre(&[
                format!("ostree remote add --no-gpg-verify sos http://{host}/ostree"),
                format!("ostree pull sos {name}"),
            ]));
        }
    }
    out
}

fn distfiles(mirror: &Mirror, host: &str) -> sos_store::Result<String> {
    let mut out = String::from("<h2>Files pinned by their hash</h2>\n");
    let all = distfiles::all(&mirror.store)?;
    if all.is_empty() {
        out.push_str(&none("none are in the store"));
        return Ok(out);
    }
    let mut table = Table::new(&["name", "hash", "#size"], all.len());
    let mut first = None;
    for (name, infos) in &all {
        let pins: Vec<String> = infos.iter().map(distfiles::pin).collect();
        let bytes = infos.iter().map(|info| size(file_bytes(mirror, info)));
        let bytes: Vec<String> = bytes.collect();
        let address = format!("/{name}");
        let is_hidden = is_own(name);
        let shown = match is_hidden {
            true => format!("{name} (not to be had: something else is at this address)"),
            false => name.clone(),
        };
        table.row(
            Some(&address).filter(|_| !is_hidden).map(String::as_str),
            &shown,
            &[("code", &pins.join("\n")), ("n", &bytes.join("\n"))],
        );
        if !is_hidden {
            first.get_or_insert(encoded(name));
        }
    }
    out.push_str(&table.end());
    if let Some(name) = first {
        out.push_str(&pre(&[format!("curl -fLO -C - http://{host}/{name}")]));
    }
    Ok(out)
}

/// The bytes of a file that is an object: its archive is larger.
fn file_bytes(mirror: &Mirror, info: &PathInfo) -> u64 {
    let meta = std::fs::symlink_metadata(mirror.store.physical(&info.path));
    meta.map_or(info.nar_size, |meta| meta.len())
}

fn trees(mirror: &Mirror, host: &str) -> sos_store::Result<String> {
    let mut out = String::from("<h2>Store paths</h2>\n");
    let tree = |info: &PathInfo| info.kind == ObjectKind::Tree;
    let all: Vec<PathInfo> = mirror.store.list()?.into_iter().filter(tree).collect();
    let mut table = Table::new(&["path", "#size"], all.len());
    for info in &all {
        let address = format!("/{}.narinfo", info.path.hash_str());
        let shown = info.path.absolute(mirror.store.store_dir());
        table.row(Some(&address), &shown, &[("n", &size(info.nar_size))]);
    }
    let Some(first) = all.first() else {
        out.push_str(&none("the store is empty"));
        return Ok(out);
    };
    out.push_str(&table.end());
    let path = first.path.absolute(mirror.store.store_dir());
    let mut lines = vec![format!("nix copy --from http://{host} {path}")];
    match &mirror.options.key {
        Some(key) => lines.push(format!("trusted-public-keys = {}", key.public())),
        None => lines.push("# nothing is signed here: `sos serve --key FILE` does that".to_owned()),
    }
    out.push_str(&pre(&lines));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_a_tag_or_an_attribute() {
        assert_eq!(
            escaped("<a b='c' d=\"e\">&\u{1b}\n"),
            "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;\u{fffd}\n"
        );
        assert_eq!(encoded("a?b=c+d/\"<é"), "a%3Fb%3Dc%2Bd/%22%3C%C3%A9");
        assert!(is_host("[::1]:8089") && is_host("a.example:80"));
        assert!(!is_host("a b") && !is_host("a;b") && !is_host("") && !is_host("$(x)"));
    }

    #[test]
    fn sizes_are_told_in_units() {
        let shown: Vec<String> = [0, 1023, 1024, 1536, 1 << 20, u64::MAX].map(size).into();
        assert_eq!(
            shown,
            [
                "0 B",
                "1023 B",
                "1.0 KiB",
                "1.5 KiB",
                "1.0 MiB",
                "16777216.0 TiB"
            ]
        );
    }

    #[test]
    fn long_tables_say_how_much_they_leave_out() {
        let mut table = Table::new(&["a"], 1005);
        for _ in 0..1005 {
            table.row(None, "<x>", &[]);
        }
        let text = table.end();
        assert_eq!(text.matches("&lt;x&gt;").count(), MAX_ROWS);
        assert!(text.ends_with("<p class=\"none\">and 5 more</p>\n"));
    }
}
