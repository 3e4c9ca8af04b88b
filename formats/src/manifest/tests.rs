use proptest::prelude::*;

use super::*;

/// Written by a script from the format description, not by this crate.
const NODE: &[u8] = include_bytes!("../../tests/fixtures/manifest/node.bin");
const ROOT: &[u8] = include_bytes!("../../tests/fixtures/manifest/root.bin");

fn meta(mode: u16, uid: u32, gid: u32, mtime_secs: i64, mtime_nsecs: u32) -> Meta {
    Meta {
        mode,
        uid,
        gid,
        mtime_secs,
        mtime_nsecs,
        xattrs: BTreeMap::new(),
    }
}

fn entry(name: &[u8], meta: Meta, kind: Kind) -> Entry {
    let name = name.to_vec();
    Entry { name, meta, kind }
}

fn example() -> Node {
    let mut odd = meta(0o644, u32::MAX, u32::MAX, -1, 999_999_999);
    odd.xattrs.insert(b"user.e".to_vec(), Vec::new());
    let capability = b"security.capability".to_vec();
    odd.xattrs.insert(capability, b"\x01\0".to_vec());
    let mut group = [0; 16];
    for (i, b) in (0u8..).zip(&mut group) {
        *b = i;
    }
    let file = |size, byte, hardlink| Kind::File {
        size,
        blob: Blake3([byte; 32]),
        hardlink,
    };
    let node = Blake3([0xaa; 32]);
    let target = b"../a".to_vec();
    // Out of order on purpose: `Node::new` sorts.
    Node::new(vec![
        entry(b"\xff\n", meta(0, 0, 0, i64::MIN, 0), file(0, 0, None)),
        entry(b"a", meta(0o755, 0, 0, 1, 0), Kind::Dir { node }),
        entry(b"link", meta(0o777, 0, 0, 1, 0), Kind::Symlink { target }),
        entry(b"hard", odd, file(1 << 40, 0xcc, Some(group))),
        entry(b"fifo", meta(0o644, 0, 0, 0, 0), Kind::Fifo),
        entry(
            b"console",
            meta(0o600, 0, 5, 1, 0),
            Kind::CharDev { major: 5, minor: 1 },
        ),
        entry(
            b"sda",
            meta(0o660, 0, 6, 1, 0),
            Kind::BlockDev { major: 8, minor: 0 },
        ),
        entry(
            b"a-b",
            meta(0o4755, 1000, 50, 1_700_000_000, 123_456_789),
            file(6, 0xbb, None),
        ),
    ])
    .unwrap()
}

fn example_root() -> Root {
    let mut meta = meta(0o1777, 1, 2, 3, 4);
    meta.xattrs.insert(b"user.k".to_vec(), b"v".to_vec());
    Root {
        meta,
        node: Blake3([0xdd; 32]),
    }
}

#[test]
fn bytes_are_as_described() {
    assert_eq!(example().encode(), NODE);
    assert_eq!(Node::decode(NODE), Ok(example()));
    assert_eq!(example_root().encode(), ROOT);
    assert_eq!(Root::decode(ROOT), Ok(example_root()));
}

// These ids are in every store there is: they may never change.
#[test]
fn ids() {
    assert_eq!(
        Node::default().id().to_hex(),
        "33dcbe0ea4e405c254e8230a492ef2b8bc3ab043ec933de63a1a0106139dec4d"
    );
    assert_eq!(
        example().id().to_hex(),
        "1250780c279fd99c394428e91842b20b03dd891b05158a1c946f4b347ebd745d"
    );
    assert_eq!(
        example_root().id().to_hex(),
        "ab969ecbd9e13c633bc2302c3e223759676f45072183a4dfa74afdbab9d90ad1"
    );
    let group = hardlink_group(b"usr/bin/perl");
    assert_eq!(
        crate::hash::encode_hex(&group),
        "7fd1048a35ed30cbe07e9f3b85d50811"
    );
}

#[test]
fn lookup_by_name() {
    let node = example();
    for entry in &node.entries {
        assert_eq!(node.get(&entry.name), Some(entry));
    }
    assert_eq!(node.get(b"b"), None);
}

