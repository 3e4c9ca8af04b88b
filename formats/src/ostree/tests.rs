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
