//! An archive is believed because of its signature and its hashes, not because of where it is.

use super::{FILE, flip, nothing_happened, with_recipe};
use crate::support::archive::{Release, Signer, TEST, sha256};

#[test]
fn a_release_file_signed_by_a_stranger() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let stranger = Signer::new("stranger");
    tiny.archive.publish(&stranger, TEST);
    tiny.world.sos(["build", FILE]).fails(5).says(&[
        "error[deb-bad-signature]",
        "InRelease",
        "archive.asc",
        &stranger.fingerprint(),
        &tiny.signer.fingerprint(),
    ]);
    nothing_happened(&tiny.world);
}

#[test]
fn a_release_file_changed_after_it_was_signed() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let file = tiny.archive.inrelease("test");
    let text = std::fs::read_to_string(&file).expect("the release file");
    std::fs::write(&file, text.replace("Origin: Test", "Origin: Evil")).expect("write");
    tiny.world
        .sos(["build", FILE])
        .fails(5)
        .says(&["error[deb-bad-signature]", "changed after signing"]);
    nothing_happened(&tiny.world);
}

#[test]
fn a_release_file_without_a_signature() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    std::fs::write(
        tiny.archive.inrelease("test"),
        "Origin: Test\nSuite: test\nSHA256:\n",
    )
    .expect("write");
    tiny.world
        .sos(["build", FILE])
        .fails(5)
        .says(&["error[deb-bad-signature]", "InRelease"]);
    nothing_happened(&tiny.world);
}

#[test]
fn text_around_the_signed_part_is_not_believed() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let file = tiny.archive.inrelease("test");
    let text = std::fs::read_to_string(&file).expect("the release file");
    std::fs::write(&file, format!("Origin: Evil\n\n{text}")).expect("write");
    tiny.world
        .sos(["build", FILE])
        .fails(5)
        .says(&["error[deb-bad-signature]"]);
    nothing_happened(&tiny.world);
}

#[test]
fn a_release_file_that_is_no_longer_valid_cannot_be_locked_but_a_lock_of_it_still_builds() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    tiny.world.sos(["lock", FILE]).ok();
    let lock = tiny.world.project().join("sos.lock");
    let kept = std::fs::read(&lock).expect("the lock");
    tiny.archive.publish(
        &tiny.signer,
        Release {
            valid_until: Some("Wed, 01 Jan 2020 00:00:00 UTC"),
            ..TEST
        },
    );
    tiny.world.sos(["build", FILE]).ok();
    assert_eq!(std::fs::read(&lock).expect("the lock"), kept);
    std::fs::remove_file(&lock).expect("the lock");
    tiny.world.sos(["build", FILE]).fails(5).says(&[
        "error[deb-release-expired]",
        "2020-01-01",
        "tiny.rootfs.toml:2:9",
    ]);
    assert!(!lock.exists());
}

#[test]
fn an_index_that_does_not_have_its_hash() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let binary = tiny.archive.dir().join("dists/test/main/binary-amd64");
    let index = binary.join("Packages.xz");
    let digest = sha256(&std::fs::read(&index).expect("the index"));
    for file in [index, binary.join("by-hash/SHA256").join(digest)] {
        flip(&file);
    }
    tiny.world.sos(["build", FILE]).fails(5).says(&[
        "error[fetch-hash-mismatch]",
        "Packages.xz",
        "expected",
        "found",
    ]);
    nothing_happened(&tiny.world);
}

#[test]
fn a_keyring_that_is_none() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    tiny.world.write("keys/archive.asc", "not a key\n");
    tiny.world
        .sos(["build", FILE])
        .fails(3)
        .says(&["error[deb-bad-keyring]", "archive.asc"]);
    nothing_happened(&tiny.world);
}
