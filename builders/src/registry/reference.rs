//! Names of images in registries.

use std::fmt;

use reqwest::Url;
use sos_formats::diagnostic::{Class, Diagnostic};

use super::access::{self, Access};
use crate::oci::documents::is_hex;

/// The most bytes of host, `/` and repository together.
const MAX_NAME_BYTES: usize = 255;
/// The most bytes of a tag.
const MAX_TAG_BYTES: usize = 128;
/// How much of a name messages repeat.
const SHOWN_CHARS: usize = 80;

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
    /// `registry-reference` with the part that is wrong, and its limit.
    ///
    /// # Source
    /// `spec.md` of the distribution specification, "Pulling manifests".
    pub fn parse(text: &str) -> Result<Self, Box<Diagnostic>> {
        Self::read(text).map_err(|what| {
            let name = elided(text);
            let message = format!("`{name}` is not the name of an image in a registry: {what}");
            Box::new(
                Diagnostic::error("registry-reference", Class::Usage, message)
                    .help("write HOST/NAME:TAG, for example `registry.example:5000/os/web:1.0`"),
            )
        })
    }

    fn read(text: &str) -> Result<Self, String> {
        if let Some((scheme, _)) = text.split_once("://") {
            let scheme = elided(scheme);
            return Err(format!("it begins with `{scheme}://`, which is left out"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (text, None),
        };
        if let Some(digest) = &digest {
            check_digest(digest)?;
        }
        let (host, path) = rest
            .split_once('/')
            .ok_or("it has no host and no `/`".to_owned())?;
        // A first part without a dot is a name to other tools, which then take a registry of their choice.
        if !host.contains(['.', ':']) && host != "localhost" {
            return Err("it must begin with the host of a registry".to_owned());
        }
        check_host(host)?;
        let (name, tag) = match path.rsplit_once(':') {
            Some((name, tag)) => (name, Some(tag.to_owned())),
            None => (path, None),
        };
        check_name(name)?;
        let bytes = host.len() + 1 + name.len();
        if bytes > MAX_NAME_BYTES {
            return Err(format!(
                "host and repository have {bytes} bytes, and may have {MAX_NAME_BYTES}"
            ));
        }
        if let Some(tag) = &tag {
            check_tag(tag)?;
        }
        Ok(Self {
            host: host.to_owned(),
            name: name.to_owned(),
            tag,
            digest,
        })
    }

    /// The same with a tag, when it has neither tag nor digest. Images may have names that no registry takes as a tag; such a one is not
    /// taken.
    pub(super) fn or_tag(&self, tag: Option<&str>) -> Self {
        let is_open = self.tag.is_none() && self.digest.is_none();
        let tag = tag.filter(|tag| is_open && check_tag(tag).is_ok());
        Self {
            tag: tag.map(str::to_owned).or_else(|| self.tag.clone()),
            ..self.clone()
        }
    }

    /// The address of the registry's interface.
    pub(crate) fn base(&self, access: &Access) -> String {
        let plain = Url::parse(&format!("http://{}/v2/", self.host));
        match plain {
            Ok(url) if access::is_local(&url) || access.plain_http.has(&url) => url.to_string(),
            _ => format!("https://{}/v2/", self.host),
        }
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

/// Gives the begin of what somebody wrote, on one line.
fn elided(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown.escape_debug().to_string()
}

fn check_host(host: &str) -> Result<(), String> {
    let shown = elided(host);
    if let Some((_, port)) = host.rsplit_once(':')
        && !port.ends_with(']')
        && !port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return Err(format!(
            "the port of the host `{shown}` is no number from 1 to 65535"
        ));
    }
    let url = Url::parse(&format!("https://{host}/")).ok();
    // Nothing but a host: no name of somebody, no path, no question.
    let is_host = |url: &Url| {
        let rest = (url.path(), url.query(), url.fragment());
        url.username().is_empty() && url.password().is_none() && rest == ("/", None, None)
    };
    if url.as_ref().is_some_and(is_host) {
        return Ok(());
    }
    Err(format!("the host `{shown}` is none"))
}

/// Looks at a repository.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("there is no repository behind the host".to_owned());
    }
    if name.len() > MAX_NAME_BYTES {
        let bytes = name.len();
        return Err(format!(
            "the repository has {bytes} bytes, and may have {MAX_NAME_BYTES} together with the host"
        ));
    }
    match name.split('/').find(|part| !is_component(part)) {
        None => Ok(()),
        Some("") => Err(format!(
            "the repository `{}` has a `/` with nothing on one side",
            elided(name)
        )),
        Some(part) => Err(format!(
            "`{}` in the repository is not lower case letters and digits, joined by `.`, `_`, `__` or `-`",
            elided(part)
        )),
    }
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

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn check_tag(tag: &str) -> Result<(), String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let shown = elided(tag);
    if tag.is_empty() {
        return Err("there is no tag behind the `:`".to_owned());
    }
    if let Some(other) = tag.chars().find(|c| !word(*c) && !"-.".contains(*c)) {
        return Err(format!(
            "the tag `{shown}` has `{}` in it, and is letters, digits, `_`, `.` and `-`",
            other.escape_debug()
        ));
    }
    if tag.len() > MAX_TAG_BYTES {
        let bytes = tag.len();
        return Err(format!(
            "the tag has {bytes} characters, and may have {MAX_TAG_BYTES}"
        ));
    }
    if !tag.starts_with(word) {
        return Err(format!(
            "the tag `{shown}` must begin with a letter, a digit or `_`"
        ));
    }
    Ok(())
}

