//! What is said of wrong sizes, names, labels and ids of a disk.

use sos_formats::diagnostic::{Diagnostic, SourceFile};

/// Problems of a recipe with a disk, each with what it says at its place and what would help.
fn told(disk: &str) -> Vec<String> {
    let text = format!("suite = \"bookworm\"\n{disk}");
    let file = SourceFile::new("x.rootfs.toml", &*text);
    let (_, found) = super::schema::parse_file(&file, "x");
    let line = |one: Diagnostic| {
        let places = one
            .labels
            .iter()
            .map(|label| format!(" [{}: {}]", &text[label.span.clone()], label.text));
        let places: String = places.collect();
        format!("{}{places} {}", one.message, one.helps.join("; "))
    };
    found.into_iter().map(line).collect()
}

/// The library compares types as words.
#[test]
fn a_type_that_is_written_as_a_uuid_is_the_word_for_it() {
    let own = "0d1e2f30-0000-4000-8000-00000000000a";
    for (written, read) in [
        ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "root"),
        ("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "root"),
        ("C12A7328-f81f-11d2-ba4b-00a0c93ec93b", "esp"),
        ("root-arm64", "root-arm64"),
        (own, own),
    ] {
        let text =
            format!("suite = \"bookworm\"\n[[partition]]\nname = \"p\"\ntype = \"{written}\"\n");
        let file = SourceFile::new("x.rootfs.toml", &*text);
        let (recipe, found) = super::schema::parse_file(&file, "x");
        let Some(recipe) = recipe else {
            panic!("{written}: {found:?}")
        };
        let lowered = super::disk::lower(&recipe.disk, std::path::Path::new("/recipe"));
        let sos_lang::Plain::Attrs(disk) = lowered else {
            panic!("a set")
        };
        let sos_lang::Plain::List(partitions) = &disk["partitions"] else {
            panic!("a list")
        };
        let sos_lang::Plain::Attrs(partition) = &partitions[0] else {
            panic!("a set")
        };
        assert_eq!(partition["type"], crate::plain::text(read), "{written}");
    }
}

#[test]
fn a_wrong_size_says_why_and_what_would_do() {
    for (value, parts) in [
        (
            "\"0\"",
            ["is \"0\": it is too small", "at least \"1M\"", ""],
        ),
        ("0", ["is 0: it is too small", "at least \"1M\"", ""]),
        (
            "-5",
            ["is -5: a size cannot be negative", "expected bytes", ""],
        ),
        (
            "\"-5M\"",
            [
                "is \"-5M\": a size cannot be negative",
                "expected bytes",
                "",
            ],
        ),
        (
            "\"1.5G\"",
            [
                "it is no whole number",
                "K, M, G or T",
                "write `size = \"1536M\"`",
            ],
        ),
        ("1.5", ["it is no whole number", "K, M, G or T", ""]),
        (
            "\"99999999T\"",
            ["no disk is so large", "at most \"1024T\"", ""],
        ),
        (
            "99999999999999999999",
            ["no disk is so large", "at most \"1024T\"", ""],
        ),
        (
            "\"4\"",
            [
                "is \"4\": it is too small",
                "whole MiB",
                "4 MiB are `size = \"4M\"`",
            ],
        ),
        (
            "512",
            [
                "is 512: it is too small",
                "whole MiB",
                "512 MiB are `size = \"512M\"`",
            ],
        ),
        (
            "\"10GB\"",
            ["`GB` is no unit", "K, M, G or T", "write `size = \"10G\"`"],
        ),
        ("\"\"", ["there is no number in it", "K, M, G or T", ""]),
        (
            "\"rest\"",
            ["there is no number in it", "K, M, G or T", "`rest = true`"],
        ),
        ("[ ]", ["must be bytes", "K, M, G or T", ""]),
    ] {
        let partition = told(&format!("[[partition]]\nname = \"data\"\nsize = {value}\n"));
        assert_eq!(partition.len(), 1, "{value}: {partition:?}");
        assert!(
            partition[0].contains("`size` of the partition `data`"),
            "{partition:?}"
        );
        for part in parts {
            assert!(partition[0].contains(part), "{part}: {partition:?}");
        }
        let disk = told(&format!("[disk]\nsize = {value}\n"));
        assert!(
            disk.len() == 1 && disk[0].contains("`size` of the disk"),
            "{disk:?}"
        );
    }
    assert!(told("[disk]\nsize = \"2M\"\n")[0].contains("expected at least \"3M\""));
    for (value, next) in [
        ("209715201", "209715712"),
        ("\"209715713\"", "204801K"),
        ("4194303", "4M"),
    ] {
        let told = told(&format!("[disk]\nsize = {value}\n"));
        let says = format!(
            "`size` of the disk is {value}: it is no whole number of sectors of 512 bytes [{value}: expected a multiple of 512 bytes] write `size = \"{next}\"`"
        );
        assert_eq!(told, [says]);
    }
    for sound in ["\"3M\"", "209715712"] {
        assert_eq!(
            told(&format!("[disk]\nsize = {sound}\nfree = 0\n")),
            Vec::<String>::new()
        );
    }
}

