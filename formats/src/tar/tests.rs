use std::io::{self, Read};

use proptest::prelude::*;

use super::*;

const USTAR: &[u8] = include_bytes!("../../tests/fixtures/tar/ustar.tar");
const GNU: &[u8] = include_bytes!("../../tests/fixtures/tar/gnu.tar");
const PAX: &[u8] = include_bytes!("../../tests/fixtures/tar/pax.tar");
const V7: &[u8] = include_bytes!("../../tests/fixtures/tar/v7.tar");

type Item = (Entry, Vec<u8>);

fn read_all(bytes: &[u8]) -> Result<Vec<Item>, TarError> {
    let mut reader = Reader::new(bytes);
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        if let Err(cause) = reader.read_to_end(&mut data) {
            // What is missing in the data is also missed by the reader itself.
            assert_eq!(cause.kind(), io::ErrorKind::UnexpectedEof);
            reader.next_entry()?;
        }
        out.push((entry, data));
    }
    Ok(out)
}

fn write_all(items: &[Item]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in items {
        writer.append(entry, &mut data.as_slice()).unwrap();
    }
    writer.finish().unwrap()
}

#[track_caller]
fn refused(bytes: &[u8]) -> TarProblem {
    match read_all(bytes) {
        Err(TarError::Malformed { problem, offset }) => {
            assert!(offset <= bytes.len() as u64);
            problem
        }
        other => panic!("{other:?}"),
    }
}

fn file(path: &[u8]) -> Entry {
    Entry {
        path: path.to_vec(),
        mode: 0o644,
        mtime_secs: 1,
        ..Entry::default()
    }
}

fn link(kind: EntryKind, path: &[u8], target: &[u8]) -> Entry {
    Entry {
        kind,
        link: target.to_vec(),
        ..file(path)
    }
}

