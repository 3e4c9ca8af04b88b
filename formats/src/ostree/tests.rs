use super::*;

/// Checksums are those that `ostree show` and `ostree ls -C` of libostree 2022.7 give.
#[test]
fn the_usual_directory() {
    let meta = dirmeta(0, 0, 0o040_755, &Xattrs::new());
    assert_eq!(
        Sha256::of(&meta).to_string(),
        "446a0ef11b7cc167f3b603e585c7eeeeb675faa412d5ec73f62988eb0b6c5488"
    );
}

#[test]
fn the_empty_tree() {
    assert_eq!(
        Sha256::of(&DirTree::new().encode()).to_string(),
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    );
}

#[test]
fn commits_are_read_again() {
    let mut commit = Commit {
        metadata: BTreeMap::from([
            ("version".to_owned(), Variant::Text("1.2".into())),
            ("ostree.bootable".to_owned(), Variant::Bool(true)),
        ]),
        parent: None,
        subject: "a subject".into(),
        body: String::new(),
        timestamp: 1_700_000_000,
        tree: Sha256::of(b"tree"),
        meta: Sha256::of(b"meta"),
    };
    for parent in [None, Some(Sha256::of(b"parent"))] {
        commit.parent = parent;
        let view = CommitView::decode(&commit.encode()).expect("a commit");
        assert_eq!(view.parent, parent);
        assert_eq!(view.subject, "a subject");
        assert_eq!(view.timestamp, 1_700_000_000);
        assert_eq!(view.version.as_deref(), Some("1.2"));
        assert!(view.bootable && view.linux.is_none());
        assert_eq!((view.tree, view.meta), (commit.tree, commit.meta));
    }
}

#[test]
fn cut_commits_are_refused() {
    let commit = Commit {
        metadata: BTreeMap::new(),
        parent: Some(Sha256::of(b"p")),
        subject: "s".into(),
        body: "b".into(),
        timestamp: 1,
        tree: Sha256::of(b"t"),
        meta: Sha256::of(b"m"),
    };
    let bytes = commit.encode();
    for len in 0..bytes.len() {
        assert!(CommitView::decode(&bytes[..len]).is_err(), "{len}");
    }
}

#[test]
fn a_link_has_no_content() {
    let xattrs = Xattrs::new();
    let header = FileHeader {
        uid: 0,
        gid: 0,
        mode: MODE_SYMLINK,
        target: "usr/bin",
        xattrs: &xattrs,
    };
    let framed = header.framed();
    assert_eq!(framed[..8], [0, 0, 0, 25, 0, 0, 0, 0]);
    assert_eq!(framed.len(), 33);
}

#[test]
fn objects_lie_below_two_digits() {
    let (dir, name) = object_name(&Sha256([0xab; 32]), ObjectKind::Filez);
    assert_eq!(dir, "ab");
    assert_eq!(name, format!("{}.filez", "ab".repeat(31)));
}

/// What libostree wrote: `ostree commit` of a file with an xattr, and `user.ostreemeta` of a bare-user repository.
#[test]
fn objects_are_read_as_libostree_writes_them() {
    let meta = crate::hash::decode_hex("0000000000000000000081a4757365722e7a3d00613d62080c");
    let read = read_dirmeta(&meta.expect("hexadecimal")).expect("attributes");
    assert_eq!((read.uid, read.gid, read.mode), (0, 0, 0o100_644));
    let expected = Xattrs::from([(b"user.z=".to_vec(), b"a=b".to_vec())]);
    assert_eq!(read.xattrs, expected);

    let mut tree = DirTree::new();
    tree.file("a", Sha256::of(b"a"));
    tree.dir("b", Sha256::of(b"b"), Sha256::of(b"m"));
    let view = read_dirtree(&tree.encode()).expect("a tree");
    assert_eq!(view.files["a"], Sha256::of(b"a"));
    assert_eq!(view.dirs["b"], (Sha256::of(b"b"), Sha256::of(b"m")));

    let xattrs = Xattrs::from([
        (b"user.a".to_vec(), vec![0; 300]),
        (b"user.b".to_vec(), vec![]),
    ]);
    let header = FileHeader {
        uid: 3_000_000,
        gid: 7,
        mode: MODE_SYMLINK,
        target: "../x",
        xattrs: &xattrs,
    };
    let (frame, bytes) = header.framed().split_at(FRAME_BYTES).to_owned_pair();
    assert_eq!(read_frame(frame), Ok(bytes.len()));
    let view = read_header(&bytes).expect("a header");
    assert_eq!(
        (view.target.as_str(), &view.attributes.xattrs),
        ("../x", &xattrs)
    );
    let (_, filez) = header
        .framed_filez(77)
        .split_at(FRAME_BYTES)
        .to_owned_pair();
    assert_eq!(read_filez_header(&filez), Ok((77, view)));
}

trait OwnedPair {
    fn to_owned_pair(self) -> ([u8; FRAME_BYTES], Vec<u8>);
}

impl OwnedPair for (&[u8], &[u8]) {
    fn to_owned_pair(self) -> ([u8; FRAME_BYTES], Vec<u8>) {
        (self.0.try_into().expect("a frame"), self.1.to_vec())
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["", ".", "..", "a/b"] {
        let mut tree = DirTree::new();
        tree.file(name, Sha256::of(b"a"));
        assert!(read_dirtree(&tree.encode()).is_err(), "{name}");
    }
}

#[test]
fn damaged_objects_never_panic() {
    let xattrs = Xattrs::from([(b"user.a".to_vec(), b"value".to_vec())]);
    let mut tree = DirTree::new();
    tree.file("a", Sha256::of(b"a"));
    tree.dir("b", Sha256::of(b"b"), Sha256::of(b"m"));
    let dict = gvariant::dict([("a", &Variant::ByteArrays(vec![vec![1; 64]]))]);
    let header = FileHeader {
        uid: 1,
        gid: 2,
        mode: TYPE_FILE,
        target: "",
        xattrs: &xattrs,
    };
    for good in [
        dirmeta(1, 2, 3, &xattrs),
        tree.encode(),
        header.framed_filez(5),
        dict,
    ] {
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                for bytes in [&bad[..], &bad[..at]] {
                    let (meta, tree) = (read_dirmeta(bytes), read_dirtree(bytes));
                    let (head, filez) = (read_header(bytes), read_filez_header(bytes));
                    let read = read_dict(bytes).map(|all| {
                        all.values()
                            .filter(|one| read_byte_arrays(one).is_ok())
                            .count()
                    });
                    // Any of them may hold by chance; that all hold of one text cannot be.
                    let all = meta.is_ok() && tree.is_ok() && head.is_ok() && filez.is_ok();
                    assert!(!all || read.is_err(), "{bytes:?}");
                }
            }
        }
    }
}

#[test]
fn deltas_lie_where_libostree_looks() {
    // As `ostree static-delta generate` of libostree 2022.7 named them: base 64 with `_` for `/`.
    let to = Sha256([0xff; 32]);
    let dir = delta_dir(None, &to);
    assert_eq!(dir, format!("deltas/__/{}8", "_".repeat(40)));
    let from = Sha256::of(b"from");
    let dir = delta_dir(Some(&from), &to);
    let mut parts = dir.split('/').skip(1);
    let (first, rest) = (parts.next().expect("two"), parts.next().expect("two"));
    assert_eq!(parse_delta_dir(first, rest), Some((Some(from), to)));
    assert_eq!(parse_delta_dir("ab", "c"), None);
}
