//! Transfers that break off: what is continued, what is started again, and when it is given up.

use super::test_server::{Server, Then, cut, reply};
use super::tests::{against, check_fails, content, fetcher, get, sha256};

const ETAG: &str = "ETag: \"v1\"\r\n";

#[test]
fn a_reset_is_resumed_by_range() {
    let (result, asked) = against(|asked, _| {
        let all = content();
        match asked.from() {
            None => cut("200 OK", ETAG, all.len(), &all[..500_000], Then::Reset),
            Some(from) => {
                let range = format!(
                    "Content-Range: bytes {from}-{}/{}\r\n",
                    all.len() - 1,
                    all.len()
                );
                reply("206 Partial Content", &range, &all[from..])
            }
        }
    });
    assert_eq!(result.expect("fetched"), content());
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].headers["if-range"], "\"v1\"");
    assert!(
        asked[1]
            .from()
            .is_some_and(|from| from > 0 && from <= 500_000)
    );
}

#[test]
fn a_truncated_body_is_resumed_or_restarted() {
    // This server does not know ranges: it sends the whole file again.
    let (result, asked) = against(|_, n| {
        let all = content();
        if n == 0 {
            cut("200 OK", "", all.len(), &all[..1000], Then::Close)
        } else {
            reply("200 OK", "", &all)
        }
    });
    assert_eq!(result.expect("fetched"), content());
    assert_eq!(asked.len(), 2);
}

#[test]
fn a_body_that_is_always_truncated_ends() {
    let (result, asked) = against(|asked, _| {
        let all = content();
        match asked.from() {
            None => cut("200 OK", "", all.len(), &all[..1000], Then::Close),
            Some(from) => {
                let range = format!(
                    "Content-Range: bytes {from}-{}/{}\r\n",
                    all.len() - 1,
                    all.len()
                );
                cut(
                    "206 Partial Content",
                    &range,
                    all.len() - from,
                    b"",
                    Then::Close,
                )
            }
        }
    });
    check_fails(result, "fetch-failed", "after 1000 bytes");
    assert_eq!(asked.len(), 4);
}

#[test]
fn a_wrong_range_is_not_glued() {
    let (result, _) = against(|asked, n| {
        let all = content();
        match (asked.from(), n) {
            (None, 0) => cut("200 OK", ETAG, all.len(), &all[..500_000], Then::Reset),
            (Some(_), _) => reply(
                "206 Partial Content",
                &format!("Content-Range: bytes 7-{}/{}\r\n", all.len() - 1, all.len()),
                &all[7..],
            ),
            _ => reply("200 OK", "", &all),
        }
    });
    assert_eq!(result.expect("fetched"), content());
}

#[test]
fn a_file_that_changed_meanwhile_is_fetched_whole() {
    // Same length, other bytes, and a server that ignores If-Range.
    let (result, asked) = against(|asked, n| {
        let all = content();
        let other = vec![7; all.len()];
        match asked.from() {
            None if n == 0 => cut("200 OK", ETAG, all.len(), &other[..500_000], Then::Reset),
            None => reply("200 OK", "", &all),
            Some(from) => {
                let range = format!(
                    "Content-Range: bytes {from}-{}/{}\r\n",
                    all.len() - 1,
                    all.len()
                );
                reply("206 Partial Content", &range, &all[from..])
            }
        }
    });
    assert_eq!(result.expect("fetched"), content());
    assert_eq!(asked.len(), 3);
}

#[test]
fn a_source_that_breaks_off_and_is_wrong_gives_way_to_the_next() {
    let broken = Server::start(|asked, _| {
        let other = vec![7; content().len()];
        match asked.from() {
            None => cut("200 OK", ETAG, other.len(), &other[..500_000], Then::Reset),
            Some(from) => {
                let last = other.len() - 1;
                let range = format!("Content-Range: bytes {from}-{last}/{}\r\n", other.len());
                reply("206 Partial Content", &range, &other[from..])
            }
        }
    });
    let good = Server::start(|_, _| reply("200 OK", "", &content()));
    let urls = [broken.url("/file"), good.url("/file")];
    let (bytes, fetched) = get(&fetcher(), &urls, Some(&sha256(&content()))).expect("fetched");
    assert_eq!((bytes, fetched.url), (content(), urls[1].clone()));
    // In pieces, once more, and no third time.
    assert_eq!(broken.asked().len(), 4);
}

#[test]
fn what_arrives_again_is_no_progress() {
    // Every answer brings much, none can be continued.
    let (result, asked) = against(|asked, _| match asked.from() {
        None => {
            let all = content();
            cut("200 OK", ETAG, all.len(), &all[..500_000], Then::Reset)
        }
        Some(_) => reply("416 Range Not Satisfiable", "", b""),
    });
    check_fails(result, "fetch-failed", "");
    assert!(asked.len() < 10, "{}", asked.len());
}