#[test]
fn a_wrong_name_or_label_says_why_and_what_would_do() {
    let long = "x".repeat(37);
    for (name, parts) in [
        (
            long.as_str(),
            ["it has 37 characters", "room for 36", &long[..36]],
        ),
        ("", ["it is empty", "1 to 36 letters", ""]),
        (
            "a b",
            ["`a b` cannot be", "` ` cannot stand in it", "call it `a-b`"],
        ),
        (
            "a\\u0007",
            [
                "`a\\u{7}` cannot be",
                "`\\u{7}` cannot stand",
                "call it `a-`",
            ],
        ),
    ] {
        let found = told(&format!(
            "[[partition]]\nname = \"{name}\"\nsize = \"1M\"\n"
        ));
        assert_eq!(found.len(), 1, "{found:?}");
        for part in ["the name of a partition"].into_iter().chain(parts) {
            assert!(found[0].contains(part), "{part}: {found:?}");
        }
    }
    for (partition, label, parts) in [
        (
            "type = \"esp\"",
            "efi",
            ["`e` cannot stand", "`A-Z`", "write `label = \"EFI\"`"],
        ),
        (
            "filesystem = \"vfat\"",
            "TWELVE BYTES",
            ["has 11 bytes", "takes 12", "`label = \"TWELVE BYTE\"`"],
        ),
        (
            "filesystem = \"ext4\"",
            "more than sixteen",
            ["has 16 bytes", "takes 17", "more than sixtee"],
        ),
        (
            "filesystem = \"squashfs\"",
            "x",
            ["squashfs has no label", "", "leave `label` out"],
        ),
        (
            "filesystem = \"ext4\"",
            "a\\u0001",
            ["`\\u{1}` cannot stand", "control characters", "a_"],
        ),
    ] {
        let text = format!("[[partition]]\nname = \"p\"\n{partition}\nlabel = \"{label}\"\n");
        let found = told(&text);
        assert_eq!(found.len(), 1, "{found:?}");
        for part in ["bad `label` of the partition `p`: "]
            .into_iter()
            .chain(parts)
        {
            assert!(found[0].contains(part), "{part}: {found:?}");
        }
    }
}

#[test]
fn ids_are_no_zeros_and_nobody_elses() {
    let nil = "00000000-0000-0000-0000-000000000000";
    for field in ["uuid", "filesystem-uuid"] {
        let one = |name: &str, id: &str| {
            format!("[[partition]]\nname = \"{name}\"\nfilesystem = \"ext4\"\n{field} = \"{id}\"\n")
        };
        let found = told(&one("a", nil));
        assert_eq!(found.len(), 1, "{found:?}");
        for part in [
            &format!("`{field}` of the partition `a`"),
            "zeros",
            "leave `",
        ] {
            assert!(found[0].contains(part), "{part}: {found:?}");
        }
        // Letters of two sizes are one digit.
        let id = "6a1c3a50-3a2b-8c1d-9e4f-0123456789ab";
        let found = told(&(one("a", id) + &one("b", &id.to_uppercase())));
        assert_eq!(found.len(), 1, "{found:?}");
        for part in [
            "`a` and `b` have the same",
            "given again",
            "first given here",
        ] {
            assert!(found[0].contains(part), "{part}: {found:?}");
        }
        assert_eq!(told(&one("a", id)), Vec::<String>::new());
    }
    let found = told(&format!(
        "[[partition]]\nname = \"a\"\nsize = \"1M\"\ntype = \"{nil}\"\n"
    ));
    assert!(
        found.len() == 1 && found[0].contains("unknown type"),
        "{found:?}"
    );
}
