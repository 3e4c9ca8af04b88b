use super::Regex;

#[track_caller]
fn full(pattern: &str, text: &str, expect: Option<&[Option<&str>]>) {
    let r = Regex::new(pattern.as_bytes()).unwrap();
    let got = r.full_match(text.as_bytes());
    let got: Option<Vec<Option<&str>>> =
        got.map(|g| g.into_iter().map(|s| s.map(|(a, b)| &text[a..b])).collect());
    assert_eq!(got.as_deref(), expect);
}

#[track_caller]
fn find(pattern: &str, text: &str, expect: (usize, usize)) {
    let r = Regex::new(pattern.as_bytes()).unwrap();
    assert_eq!(r.find(text.as_bytes(), 0).map(|m| m.0), Some(expect));
}

#[test]
fn groups_of_the_first_way_to_the_end() {
    full(
        "(a|ab)(c|bcd)(d*)",
        "abcd",
        Some(&[Some("a"), Some("bcd"), Some("")]),
    );
    full("((a)|(b))*", "ab", Some(&[Some("b"), Some("a"), Some("b")]));
    full("a(b)?", "a", Some(&[None]));
    full("", "", Some(&[]));
    full("ab", "abc", None);
    full("a.c", "a\nc", Some(&[]));
    full("(a?)*", "aa", Some(&[Some("")]));
    full("((a*)*)*", "aaa", Some(&[Some(""), Some("")]));
    full("(a*)+b", "aab", Some(&[Some("")]));
}

#[test]
fn the_longest_of_the_leftmost_matches() {
    find("a|ab", "xabc", (1, 3));
    find("abcd|c", "abcd", (0, 4));
    find("[.-]", "ab-c", (2, 3));
    find("b*", "abb", (0, 0));
}

#[test]
fn brackets_as_posix_has_them() {
    full("[]a]+", "]a", Some(&[]));
    full("[^]a]", "b", Some(&[]));
    full("[\\]+", "\\\\", Some(&[]));
    full("[[:digit:]_-]+", "1_2-3", Some(&[]));
    full("[a-c-]+", "a-c", Some(&[]));
    full("[--0]+", "-./0", Some(&[]));
    full("[[.hyphen.]a]+", "-a", Some(&[]));
}

#[test]
fn stacked_repetitions_are_valid() {
    full("a+?", "aa", Some(&[]));
    full("a**", "aaa", Some(&[]));
    full("(ab){2}", "abab", Some(&[Some("ab")]));
}

#[test]
fn what_the_library_refuses() {
    for p in [
        "(",
        "a{",
        "{",
        "[z-a]",
        "[[.-.]]",
        "\\d",
        "a{,2}",
        "\\b",
        "*a",
        "[a",
        "a{2,1}",
        ")",
        "^*",
        "a$+",
        "[a-c-e]",
        "[[:digit:]-z]",
        "[a-[:digit:]]",
        "[[=a=]-z]",
        "[[.x",
        "[[.foo.]]",
    ] {
        assert!(Regex::new(p.as_bytes()).is_err(), "{p}");
    }
}

#[test]
fn long_subjects_need_no_stack() {
    let text = "a".repeat(1_000_000);
    full("(a|b)*", &text, Some(&[Some("a")]));
}
