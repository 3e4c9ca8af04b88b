use std::io::{self, Read};

use proptest::prelude::*;

use super::*;
use crate::hash::Sha256;

/// Writes one line for each event.
#[derive(Default)]
struct Log(Vec<String>);

impl Visitor for Log {
    fn directory(&mut self, name: &[u8]) -> io::Result<()> {
        self.0.push(format!("+ {}", name.escape_ascii()));
        Ok(())
    }

    fn directory_end(&mut self) -> io::Result<()> {
        self.0.push("-".to_owned());
        Ok(())
    }

    fn file(
        &mut self,
        name: &[u8],
        executable: bool,
        size: u64,
        contents: &mut dyn Read,
    ) -> io::Result<()> {
        let mut data = Vec::new();
        contents.read_to_end(&mut data)?;
        assert_eq!(data.len() as u64, size);
        let mark = if executable { "x" } else { "f" };
        let (name, data) = (name.escape_ascii(), data.escape_ascii());
        self.0.push(format!("{mark} {name} {data}"));
        Ok(())
    }

    fn symlink(&mut self, name: &[u8], target: &[u8]) -> io::Result<()> {
        let (name, target) = (name.escape_ascii(), target.escape_ascii());
        self.0.push(format!("l {name} {target}"));
        Ok(())
    }
}

/// Looks at no contents.
struct Blind;

