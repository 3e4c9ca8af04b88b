//! A real distribution as root filesystem: `SOS_TEST_ROOTFS_TAR` names a tar archive of a Debian one.

use std::fs::File;
use std::io::{BufReader, Read};
use std::time::Instant;

use sos_engine::sandbox::Exit;
use sos_formats::hash::Blake3;
use sos_formats::manifest::Meta;
use sos_formats::tar::{EntryKind, Reader};
use sos_store::rootfs::{FileSpec, RootTree, SpecKind};

use crate::support::{Lab, meta};

pub(crate) const TESTS: &[(&str, fn())] = &[("debian::packages_are_changed_twice_alike", packages)];

fn import(lab: &Lab, tar: &str) -> Blake3 {
    let mut reader = Reader::new(BufReader::new(File::open(tar).unwrap()));
    let mut tree = RootTree::empty_in(&lab.store, meta(0o755));
    while let Some(entry) = reader.next_entry().unwrap() {
        let text = String::from_utf8(entry.path.clone()).unwrap();
        let path = text.trim_start_matches("./").trim_end_matches('/');
        let meta = Meta {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime_secs: entry.mtime_secs,
            mtime_nsecs: 0,
            xattrs: entry.xattrs.clone(),
        };
        let kind = match entry.kind {
            EntryKind::File => {
                let (blob, size) = lab.store.put_blob(&mut reader as &mut dyn Read).unwrap();
                SpecKind::File {
                    size,
                    blob,
                    hardlink: None,
                }
            }
            EntryKind::Dir => SpecKind::Dir,
            EntryKind::Symlink => SpecKind::Symlink {
                target: entry.link.clone(),
            },
            EntryKind::Hardlink => {
                let link = String::from_utf8(entry.link.clone()).unwrap();
                tree.link(link.trim_start_matches("./"), path).unwrap();
                continue;
            }
            EntryKind::CharDev => SpecKind::CharDev {
                major: entry.major,
                minor: entry.minor,
            },
            other => panic!("{other:?}"),
        };
        tree.insert(path, FileSpec { meta, kind }).unwrap();
    }
    tree.finish(&lab.store).unwrap()
}

fn packages() {
    #[allow(clippy::disallowed_methods, reason = "the switch of this test")]
    let Ok(tar) = std::env::var("SOS_TEST_ROOTFS_TAR") else {
        println!("skipped: SOS_TEST_ROOTFS_TAR is not set");
        return;
    };
    let mut results = Vec::new();
    for _ in 0..2 {
        let lab = Lab::new();
        let begin = Instant::now();
        let root = import(&lab, &tar);
        println!("import {:?}", begin.elapsed());
        let step = |what: &str, root: Blake3, script: &str| {
            let begin = Instant::now();
            let (outcome, log) = lab.run(&lab.plan(root, script));
            println!("{what} {:?}", begin.elapsed());
            assert_eq!(outcome.exit, Exit::Code(0), "{log}");
            (outcome.root.unwrap(), log)
        };
        assert_eq!(step("first, nothing changes", root, "true").0, root);
        assert_eq!(step("second, nothing changes", root, "true").0, root);
        let script = "dpkg --audit; dpkg-reconfigure -f noninteractive debconf 2>&1; adduser --system --group --home /var/lib/svc svc 2>&1
             install -o svc -g svc -m 2750 -d /srv/data; ln -s data /srv/link; update-alternatives --install /usr/bin/thing thing /bin/true 5 2>&1
             rm -r /usr/share/doc/bash; dpkg -P --force-all adduser 2>&1; ldconfig; passwd -l root 2>&1;
             rm -f /var/log/*.log /var/cache/ldconfig/aux-cache;  stat -c '%a %U' /bin/su /usr/bin/passwd";
        let (changed, log) = step("packages", root, script);
        assert!(log.ends_with("4755 root\n4755 root\n"), "{log}");
        let (_, log) = step(
            "look",
            changed,
            "id svc; stat -c '%a %U:%G %Y' /srv/data; su -s /bin/sh svc -c 'touch /srv/data/x; id -un'",
        );
        assert!(log.contains("2750 svc:svc 1700000000\nsvc\n"), "{log}");
        let gone = lab.load(&changed);
        assert!(gone.get("usr/share/doc/bash").unwrap().is_none());
        results.push((root, changed));
    }
    assert_eq!(results[0], results[1]);
    println!("{:?}", results[0]);
}