fn check_digest(digest: &str) -> Result<(), String> {
    let shown = elided(digest);
    match digest.split_once(':') {
        Some(("sha256", hex)) if is_hex(hex) => Ok(()),
        Some(("sha256", hex)) if hex.len() != 64 => Err(format!(
            "its digest must be `sha256:` and 64 digits, and has {}",
            hex.chars().count()
        )),
        Some(("sha256", _)) => Err(format!(
            "its digest must be `sha256:` and 64 of `0` to `9` and `a` to `f`, and is `{shown}`"
        )),
        Some(_) => Err(format!(
            "its digest `{shown}` is of another kind than `sha256`"
        )),
        None => Err(format!(
            "`{shown}` behind `@` is no digest: `sha256:` and 64 digits"
        )),
    }
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
        let base = |name: &str, access: &Access| {
            let name = Reference::parse(name).expect("a name");
            name.base(access)
        };
        let none = Access::default();
        assert_eq!(all.base(&none), "http://localhost:5000/v2/");
        let plain = Reference::parse("registry.example/web").expect("a name");
        assert_eq!(
            (plain.tag.as_deref(), plain.base(&none).as_str()),
            (None, "https://registry.example/v2/")
        );
        assert_eq!(plain.to_string(), "registry.example/web");
        assert_eq!(base("[::1]:5000/web", &none), "http://[::1]:5000/v2/");
        assert_eq!(
            base("127.0.0.1.example/web", &none),
            "https://127.0.0.1.example/v2/"
        );
        // As far as the limits go, and no further.
        let longest = format!("registry.example/{}", "a".repeat(255 - 17));
        let tag = "t".repeat(128);
        assert!(Reference::parse(&format!("{longest}:{tag}")).is_ok());
        let why = |name: &str| Reference::parse(name).expect_err(name).message;
        assert!(why(&format!("{longest}a:{tag}")).ends_with("256 bytes, and may have 255"));
        assert!(why(&format!("{longest}:{tag}t")).ends_with("129 characters, and may have 128"));
        assert!(why(&format!("a.example/{}", "x".repeat(9000))).len() < 300);
        for (bad, what) in [
            ("web", "it has no host and no `/`"),
            ("os/web", "must begin with the host"),
            ("https://a.example/web", "`https://`, which is left out"),
            ("docker://a.example/web", "`docker://`, which is left out"),
            ("a.example/", "there is no repository"),
            ("a.example/Web", "`Web` in the repository is not lower case"),
            ("a.example/os/a b:1", "`a b` in the repository"),
            ("a.example/web:", "there is no tag"),
            ("a.example/web:-x", "`-x` must begin with a letter"),
            ("a.example/web:a b", "the tag `a b` has ` ` in it"),
            ("a.example/a___b", "`a___b`"),
            ("a.example/a..b", "`a..b`"),
            ("a.example/a_", "`a_`"),
            ("a.example/a//b", "nothing on one side"),
            ("u@a.example/web", "`a.example/web` behind `@`"),
            ("a.example/web@sha256:0", "64 digits, and has 1"),
            ("a.example/web@sha512:0", "of another kind than `sha256`"),
            ("a.example:99999/web", "from 1 to 65535"),
            ("a.example:/web", "from 1 to 65535"),
            ("a b.example/web", "the host `a b.example` is none"),
            ("a.example?x/web", "the host `a.example?x` is none"),
        ] {
            assert!(why(bad).contains(what), "{}", why(bad));
        }
        let upper = format!("a.example/web@sha256:{}", "A".repeat(64));
        assert!(why(&upper).contains("`a` to `f`"), "{}", why(&upper));
    }
}