impl Visitor for Blind {
    fn directory(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn directory_end(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn file(&mut self, _: &[u8], _: bool, _: u64, _: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }
    fn symlink(&mut self, _: &[u8], _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

fn copy(nar: &[u8]) -> Result<Vec<u8>, NarError> {
    let mut writer = Writer::new(Vec::new())?;
    read(nar, &mut writer)?;
    writer.finish()
}

fn string(s: &[u8]) -> Vec<u8> {
    let mut out = (s.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(s);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

/// Strings in a row, after the magic.
fn nar(words: &[&[u8]]) -> Vec<u8> {
    let mut out = string(b"nix-archive-1");
    for word in words {
        out.extend(string(word));
    }
    out
}

fn words(text: &str) -> Vec<u8> {
    let words: Vec<&[u8]> = text
        .split(' ')
        .map(|w| if w == "''" { &b""[..] } else { w.as_bytes() })
        .collect();
    nar(&words)
}

const TREE: &[u8] = include_bytes!("../../tests/fixtures/nar/tree.nar");
const EXECUTABLE: &[u8] = include_bytes!("../../tests/fixtures/nar/executable.nar");

// The fixtures are `nix-store --dump` of Nix 2.8.
#[test]
fn trees_of_nix() {
    let mut log = Log::default();
    read(TREE, &mut log).unwrap();
    let expect = [
        "+ ",
        "f a-b \\n",
        "f a.b 1\\n",
        "+ a",
        "f eight 12345678",
        "f x hello\\n",
        "-",
        "f ab 2\\n",
        "l abs /nix/store/x",
        "f byt\\xe9 \\xff",
        "+ empty",
        "-",
        "f none ",
        "x run #!/bin/sh\\n",
        "+ zdir",
        "+ deep",
        "l link ../a/x",
        "-",
        "-",
        "f \\xc3\\xa9 \\xc3\\xa9\\n",
        "-",
    ];
    // `a` sorts before `a-b`; listed here by what the file says.
    let mut sorted = log.0.clone();
    let mut expect: Vec<String> = expect.iter().map(|s| (*s).to_owned()).collect();
    sorted.sort();
    expect.sort();
    assert_eq!(sorted, expect);
    assert_eq!(log.0[..3], ["+ ", "+ a", "f eight 12345678"]);
    assert_eq!(copy(TREE).unwrap(), TREE);
    assert_eq!(copy(EXECUTABLE).unwrap(), EXECUTABLE);
    read(TREE, &mut Blind).unwrap();
}

// `nix hash path` of Nix 2.8 for a file with "hello\n".
#[test]
fn hash_of_one_file() {
    let mut writer = Writer::new(Vec::new()).unwrap();
    writer.regular(false, 6, &mut &b"hello\n"[..]).unwrap();
    let hash = Sha256::of(&writer.finish().unwrap());
    assert_eq!(
        crate::hash::Hash::from(hash).to_nix32(),
        "04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw"
    );
}

#[test]
fn smallest() {
    for text in [
        "( type regular contents '' )",
        "( type regular executable '' contents x )",
        "( type symlink target t )",
        "( type directory )",
        "( type directory entry ( name a node ( type directory ) ) entry ( name b node ( type symlink target t ) ) )",
    ] {
        let bytes = words(text);
        assert_eq!(copy(&bytes).unwrap(), bytes, "{text}");
    }
}

#[track_caller]
fn refused(bytes: &[u8]) -> NarProblem {
    let problem = match read(bytes, &mut Blind) {
        Err(NarError::Malformed { problem, offset }) => {
            assert!(offset <= bytes.len() as u64);
            problem
        }
        other => panic!("{other:?} for {}", bytes.escape_ascii()),
    };
    assert!(read(bytes, &mut Log::default()).is_err());
    problem
}

#[test]
fn malformed_grammar() {
    use NarProblem as P;
    let expected = |text: &str| match refused(&words(text)) {
        P::Expected { expected, .. } => expected,
        other => panic!("{text}: {other:?}"),
    };
    for (text, wanted) in [
        ("x", "("),
        ("( tpye", "type"),
        ("( type fifo )", "a type of file"),
        ("( type regular )", "contents"),
        ("( type regular executable contents x )", ""),
        ("( type regular executable '' )", "contents"),
        (
            "( type regular executable '' executable '' contents x )",
            "contents",
        ),
        ("( type regular contents x contents y )", ")"),
        ("( type symlink )", "target"),
        ("( type symlink target t t )", ")"),
        ("( type directory x )", "`entry` or `)`"),
        ("( type directory entry x", "("),
        ("( type directory entry ( node", "name"),
        ("( type directory entry ( name a )", "node"),
        (
            "( type directory entry ( name a node ( type directory ) entry",
            ")",
        ),
    ] {
        assert_eq!(expected(text), wanted, "{text}");
    }
    assert!(matches!(refused(b""), P::Truncated));
    assert!(matches!(
        refused(&string(b"nix-archive-2")),
        P::Expected { .. }
    ));
    let trailing = words("( type directory ) x");
    assert_eq!(refused(&trailing), P::TrailingBytes);
    let mut one_more = words("( type directory )");
    one_more.push(0);
    assert_eq!(refused(&one_more), P::TrailingBytes);
}

#[test]
fn malformed_names_and_targets() {
    use NarProblem as P;
    let entry = |name: &[u8]| -> Vec<u8> {
        let head: &[&[u8]] = &[b"(", b"type", b"directory", b"entry", b"(", b"name", name];
        let tail: &[&[u8]] = &[b"node", b"(", b"type", b"directory", b")", b")", b")"];
        nar(&[head, tail].concat())
    };
    let longest = [b'n'; 255];
    assert!(copy(&entry(&longest)).is_ok());
    for name in [
        &b""[..],
        b".",
        b"..",
        b"/",
        b"a/b",
        b"/a",
        b"a/",
        b"a\0b",
        b"\0",
    ] {
        assert_eq!(refused(&entry(name)), P::BadName(name.to_vec()));
    }
    assert!(matches!(
        refused(&entry(&[b'n'; 256])),
        P::TooLong { limit: 255, .. }
    ));

    let link = |target: &[u8]| nar(&[b"(", b"type", b"symlink", b"target", target, b")"]);
    assert!(copy(&link(&[b't'; 4095])).is_ok());
    assert_eq!(refused(&link(b"a\0b")), P::BadTarget(b"a\0b".to_vec()));
    assert_eq!(refused(&link(b"")), P::BadTarget(Vec::new()));
    assert!(matches!(
        refused(&link(&[b't'; 4096])),
        P::TooLong { limit: 4095, .. }
    ));

    let two = |a: &str, b: &str| {
        let entry = |n| format!("entry ( name {n} node ( type directory ) )");
        words(&format!("( type directory {} {} )", entry(a), entry(b)))
    };
    assert!(copy(&two("a", "b")).is_ok());
    assert_eq!(refused(&two("a", "a")), P::NotSorted(b"a".to_vec()));
    assert_eq!(refused(&two("b", "a")), P::NotSorted(b"a".to_vec()));
    assert_eq!(refused(&two("ab", "a")), P::NotSorted(b"a".to_vec()));
}

#[test]
fn malformed_lengths() {
    use NarProblem as P;
    // Declared lengths far beyond the stream: no memory is taken for them.
    for len in [33, u64::from(u32::MAX), u64::MAX] {
        let mut bytes = string(b"nix-archive-1");
        bytes.extend(len.to_le_bytes());
        assert_eq!(refused(&bytes), P::TooLong { len, limit: 32 });
    }
    for len in [1 << 40, i64::MAX as u64] {
        let mut bytes = words("( type regular contents");
        bytes.extend(len.to_le_bytes());
        bytes.extend(b"some");
        assert_eq!(refused(&bytes), P::Truncated);
    }
    let mut bytes = words("( type regular contents");
    bytes.extend(u64::MAX.to_le_bytes());
    assert!(matches!(refused(&bytes), P::TooLong { .. }));

    let mut padded = words("( type regular contents x )");
    let at = padded.iter().rposition(|b| *b == b'x').unwrap();
    padded[at + 3] = 1;
    assert_eq!(refused(&padded), P::BadPadding);
    let mut padded = words("( type directory )");
    padded[8 + 13] = 1;
    assert_eq!(refused(&padded), P::BadPadding);
}

#[test]
fn every_truncation_is_refused() {
    for end in 0..TREE.len() {
        assert_eq!(refused(&TREE[..end]), NarProblem::Truncated, "{end}");
    }
}

fn nested(depth: usize) -> Vec<u8> {
    let mut text = "( type directory".to_owned();
    text += &" entry ( name a node ( type directory".repeat(depth - 1);
    text += &" ) )".repeat(depth - 1);
    text += " )";
    words(&text)
}

#[test]
fn depth_is_limited() {
    assert!(copy(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(refused(&nested(MAX_DEPTH + 1)), NarProblem::TooDeep);
    assert_eq!(refused(&nested(100_000)), NarProblem::TooDeep);
    let mut writer = Writer::new(io::sink()).unwrap();
    for _ in 1..MAX_DEPTH {
        writer.directory().unwrap();
        writer.entry(b"a").unwrap();
    }
    writer.directory().unwrap();
    writer.entry(b"a").unwrap();
    assert!(matches!(
        writer.directory(),
        Err(NarError::Unwritable(NarProblem::TooDeep))
    ));
}

#[test]
fn writer_keeps_the_rules() {
    let new = || Writer::new(io::sink()).unwrap();
    assert!(matches!(new().finish(), Err(NarError::OutOfOrder(_))));
    assert!(matches!(new().end(), Err(NarError::OutOfOrder(_))));
    assert!(matches!(new().entry(b"a"), Err(NarError::OutOfOrder(_))));
    let mut w = new();
    w.symlink(b"t").unwrap();
    assert!(matches!(w.symlink(b"t"), Err(NarError::OutOfOrder(_))));
    let mut w = new();
    w.directory().unwrap();
    assert!(matches!(w.directory(), Err(NarError::OutOfOrder(_))));
    w.entry(b"b").unwrap();
    assert!(matches!(w.entry(b"c"), Err(NarError::OutOfOrder(_))));
    assert!(matches!(w.end(), Err(NarError::OutOfOrder(_))));
    w.symlink(b"t").unwrap();
    assert!(matches!(w.entry(b"a"), Err(NarError::Unwritable(_))));
    assert!(matches!(w.entry(b"b"), Err(NarError::Unwritable(_))));
    assert!(matches!(w.entry(b"c/d"), Err(NarError::Unwritable(_))));
    w.end().unwrap();
    assert!(w.finish().is_ok());
    for (size, data) in [(3, &b"four"[..]), (5, b"four"), (0, b"four"), (1, b"")] {
        let mut data = data;
        let result = new().regular(false, size, &mut data);
        assert!(matches!(result, Err(NarError::SizeChanged { .. })));
    }
}

/// Fails after some bytes.
struct Broken(usize);

impl Read for Broken {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::other("unplugged"));
        }
        let n = buf.len().min(self.0).min(7);
        let start = TREE.len() - 600 - self.0;
        buf[..n].copy_from_slice(&TREE[start..start + n]);
        self.0 -= n;
        Ok(n)
    }
}

#[test]
fn failures_name_their_side() {
    let broken = Broken(TREE.len() - 600);
    assert!(matches!(read(broken, &mut Blind), Err(NarError::Read(_))));
    let broken = Broken(TREE.len() - 600);
    assert!(matches!(
        read(broken, &mut Log::default()),
        Err(NarError::Read(_))
    ));
    struct Full;
    impl Visitor for Full {
        fn directory(&mut self, _: &[u8]) -> io::Result<()> {
            Err(io::Error::other("full"))
        }
        fn directory_end(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn file(&mut self, _: &[u8], _: bool, _: u64, _: &mut dyn Read) -> io::Result<()> {
            Err(io::Error::other("full"))
        }
        fn symlink(&mut self, _: &[u8], _: &[u8]) -> io::Result<()> {
            Ok(())
        }
    }
    assert!(matches!(read(TREE, &mut Full), Err(NarError::Visitor(_))));
    assert!(matches!(
        read(EXECUTABLE, &mut Full),
        Err(NarError::Visitor(_))
    ));
}

#[derive(Debug, Clone)]
enum Tree {
    File(bool, Vec<u8>),
    Link(Vec<u8>),
    Dir(std::collections::BTreeMap<Vec<u8>, Tree>),
}

fn write_tree(tree: &Tree, w: &mut Writer<Vec<u8>>) -> Result<(), NarError> {
    match tree {
        Tree::File(x, data) => w.regular(*x, data.len() as u64, &mut data.as_slice()),
        Tree::Link(target) => w.symlink(target),
        Tree::Dir(entries) => {
            w.directory()?;
            for (name, tree) in entries {
                w.entry(name)?;
                write_tree(tree, w)?;
            }
            w.end()
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let data = || prop::collection::vec(any::<u8>(), 0..40);
    let leaf = prop_oneof![
        (any::<bool>(), data()).prop_map(|(x, d)| Tree::File(x, d)),
        "[a-z/.]{1,20}".prop_map(|t| Tree::Link(t.into_bytes())),
    ];
    let name = || {
        "[a-z.]{3,9}"
            .prop_map(String::into_bytes)
            .prop_filter("dots", |n| n != b"...")
    };
    leaf.prop_recursive(4, 30, 5, move |inner| {
        prop::collection::btree_map(name(), inner, 0..5).prop_map(Tree::Dir)
    })
}

proptest! {
    #[test]
    fn round_trip(tree in tree()) {
        let mut writer = Writer::new(Vec::new()).unwrap();
        write_tree(&tree, &mut writer).unwrap();
        let bytes = writer.finish().unwrap();
        prop_assert_eq!(copy(&bytes).unwrap(), bytes);
    }
}