/// One block with a right checksum.
fn raw_header(kind: u8, path: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut block = write_all(&[(file(b"x"), Vec::new())]);
    block.truncate(BLOCK_LEN);
    block[0] = 0;
    block[..path.len()].copy_from_slice(path);
    block[156] = kind;
    change(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

/// A header of a type, with data, and an entry after it.
fn with_extra(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut out = raw_header(kind, b"extra", |h| {
        h[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    });
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(BLOCK_LEN), 0);
    out.extend(write_all(&[(file(b"plain"), Vec::new())]));
    out
}

// `tar --format=ustar --numeric-owner --mtime=@1 -b1` of GNU tar 1.34: entry by entry the same bytes.
#[test]
fn ustar_of_gnu_tar_byte_for_byte() {
    let items = read_all(USTAR).unwrap();
    let shown: Vec<String> = items
        .iter()
        .map(|(e, d)| {
            let (path, link) = (e.path.escape_ascii(), e.link.escape_ascii());
            let path: String = path.to_string().chars().take(14).collect();
            let (kind, mode, uid, gid) = (e.kind, e.mode, e.uid, e.gid);
            let (major, minor, len) = (e.major, e.minor, d.len());
            format!("{kind:?} {path} {mode:o} {uid}:{gid} {major},{minor} {len} {link}")
        })
        .collect();
    assert_eq!(
        shown,
        [
            "Dir usr 755 0:0 0,0 0 ",
            "Dir usr/bin 2755 1000:50 0,0 0 ",
            "File usr/bin/hello 4755 0:0 0,0 21 ",
            "Hardlink usr/bin/again 4755 0:0 0,0 0 usr/bin/hello",
            "Symlink usr/bin/hi 777 0:0 0,0 0 ../bin/hello",
            "CharDev dev/null 666 0:0 1,3 0 ",
            "BlockDev dev/sda 660 0:6 8,0 0 ",
            "Fifo run/fifo 600 0:0 0,0 0 ",
            "File empty 644 0:0 0,0 0 ",
            "File block 400 0:0 0,0 512 ",
            "File dddddddddddddd 644 0:0 0,0 5 ",
        ]
    );
    assert_eq!(write_all(&items), USTAR);
}

// Written by Python 3.11 `tarfile`, in its GNU format.
#[test]
fn gnu_long_names_and_numbers() {
    let items = read_all(GNU).unwrap();
    assert_eq!(items[0].0.path, [b'l'; 150]);
    assert_eq!(items[0].1, b"long name");
    assert_eq!(items[1].0.path, [b"a/".as_slice(), &[b't'; 120]].concat());
    assert_eq!(items[1].0.link, [b"b/".as_slice(), &[b'k'; 130]].concat());
    assert_eq!((items[2].0.uid, items[2].0.gid), (3_000_000, 4_000_000));
    assert_eq!(items[3].0.mtime_secs, -10);
    assert_eq!(items[4].0.path, "é".as_bytes());
    assert_eq!(items.len(), 5);
}

// Written by Python 3.11 `tarfile`, in its pax format, with a global header.
#[test]
fn pax_says_the_same_and_more() {
    let gnu = read_all(GNU).unwrap();
    let pax = read_all(PAX).unwrap();
    assert_eq!(pax[..5], gnu);
    let caps = &pax[5].0;
    assert_eq!(caps.mtime_secs, 1);
    let key = b"security.capability".as_slice();
    assert_eq!(caps.xattrs[key], b"\x01\0=\n");
    assert_eq!(pax[6].0.xattrs[b"user.a-b c".as_slice()], b"hi");
    assert_eq!(pax[7].0.mtime_secs, -2);
    assert_eq!(pax.len(), 8);
    let again = write_all(&pax);
    assert_eq!(read_all(&again).unwrap(), pax);
}

#[test]
fn global_records_are_passed_by_where_nobody_else_heeds_them() {
    let mut records = Vec::new();
    write::record(&mut records, b"mtime", b"77");
    write::record(&mut records, b"path", b"elsewhere");
    let bytes = with_extra(b'g', &records);
    let first = |mut reader: Reader<&[u8]>| reader.next_entry().unwrap().unwrap();
    let heeded = first(Reader::new(&bytes[..]));
    assert_eq!(
        (heeded.path, heeded.mtime_secs),
        (b"elsewhere".to_vec(), 77)
    );
    let passed_by = first(Reader::new(&bytes[..]).without_globals());
    assert_eq!(
        (passed_by.path, passed_by.mtime_secs),
        (b"plain".to_vec(), 1)
    );
    // They are looked at all the same.
    let damaged = with_extra(b'g', b"1 ");
    let mut reader = Reader::new(&damaged[..]).without_globals();
    assert!(reader.next_entry().is_err());
}

#[test]
fn v7_of_gnu_tar() {
    let items = read_all(V7).unwrap();
    let paths: Vec<_> = items
        .iter()
        .map(|(e, _)| (e.path.as_slice(), e.kind, e.link.as_slice()))
        .collect();
    assert_eq!(
        paths,
        [
            (&b"dir"[..], EntryKind::Dir, &b""[..]),
            (b"dir/file", EntryKind::File, b""),
            (b"dir/hard", EntryKind::Hardlink, b"dir/file"),
            (b"dir/soft", EntryKind::Symlink, b"file"),
        ]
    );
    assert_eq!(items[1].1, b"hi\n");
}

#[test]
fn pax_header_byte_for_byte() {
    let mut entry = file("é".as_bytes());
    entry.xattrs.insert(b"user.k".to_vec(), b"a=b\0".to_vec());
    let bytes = write_all(&[(entry, Vec::new())]);
    assert_eq!(bytes.len(), 5 * BLOCK_LEN);
    assert!(bytes.starts_with(b"././@PaxHeader\0"));
    assert_eq!(bytes[156], b'x');
    let records = b"28 SCHILY.xattr.user.k=a=b\0\n11 path=\xc3\xa9\n";
    assert_eq!(bytes[BLOCK_LEN..BLOCK_LEN + records.len()], records[..]);
    assert!(bytes[2 * BLOCK_LEN..].starts_with(b"__\0"));
}

#[test]
fn pax_only_when_needed() {
    let blocks = |entry: Entry| write_all(&[(entry, Vec::new())]).len() / BLOCK_LEN - 2;
    let plain = |path: &[u8]| blocks(file(path));
    let slashed = |a: usize, b: usize| [vec![b'a'; a], b"/".to_vec(), vec![b'b'; b]].concat();
    assert_eq!(plain(&[b'a'; 100]), 1);
    assert_eq!(plain(&[b'a'; 101]), 3);
    assert_eq!(plain(&slashed(155, 100)), 1);
    assert_eq!(plain(&slashed(156, 100)), 3);
    assert_eq!(plain(&slashed(155, 101)), 3);
    assert_eq!(plain(b"caf\xe9"), 3);
    let dir = |path: Vec<u8>| {
        blocks(Entry {
            kind: EntryKind::Dir,
            ..file(&path)
        })
    };
    assert_eq!(dir(vec![b'a'; 99]), 1);
    assert_eq!(dir(vec![b'a'; 100]), 3);
    assert_eq!(dir(slashed(155, 99)), 1);
    assert_eq!(dir(slashed(155, 100)), 3);
    assert_eq!(blocks(link(EntryKind::Symlink, b"l", &[b'a'; 100])), 1);
    assert_eq!(blocks(link(EntryKind::Symlink, b"l", &[b'a'; 101])), 3);
    assert_eq!(blocks(link(EntryKind::Symlink, b"l", b"\xff")), 3);
    for (uid, gid, mtime_secs, n) in [
        (2_097_151, 2_097_151, 0o77_777_777_777, 1),
        (2_097_152, 0, 0, 3),
        (0, 2_097_152, 0, 3),
        (0, u32::MAX, 0, 3),
        (0, 0, -1, 3),
        (0, 0, 0o100_000_000_000, 3),
    ] {
        let entry = Entry {
            uid,
            gid,
            mtime_secs,
            ..file(b"f")
        };
        assert_eq!(blocks(entry.clone()), n, "{entry:?}");
        let read = read_all(&write_all(&[(entry.clone(), Vec::new())])).unwrap();
        assert_eq!(read[0].0, entry);
    }
}

#[test]
fn sizes_of_8_gib() {
    struct Count(u64);
    impl io::Write for Count {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0 += buf.len() as u64;
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    // Only headers are looked at: the data ends too early on purpose.
    let header = |size: u64| {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        let entry = Entry {
            size,
            ..file(b"big")
        };
        let result = writer.append(&entry, &mut io::empty());
        assert!(matches!(result, Err(TarError::SizeChanged { .. })));
        out
    };
    assert_eq!(header((8 << 30) - 1).len(), BLOCK_LEN);
    let large = header(8 << 30);
    assert_eq!(large.len(), 3 * BLOCK_LEN);
    assert!(large[BLOCK_LEN..].starts_with(b"19 size=8589934592\n"));
    let entry = Reader::new(&large[..]).next_entry().unwrap().unwrap();
    assert_eq!(entry.size, 8 << 30);
    let mut writer = Writer::new(Count(0));
    let entry = Entry {
        size: 100_000,
        ..file(b"some")
    };
    writer
        .append(&entry, &mut io::repeat(7).take(100_000))
        .unwrap();
    assert_eq!(writer.finish().unwrap().0, 512 + 100_352 + 1024);
}

#[test]
fn the_root_is_a_dot() {
    let root = Entry {
        kind: EntryKind::Dir,
        ..file(b"")
    };
    let bytes = write_all(&[(root.clone(), Vec::new())]);
    assert!(bytes.starts_with(b"./\0"));
    assert_eq!(read_all(&bytes).unwrap()[0].0, root);
}

#[test]
fn the_writer_refuses() {
    let problem = |entry: &Entry| match Writer::new(io::sink()).append_empty(entry) {
        Err(TarError::Unwritable { problem, .. }) => problem,
        other => panic!("{other:?} for {entry:?}"),
    };
    for path in [
        &b""[..],
        b"/",
        b"/a",
        b"a/",
        b"a//b",
        b".",
        b"./a",
        b"a/./b",
        b"..",
        b"../a",
        b"a/..",
        b"a\0",
    ] {
        assert_eq!(problem(&file(path)), TarProblem::BadPath(path.to_vec()));
        let hard = link(EntryKind::Hardlink, b"h", path);
        assert_eq!(problem(&hard), TarProblem::BadLink(path.to_vec()));
    }
    for target in [&b""[..], b"a\0"] {
        let soft = link(EntryKind::Symlink, b"s", target);
        assert_eq!(problem(&soft), TarProblem::BadLink(target.to_vec()));
    }
    let entry = Entry {
        kind: EntryKind::Dir,
        size: 1,
        ..file(b"d")
    };
    assert_eq!(problem(&entry), TarProblem::DataOnOther);
    let entry = Entry {
        mode: 0o10_000,
        ..file(b"d")
    };
    assert_eq!(problem(&entry), TarProblem::BadMode(0o10_000));
    let entry = Entry {
        size: u64::MAX,
        ..file(b"d")
    };
    assert_eq!(problem(&entry), TarProblem::BadNumber("size"));
    let entry = Entry {
        kind: EntryKind::CharDev,
        minor: 2_097_152,
        ..file(b"d")
    };
    assert_eq!(problem(&entry), TarProblem::BadNumber("device number"));
    for key in [&b""[..], b"a=b", b"a\0"] {
        let entry = Entry {
            xattrs: [(key.to_vec(), Vec::new())].into(),
            ..file(b"x")
        };
        assert_eq!(problem(&entry), TarProblem::BadXattr(key.to_vec()));
    }
    let entry = Entry {
        xattrs: [(b"k".to_vec(), vec![0; 1 << 20])].into(),
        ..file(b"x")
    };
    assert!(matches!(problem(&entry), TarProblem::LargeExtra(_)));
    for (size, data) in [(3, &b"four"[..]), (5, b"four"), (0, b"four"), (1, b"")] {
        let entry = Entry { size, ..file(b"f") };
        let result = Writer::new(io::sink()).append(&entry, &mut &*data);
        assert!(matches!(result, Err(TarError::SizeChanged { .. })));
    }
}

#[test]
fn paths_that_slip_are_refused() {
    for bad in [
        &b".."[..],
        b"../a",
        b"a/..",
        b"a/../../b",
        b"./../a",
        b"/..",
        b"//../a",
        b"/../../etc/passwd",
    ] {
        let block = raw_header(b'0', bad, |_| ());
        assert_eq!(refused(&block), TarProblem::BadPath(bad.to_vec()));
        let hard = raw_header(b'1', b"h", |h| h[157..157 + bad.len()].copy_from_slice(bad));
        assert_eq!(refused(&hard), TarProblem::BadLink(bad.to_vec()));
        let long = with_extra(b'L', bad);
        assert_eq!(refused(&long), TarProblem::BadPath(bad.to_vec()));
    }
    assert!(matches!(
        refused(&with_extra(b'L', b"a\0b\0")),
        TarProblem::BadPath(_)
    ));
    assert!(matches!(
        refused(&with_extra(b'x', b"12 path=a\0b\n")),
        TarProblem::BadPath(_)
    ));
    assert!(matches!(
        refused(&with_extra(b'x', b"14 path=a/../\n")),
        TarProblem::BadPath(_)
    ));
    // No path at all, or the root as a file.
    assert!(matches!(
        refused(&raw_header(b'0', b"", |_| ())),
        TarProblem::BadPath(_)
    ));
    assert!(matches!(
        refused(&raw_header(b'2', b"./", |_| ())),
        TarProblem::BadPath(_)
    ));
    assert!(matches!(
        refused(&raw_header(b'1', b"h", |_| ())),
        TarProblem::BadLink(_)
    ));
    assert!(matches!(
        refused(&raw_header(b'2', b"s", |_| ())),
        TarProblem::BadLink(_)
    ));
}

#[test]
fn paths_come_out_in_one_form() {
    for (given, expect) in [
        (&b"a"[..], &b"a"[..]),
        (b"./a", b"a"),
        (b"/etc/passwd", b"etc/passwd"),
        (b".//a/./b", b"a/b"),
        (b"a...", b"a..."),
        (b"a/..b", b"a/..b"),
    ] {
        let items = read_all(&raw_header(b'0', given, |_| ())).unwrap();
        assert_eq!(
            (items[0].0.path.as_slice(), items[0].0.kind),
            (expect, EntryKind::File)
        );
    }
    for root in [&b"/"[..], b"./", b".", b"././"] {
        let items = read_all(&raw_header(b'5', root, |_| ())).unwrap();
        assert_eq!(
            (items[0].0.path.as_slice(), items[0].0.kind),
            (&b""[..], EntryKind::Dir)
        );
    }
}

#[test]
fn damage_is_refused() {
    use TarProblem as P;
    let good = raw_header(b'0', b"f", |_| ());
    for at in [0, 100, 156, 300, 511] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_eq!(refused(&bad), P::BadChecksum, "{at}");
    }
    assert_eq!(refused(b"not a tar archive"), P::Truncated);
    assert_eq!(refused(&[b'x'; 512]), P::BadChecksum);
    for kind in [b'S', b'V', b'M', b'D', b'N', b'X', b'A', b'9', 0xff] {
        let bytes = raw_header(kind, b"f", |_| ());
        let (kind, path) = (char::from(kind), b"f".to_vec());
        assert_eq!(refused(&bytes), P::UnsupportedKind { kind, path });
    }
    let size = |field: &[u8]| raw_header(b'0', b"f", |h| h[124..136].copy_from_slice(field));
    assert_eq!(refused(&size(b"0000000000x\0")), P::BadNumber("size"));
    assert_eq!(refused(&size(b"0000 00000\0\0")), P::BadNumber("size"));
    assert_eq!(refused(&size(b"00000000009\0")), P::BadNumber("size"));
    assert_eq!(refused(&size(&[0xff; 12])), P::BadNumber("size"));
    assert_eq!(
        refused(&size(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")),
        P::BadNumber("size")
    );
    // The largest size there is: nothing is allocated, nothing overflows.
    assert_eq!(
        refused(&with_extra(b'x', b"28 size=9223372036854775807\n")),
        P::Truncated
    );
    assert_eq!(
        refused(&with_extra(b'x', b"28 size=9223372036854775808\n")),
        P::BadNumber("size")
    );
    let uid = raw_header(b'0', b"f", |h| {
        h[108..116].copy_from_slice(b"\x80\0\0\x01\0\0\0\0");
    });
    assert_eq!(refused(&uid), P::BadNumber("uid"));
    let major = raw_header(b'3', b"f", |h| h[329..337].copy_from_slice(b"zzzzzzz\0"));
    assert_eq!(refused(&major), P::BadNumber("device number"));
}

#[test]
fn extra_headers_are_bounded() {
    use TarProblem as P;
    for kind in *b"xgLK" {
        let large = raw_header(kind, b"e", |h| {
            h[124..136].copy_from_slice(b"77777777777\0");
        });
        assert_eq!(refused(&large), P::LargeExtra((8 << 30) - 1));
        let short = raw_header(kind, b"e", |h| {
            h[124..136].copy_from_slice(b"00000000777\0");
        });
        assert_eq!(refused(&short), P::Truncated);
    }
    // Many small global headers.
    let value = vec![b'v'; 500_000];
    let global = |key: &str| {
        let rest = key.len() + value.len() + 9;
        let record = [
            format!("{rest} {key}=").into_bytes(),
            value.clone(),
            b"\n".to_vec(),
        ]
        .concat();
        let mut bytes = with_extra(b'g', &record);
        bytes.truncate(bytes.len() - 3 * BLOCK_LEN);
        bytes
    };
    let bytes = [global("a"), global("b"), global("c")].concat();
    assert!(matches!(refused(&bytes), P::LargeExtra(_)));
    // Nothing follows.
    for kind in *b"xLK" {
        let mut lone = with_extra(kind, b"");
        lone.truncate(BLOCK_LEN);
        assert_eq!(refused(&lone), P::LoneExtra);
        lone.extend([0; 1024]);
        assert_eq!(refused(&lone), P::LoneExtra);
    }
}

#[test]
fn malformed_pax_records() {
    for bad in [
        &b"x"[..],
        b"11 path=aa",
        b"12 path=aa\n",
        b"10 path=aa\n",
        b"99 path=aa\n",
        b"0 path=aa\n",
        b"-1 path=a\n",
        b" path=aa\n",
        b"8 path\nx\n",
        b"7 patha\n",
        b"6 =abc\n",
        b"99999999 path=aa\n",
        b"18446744073709551616 a=b\n",
        b"3 \n",
        b"2 ",
        b"1 ",
        b"\n",
    ] {
        for kind in *b"xg" {
            assert_eq!(
                refused(&with_extra(kind, bad)),
                TarProblem::BadPax,
                "{}",
                bad.escape_ascii()
            );
        }
    }
    let record = |key: &str, value: &str| {
        let mut records = Vec::new();
        write::record(&mut records, key.as_bytes(), value.as_bytes());
        with_extra(b'x', &records)
    };
    for (key, value) in [
        ("uid", "x"),
        ("uid", "-1"),
        ("uid", "4294967296"),
        ("gid", "4 4"),
        ("gid", "+4"),
        ("mtime", "-"),
        ("mtime", "."),
        ("mtime", "1.-5"),
        ("size", "1e3"),
        ("size", "-1"),
        ("mtime", "-9223372036854775808.5"),
    ] {
        assert_eq!(
            refused(&record(key, value)),
            TarProblem::BadNumber(key),
            "{key}={value}"
        );
    }
    // One without a value is none, as for Go's reader.
    for key in ["SCHILY.xattr.user.e", "LIBARCHIVE.xattr.user.e"] {
        let read = read_all(&record(key, "")).unwrap();
        assert!(read[0].0.xattrs.is_empty(), "{key}");
    }
    // An empty value falls back to the header.
    assert_eq!(read_all(&record("mtime", "")).unwrap()[0].0.mtime_secs, 1);
    for (key, value) in [
        ("SCHILY.xattr.", "v"),
        ("SCHILY.xattr.a\0", "v"),
        ("LIBARCHIVE.xattr.a", "***"),
        ("LIBARCHIVE.xattr.", "aGk="),
        ("LIBARCHIVE.xattr.a%", "aGk="),
        ("LIBARCHIVE.xattr.a%4", "aGk="),
        ("LIBARCHIVE.xattr.a%zz", "aGk="),
        ("LIBARCHIVE.xattr.a%00", "aGk="),
    ] {
        assert!(
            matches!(refused(&record(key, value)), TarProblem::BadXattr(_)),
            "{key}"
        );
    }
    let sparse = refused(&record("GNU.sparse.major", "1"));
    assert_eq!(
        sparse.to_string(),
        "\"plain\" is of type 'S' (a sparse file), which is not supported"
    );
}

#[test]
fn ends() {
    let whole = write_all(&[
        (file(b"a"), Vec::new()),
        (
            Entry {
                size: 3,
                ..file(b"b")
            },
            b"abc".to_vec(),
        ),
    ]);
    let n = whole.len();
    // Without one or both end blocks, without the last padding, with more zeros.
    for bytes in [
        &whole[..],
        &whole[..n - 512],
        &whole[..n - 1024],
        &whole[..n - 1024 - 509],
    ] {
        assert_eq!(read_all(bytes).unwrap().len(), 2);
    }
    let mut more = whole.clone();
    more.resize(n + 10_001, 0);
    assert_eq!(read_all(&more).unwrap().len(), 2);
    more.push(1);
    assert_eq!(refused(&more), TarProblem::DataAfterEnd);
    // Within data, padding, header.
    for end in [n - 1024 - 510, n - 1024 - 512, n - 1025] {
        let mut reader = Reader::new(&whole[..end]);
        reader.next_entry().unwrap();
        reader.next_entry().unwrap();
        assert!(reader.next_entry().is_err(), "{end}");
        assert!(matches!(reader.next_entry(), Ok(None)));
    }
    assert_eq!(refused(&whole[..700]), TarProblem::Truncated);
    assert!(read_all(b"").unwrap().is_empty());
    assert!(read_all(&[0; 512]).unwrap().is_empty());
}

#[test]
fn data_is_skipped_and_ends_early_as_an_error() {
    let mut reader = Reader::new(USTAR);
    let mut n = 0;
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut one = [0];
        assert_eq!(reader.read(&mut one).unwrap() as u64, entry.size.min(1));
        n += 1;
    }
    assert_eq!(n, 11);
    let whole = write_all(&[(
        Entry {
            size: 3,
            ..file(b"b")
        },
        b"abc".to_vec(),
    )]);
    let mut reader = Reader::new(&whole[..514]);
    reader.next_entry().unwrap();
    let mut data = Vec::new();
    let error = reader.read_to_end(&mut data).unwrap_err();
    assert_eq!(
        (data.as_slice(), error.kind()),
        (&b"ab"[..], io::ErrorKind::UnexpectedEof)
    );
}

fn item() -> impl Strategy<Value = Item> {
    let part = prop::collection::vec(any::<u8>(), 1..60)
        .prop_map(|v| {
            v.into_iter()
                .map(|b| if b == 0 || b == b'/' { b'_' } else { b })
                .collect::<Vec<u8>>()
        })
        .prop_filter("dots", |p| p != b"." && p != b"..");
    let path = prop::collection::vec(part, 1..5).prop_map(|parts| parts.join(&b'/'));
    let numbers = (
        0..0o10_000u16,
        any::<u32>(),
        any::<u32>(),
        any::<i64>(),
        0..0o10_000_000u32,
    );
    let xattrs = prop::collection::btree_map(
        "[a-z.]{1,9}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 1..100),
        0..3,
    );
    let data = prop::collection::vec(any::<u8>(), 0..1100);
    (path.clone(), path, 0..7usize, numbers, xattrs, data).prop_map(
        |(path, link, kind, (mode, uid, gid, mtime_secs, dev), xattrs, data)| {
            use EntryKind::*;
            let kind = [File, Hardlink, Symlink, CharDev, BlockDev, Dir, Fifo][kind];
            let data = if kind == File { data } else { Vec::new() };
            let has_link = matches!(kind, Hardlink | Symlink);
            let has_device = matches!(kind, CharDev | BlockDev);
            let entry = Entry {
                path,
                kind,
                mode,
                uid,
                gid,
                mtime_secs,
                xattrs,
                size: data.len() as u64,
                link: if has_link { link } else { Vec::new() },
                major: if has_device { dev } else { 0 },
                minor: if has_device { dev / 2 } else { 0 },
            };
            (entry, data)
        },
    )
}

proptest! {
    #[test]
    fn round_trip(items in prop::collection::vec(item(), 0..6)) {
        let bytes = write_all(&items);
        prop_assert_eq!(bytes.len() % BLOCK_LEN, 0);
        prop_assert_eq!(read_all(&bytes).unwrap(), items);
    }
}