#[test]
fn every_truncation_and_extension_is_refused() {
    for end in 0..NODE.len() {
        let error = Node::decode(&NODE[..end]).unwrap_err();
        let early = matches!(
            error,
            ManifestError::Truncated(_) | ManifestError::BadMagic(_)
        );
        assert!(early, "{end}: {error}");
    }
    for end in 0..ROOT.len() {
        assert!(Root::decode(&ROOT[..end]).is_err());
    }
    let more = [NODE, b"\0"].concat();
    assert_eq!(Node::decode(&more), Err(ManifestError::TrailingBytes(1)));
    let more = [ROOT, NODE].concat();
    let trailing = ManifestError::TrailingBytes(NODE.len());
    assert_eq!(Root::decode(&more), Err(trailing));
    assert_eq!(Root::decode(NODE), Err(ManifestError::BadMagic("root")));
    assert_eq!(Node::decode(ROOT), Err(ManifestError::BadMagic("node")));
    let mut newer = NODE.to_vec();
    newer[7] = 2;
    assert_eq!(Node::decode(&newer), Err(ManifestError::BadMagic("node")));
}

#[test]
fn absurd_counts_take_no_memory() {
    let mut many = b"sosnode\x01".to_vec();
    many.extend(u32::MAX.to_le_bytes());
    assert!(matches!(
        Node::decode(&many),
        Err(ManifestError::Truncated(_))
    ));
    many.extend([1, 0, b'a']);
    assert!(matches!(
        Node::decode(&many),
        Err(ManifestError::Truncated(_))
    ));
    let mut value = ROOT.to_vec();
    let at = ROOT.windows(6).position(|w| w == b"user.k").unwrap() + 6;
    value[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        Root::decode(&value),
        Err(ManifestError::Truncated(_))
    ));
}

/// What is not allowed is refused by checking and, once encoded anyway, by decoding.
#[track_caller]
fn refused(node: &Node, expect: &ManifestError) {
    assert_eq!(node.check().as_ref(), Err(expect));
    assert!(Node::decode(&node.encode()).is_err());
}

#[test]
fn names_that_are_refused() {
    let fifo = |name: &[u8]| entry(name, Meta::default(), Kind::Fifo);
    for name in [
        &b""[..],
        b".",
        b"..",
        b"/",
        b"a/b",
        b"/a",
        b"a/",
        b"a\0",
        b"\0",
        &[b'a'; 256],
    ] {
        let node = Node {
            entries: vec![fifo(name)],
        };
        let expect = ManifestError::BadName(name.to_vec());
        refused(&node, &expect);
        assert_eq!(Node::new(node.entries).unwrap_err(), expect);
        assert_eq!(check_name(name), Err(expect));
    }
    let longest = [b'a'; 255];
    for name in [&b"..."[..], b".a", b"..a", b" ", b"\n", b"\xff", &longest] {
        let node = Node {
            entries: vec![fifo(name)],
        };
        assert_eq!(Node::decode(&node.encode()), Ok(node));
    }
    for (a, b) in [("b", "a"), ("a", "a"), ("ab", "a")] {
        let node = Node {
            entries: vec![fifo(a.as_bytes()), fifo(b.as_bytes())],
        };
        refused(&node, &ManifestError::NotSorted(b.into()));
    }
    let twice = vec![fifo(b"a"), fifo(b"b"), fifo(b"a")];
    assert_eq!(
        Node::new(twice),
        Err(ManifestError::NotSorted(b"a".to_vec()))
    );
    // So long that the length does not fit its field.
    let node = Node {
        entries: vec![fifo(&[b'a'; 70_000])],
    };
    refused(&node, &ManifestError::BadName(vec![b'a'; 70_000]));
}

#[test]
fn targets_that_are_refused() {
    for target in [&b""[..], b"a\0b", &[b't'; 4096]] {
        let target = target.to_vec();
        let kind = Kind::Symlink {
            target: target.clone(),
        };
        let node = Node {
            entries: vec![entry(b"l", Meta::default(), kind)],
        };
        refused(&node, &ManifestError::BadTarget(target));
    }
    check_target(&[b't'; 4095]).unwrap();
}

