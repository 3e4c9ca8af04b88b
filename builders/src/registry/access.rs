//! How this machine speaks with registries: as whom, and with which of them in clear text.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

use super::auth::AuthFiles;

/// What is known of registries before one is asked.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The files that may hold credentials.
    pub auth: AuthFiles,
    /// With whom plain http is spoken besides this machine.
    pub plain_http: PlainHttp,
}

/// Servers with which http is spoken in place of https, since somebody who may decide that has named them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlainHttp {
    /// Hosts as URLs have them, and their ports.
    servers: BTreeSet<(String, u16)>,
}

impl PlainHttp {
    /// Takes `HOST` or `HOST:PORT` of each; without a port that of http, 80, is meant.
    ///
    /// # Errors
    /// The first text that is neither.
    pub fn new<T: AsRef<str>>(hosts: &[T]) -> Result<Self, String> {
        let read = |host: &T| {
            let host = host.as_ref();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
            let url = Url::parse(&format!("http://{host}/")).ok();
            url.filter(|_| host.chars().all(plain) && !host.ends_with(':'))
                .and_then(|url| server(&url))
                .ok_or_else(|| host.to_owned())
        };
        let servers = hosts.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { servers })
    }

    /// Whether a URL is of one of them.
    pub(super) fn has(&self, url: &Url) -> bool {
        server(url).is_some_and(|server| self.servers.contains(&server))
    }
}

/// The servers, with their ports, between blanks.
impl fmt::Display for PlainHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (host, port)) in self.servers.iter().enumerate() {
            let blank = if number == 0 { "" } else { " " };
            write!(f, "{blank}{host}:{port}")?;
        }
        Ok(())
    }
}

fn server(url: &Url) -> Option<(String, u16)> {
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}

impl Access {
    /// Whether something may be sent to a URL by way of a registry, which is `at_home` on this machine or elsewhere: nothing goes in clear
    /// text to another machine that nobody named.
    pub(super) fn allows(&self, url: &Url, at_home: bool) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => at_home && is_local(url) || self.plain_http.has(url),
            _ => false,
        }
    }
}

/// Whether a URL is of this machine.
pub(super) fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect(text)
    }

    #[test]
    fn clear_text_goes_where_it_may() {
        let plain_http = PlainHttp::new(&["Registry.lan:5000", "other.lan", "[fd00::1]:5000"]);
        let access = Access {
            plain_http: plain_http.expect("hosts"),
            ..Access::default()
        };
        for (text, elsewhere, at_home) in [
            ("https://a.example/v2/", true, true),
            ("http://a.example/v2/", false, false),
            ("http://127.0.0.1:5000/v2/", false, true),
            ("http://localhost/v2/", false, true),
            ("http://registry.lan:5000/v2/", true, true),
            ("http://registry.lan:5001/v2/", false, false),
            ("http://registry.lan/v2/", false, false),
            ("http://other.lan/v2/", true, true),
            ("http://other.lan:80/v2/", true, true),
            ("http://[fd00::1]:5000/v2/", true, true),
            ("ftp://other.lan:80/v2/", false, false),
        ] {
            let found = [false, true].map(|home| access.allows(&url(text), home));
            assert_eq!(found, [elsewhere, at_home], "{text}");
        }
    }

    #[test]
    fn servers_have_ports() {
        let all = PlainHttp::new(&["b.lan:5000", "A.lan", "[fd00::1]"]).expect("hosts");
        assert_eq!(all.to_string(), "[fd00::1]:80 a.lan:80 b.lan:5000");
    }

    #[test]
    fn what_is_no_host() {
        for bad in [
            "",
            "http://registry.lan",
            "registry.lan/os",
            "registry.lan:",
            "registry.lan:x",
            "u@registry.lan",
            "a b",
            "registry.lan?",
        ] {
            assert_eq!(PlainHttp::new(&[bad]), Err(bad.to_owned()));
        }
    }
}
