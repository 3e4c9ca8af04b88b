//! Names of images in registries.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;
use sos_formats::diagnostic::{Class, Diagnostic};

use crate::oci::documents::is_hex;

/// The longest name, as registries have it.
const MAX_NAME_BYTES: usize = 255;

/// `HOST[:PORT]/NAME[:TAG][@sha256:DIGEST]`; the host is always written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The host, with its port if it has one.
    pub host: String,
    /// The repository.
    pub name: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest of manifest or index: `sha256:` and 64 digits.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a name.
    ///
    /// # Errors
    /// `registry-reference` with what is wrong.
    pub fn parse(text: &str) -> Result<Self, Box<Diagnostic>> {
        let bad = |what: &str| {
            let message = format!("`{text}` is not the name of an image in a registry: {what}");
            Box::new(
                Diagnostic::error("registry-reference", Class::Usage, message)
                    .help("write HOST/NAME:TAG, for example `registry.example:5000/os/web:1.0`"),
            )
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (text, None),
        };
        if let Some(digest) = &digest
            && !digest.strip_prefix("sha256:").is_some_and(is_hex)
        {
            return Err(bad("its digest must be `sha256:` and 64 digits"));
        }
        let (host, path) = rest
            .split_once('/')
            .ok_or_else(|| bad("it has no host and no `/`"))?;
        // A first part without a dot is a name to other tools, which then take a registry of their choice.
        if !host.contains(['.', ':']) && host != "localhost" {
            return Err(bad("it must begin with the host of a registry"));
        }
        let (name, tag) = match path.rsplit_once(':') {
            Some((name, tag)) => (name, Some(tag.to_owned())),
            None => (path, None),
        };
        if !is_name(name) {
            return Err(bad(
                "a repository is lower case letters and digits joined by `.`, `_`, `-` and `/`",
            ));
        }
        if tag.as_ref().is_some_and(|tag| !is_tag(tag)) {
            return Err(bad(
                "a tag is at most 128 letters, digits, `_`, `.` and `-`, and begins with none of the last two",
            ));
        }
        let found = Self {
            host: host.to_owned(),
            name: name.to_owned(),
            tag,
            digest,
        };
        match Url::parse(&format!("https://{host}/")) {
            Ok(url) if url.username().is_empty() && url.password().is_none() => Ok(found),
            _ => Err(bad("its host is none")),
        }
    }

    /// Whether the registry is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        Url::parse(&format!("http://{}/", self.host)).is_ok_and(|url| is_local(&url))
    }

    /// The address of the registry's interface.
    pub(crate) fn base(&self) -> String {
        let scheme = if self.is_local() { "http" } else { "https" };
        format!("{scheme}://{}/v2/", self.host)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether a URL is of this machine.
pub(super) fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a text is a repository.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && name.split('/').all(is_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !part.starts_with(plain) || !part.ends_with(plain) {
        return false;
    }
    part.split(plain).all(|separator| {
        matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128 && tag.starts_with(word) && tag.chars().all(|c| word(c) || "-.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let all = Reference::parse(&format!(
            "localhost:5000/a/b__c.d--e:V1_@sha256:{}",
            "0".repeat(64)
        ))
        .expect("a name");
        assert_eq!(
            (all.host.as_str(), all.name.as_str()),
            ("localhost:5000", "a/b__c.d--e")
        );
        assert_eq!(all.tag.as_deref(), Some("V1_"));
        assert_eq!(all.base(), "http://localhost:5000/v2/");
        let plain = Reference::parse("registry.example/web").expect("a name");
        assert_eq!(
            (plain.tag.as_deref(), plain.base().as_str()),
            (None, "https://registry.example/v2/")
        );
        assert_eq!(plain.to_string(), "registry.example/web");
        assert!(Reference::parse("[::1]:5000/web").is_ok_and(|r| r.is_local()));
        assert!(Reference::parse("127.0.0.1.example/web").is_ok_and(|r| !r.is_local()));
        for bad in [
            "web",
            "os/web",
            "a.example/",
            "a.example/Web",
            "a.example/web:",
            "a.example/web:-x",
            "a.example/a___b",
            "a.example/a..b",
            "a.example/a_",
            "u@a.example/web",
            "a.example/web@sha256:0",
            "a.example/a//b",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }
}