#[test]
fn metadata_that_is_refused() {
    let with = |change: &dyn Fn(&mut Meta)| {
        let mut meta = Meta::default();
        change(&mut meta);
        let root = Root {
            meta: meta.clone(),
            node: Blake3([0; 32]),
        };
        assert!(Root::decode(&root.encode()).is_err());
        Node {
            entries: vec![entry(b"f", meta, Kind::Fifo)],
        }
    };
    refused(
        &with(&|m| m.mode = 0o10000),
        &ManifestError::BadMode(0o10000),
    );
    refused(
        &with(&|m| m.mode = u16::MAX),
        &ManifestError::BadMode(u16::MAX),
    );
    let second = 1_000_000_000;
    refused(
        &with(&|m| m.mtime_nsecs = second),
        &ManifestError::BadNanoseconds(second),
    );
    for key in [&b""[..], b"a\0", &[b'k'; 256]] {
        let node = with(&|m| {
            m.xattrs.insert(key.to_vec(), Vec::new());
        });
        refused(&node, &ManifestError::BadXattrKey(key.to_vec()));
    }
    let node = with(&|m| {
        m.xattrs.insert(b"k".to_vec(), vec![0; 65537]);
    });
    refused(&node, &ManifestError::LargeXattr(65537));
    let node = with(&|m| {
        m.xattrs
            .extend((0..1025u32).map(|i| (i.to_string().into_bytes(), Vec::new())));
    });
    refused(&node, &ManifestError::ManyXattrs(1025));
}

#[test]
fn forms_that_only_bytes_can_have() {
    // Xattrs out of order: swap the two keys' first letters, which leaves all lengths right.
    let mut bytes = NODE.to_vec();
    let security = NODE.windows(9).position(|w| w == b"security.").unwrap();
    bytes[security] = b'z';
    assert!(matches!(
        Node::decode(&bytes),
        Err(ManifestError::XattrNotSorted(_))
    ));
    // An unknown kind.
    let fifo = Node {
        entries: vec![entry(b"f", Meta::default(), Kind::Fifo)],
    };
    for kind in [0, 8, 255] {
        let mut bytes = fifo.encode();
        *bytes.last_mut().unwrap() = kind;
        assert_eq!(Node::decode(&bytes), Err(ManifestError::BadKind(kind)));
    }
    // Fewer entries than there are.
    let mut bytes = fifo.encode();
    bytes[8] = 0;
    assert!(matches!(
        Node::decode(&bytes),
        Err(ManifestError::TrailingBytes(_))
    ));
}

fn kind() -> impl Strategy<Value = Kind> {
    let blob = || any::<[u8; 32]>().prop_map(Blake3);
    prop_oneof![
        (any::<u64>(), blob(), any::<Option<[u8; 16]>>()).prop_map(|(size, blob, hardlink)| {
            Kind::File {
                size,
                blob,
                hardlink,
            }
        }),
        blob().prop_map(|node| Kind::Dir { node }),
        "[ -~]{1,30}".prop_map(|t| Kind::Symlink {
            target: t.into_bytes()
        }),
        Just(Kind::Fifo),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::CharDev { major, minor }),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::BlockDev { major, minor }),
    ]
}

fn metas() -> impl Strategy<Value = Meta> {
    let key = prop::collection::vec(1..=255u8, 1..20);
    let xattrs = prop::collection::btree_map(key, any::<Vec<u8>>(), 0..3);
    (
        0..0o10000u16,
        any::<u32>(),
        any::<u32>(),
        any::<i64>(),
        0..1_000_000_000u32,
        xattrs,
    )
        .prop_map(|(mode, uid, gid, secs, nsecs, xattrs)| Meta {
            xattrs,
            ..meta(mode, uid, gid, secs, nsecs)
        })
}

proptest! {
    #[test]
    fn round_trip(
        entries in prop::collection::btree_map("[!-.0-~]{3,9}", (metas(), kind()), 0..8),
        meta in metas(),
    ) {
        let entries: Vec<Entry> =
            entries.into_iter().map(|(n, (m, k))| entry(n.as_bytes(), m, k)).filter(|e| e.name != b"..").collect();
        let node = Node::new(entries).unwrap();
        let root = Root { meta, node: node.id() };
        prop_assert_eq!(Root::decode(&root.encode()), Ok(root));
        prop_assert_eq!(Node::decode(&node.encode()), Ok(node));
    }

    #[test]
    fn what_is_read_is_canonical(at in 0..NODE.len(), byte: u8) {
        let mut bytes = NODE.to_vec();
        bytes[at] = byte;
        if let Ok(node) = Node::decode(&bytes) {
            prop_assert_eq!(node.encode(), bytes);
        }
    }
}
