//! What was stopped at any write to the EFI system partition: something starts, or the next try brings it back.

use super::*;

/// Does what a plan says, and looks at the device as it is before each write to the EFI system partition and after the last one.
/// Says how many those were.
fn at_every_write(w: &World, spec: &Spec, plan: &Plan, mut look: impl FnMut()) -> usize {
    let mut looks = 0;
    for step in &plan.steps {
        let one = Plan {
            steps: vec![step.clone()],
            ..plan.clone()
        };
        let before = w.data();
        let device = w.device();
        apply(&w.fake, spec, &device, &one, None).expect("done");
        let all = std::mem::take(&mut *device.written.lock().expect("writes"));
        // No disk promises more than a sector at once.
        let mut writes = Vec::new();
        for (mut at, bytes) in all {
            let mut bytes = &bytes[..];
            while !bytes.is_empty() {
                let room = usize::try_from(512 - at % 512).expect("small");
                let (piece, rest) = bytes.split_at(room.min(bytes.len()));
                writes.push((at, piece.to_vec()));
                at += piece.len() as u64;
                bytes = rest;
            }
        }
        drop(device);
        let after = w.data();
        for done in 0..writes.len() {
            w.restore(&before);
            for (at, bytes) in &writes[..done] {
                w.change(*at, bytes);
            }
            look();
            looks += 1;
        }
        w.restore(&after);
    }
    look();
    looks
}

/// No two names lead to one file, which a program that repairs file systems would cut in two.
fn has_no_twins(w: &World) {
    let device = w.device();
    let table = device.table().expect("read").expect("a table");
    let esp = device.part(&table.partitions[0]);
    let clusters = clusters::Clusters::of(esp).expect("read");
    let firsts = clusters.expect("FAT32").firsts().expect("sound");
    let mut seen = BTreeMap::new();
    for (path, first) in firsts {
        let other = seen.insert(first, path.clone());
        assert!(first == 0 || other.is_none(), "{path} and {other:?}");
    }
}

/// The entries that systemd-boot would offer, by their text: it passes over what is empty and what is no `.conf`.
fn offered(w: &World) -> Vec<String> {
    w.on_esp(|volume| {
        let names = volume.list("loader/entries").into_iter();
        let texts = names
            .filter(|name| name.ends_with(".conf"))
            .map(|name| volume.read(&format!("loader/entries/{name}")));
        let texts = texts.map(|bytes| bytes.expect("read").expect("there"));
        texts
            .filter(|bytes| !bytes.is_empty())
            .map(|bytes| String::from_utf8(bytes).expect("text"))
            .collect()
    })
}

/// What an entry names is there as a whole.
fn kernel(w: &World, path: &str) -> Vec<u8> {
    w.on_esp(|volume| volume.read(path).expect("read").expect("there"))
}

fn text_of(spec: &Spec, slot: usize, path: &str) -> String {
    match &spec.slots[slot].files[path] {
        FileFrom::Text { text } => text.clone(),
        other => panic!("{other:?}"),
    }
}

/// Brings a device to what a recipe says, in one go, and says what was done.
fn brought(w: &World, spec: &Spec) -> Plan {
    let plan = w.plan(spec, "");
    w.apply(spec, &plan);
    assert!(w.drift(spec).is_empty(), "{:?}", w.drift(spec));
    w.is_sound();
    plan
}

/// Version 1 with a kernel of several clusters, and whatever is in its entry beside that.
fn first(options: &str, kernel: char) -> Spec {
    let mut spec = spec("1");
    for slot in &mut spec.slots {
        for (path, from) in &mut slot.files {
            if let FileFrom::Text { text } = from {
                match path.ends_with(".conf") {
                    true => text.push_str(options),
                    false => *text = kernel.to_string().repeat(1300),
                }
            }
        }
    }
    spec.partitions[0].files.extend(spec.slots[0].files.clone());
    spec
}

#[test]
fn the_same_version_with_other_files_is_there_at_any_time() {
    let w = World::new();
    let (old, new) = (first("", 'a'), first("options quiet\n", 'b'));
    w.apply(&old, &w.plan(&old, ""));
    let plan = w.plan(&new, "");
    let path = "loader/entries/t_1.conf";
    let allowed = [text_of(&old, 0, path), text_of(&new, 0, path)];
    let kernels = ["a", "b"].map(|letter| letter.repeat(1300).into_bytes());
    let root = Step::Partition {
        name: "root-a".to_owned(),
        with: "t 1".to_owned(),
    };
    let mut turn = 0;
    let looks = at_every_write(&w, &new, &plan, || {
        has_no_twins(&w);
        let there = offered(&w);
        assert!(there.len() == 1 && allowed.contains(&there[0]), "{there:?}");
        assert!(kernels.contains(&kernel(&w, "EFI/t/1-linux")));
        let kept = w.data();
        // The way back is the same work, so that some of them do.
        turn += 1;
        for spec in [&new, &old]
            .into_iter()
            .take(if turn % 4 == 0 { 2 } else { 1 })
        {
            let done = brought(&w, spec);
            assert!(!done.steps.contains(&root), "{done:?}");
            w.restore(&kept);
        }
    });
    assert!(looks > 30, "{looks}");
    assert!(w.drift(&new).is_empty(), "{:?}", w.drift(&new));
}

#[test]
fn a_new_version_leaves_the_one_before_at_any_time() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    let path = "loader/entries/t_1.conf";
    let own = text_of(&spec("1"), 0, path);
    let mut looks = 0;
    // The third takes the place of the second, whose files go.
    for version in ["2", "3"] {
        let new = spec(version);
        let next = text_of(&new, 1, &format!("loader/entries/t_{version}.conf"));
        let second = text_of(&spec("2"), 1, "loader/entries/t_2.conf");
        looks += at_every_write(&w, &new, &w.plan(&new, ""), || {
            has_no_twins(&w);
            let there = offered(&w);
            assert!(there.contains(&own), "{there:?}");
            let known = [&own, &next, &second];
            assert!(there.iter().all(|one| known.contains(&one)), "{there:?}");
            assert_eq!(kernel(&w, "EFI/t/1-linux"), b"kernel 1");
            if there.contains(&next) {
                let path = format!("EFI/t/{version}-linux");
                assert_eq!(kernel(&w, &path), format!("kernel {version}").into_bytes());
            }
            let kept = w.data();
            let done = brought(&w, &new);
            assert!(done.slot.as_deref() != Some("root-a"), "{done:?}");
            w.restore(&kept);
        });
    }
    assert!(looks > 60, "{looks}");
}

/// What earlier versions of this program left: the entry was removed, and its draft had not got its name.
#[test]
fn a_whole_draft_is_finished_and_its_root_is_kept() {
    let entry = "loader/entries/t_1.conf";
    let draft = format!("{entry}.new");
    for with_empty in [false, true] {
        let w = World::new();
        w.apply(&spec("1"), &w.plan(&spec("1"), ""));
        let bytes = kernel(&w, entry);
        w.on_esp(|volume| {
            volume.remove(entry).expect("removed");
            if with_empty {
                volume.write(entry, &mut &b""[..]).expect("written");
            }
            volume.write(&draft, &mut &bytes[..]).expect("written");
        });
        let told = w.drift(&spec("1"));
        assert_eq!(told.len(), 1, "{told:?}");
        let draft_only = format!("{entry}: is there as a draft only");
        assert!(told[0].starts_with(&draft_only), "{with_empty} {told:?}");
        assert_eq!(
            w.slots(&spec("1"))[0],
            "slot root-a: version 1, the recipe's; only a draft of its entry is there"
        );
        let finish = Step::Finish {
            path: entry.to_owned(),
        };
        let kept = w.data();
        // Another version comes beside it.
        let second = w.plan(&spec("2"), "");
        assert_eq!(second.steps.first(), Some(&finish));
        assert_eq!(second.slot.as_deref(), Some("root-b"));
        at_every_write(&w, &spec("2"), &second, || {
            let kept = w.data();
            let done = brought(&w, &spec("2"));
            assert!(done.slot.as_deref() != Some("root-a"), "{done:?}");
            let own = text_of(&spec("1"), 0, entry);
            assert!(offered(&w).contains(&own));
            w.restore(&kept);
        });
        w.restore(&kept);
        assert_eq!(brought(&w, &spec("1")).steps, [finish]);
        // Half of one is none, and goes.
        w.on_esp(|volume| volume.write(&draft, &mut &b"title"[..]).expect("written"));
        assert!(w.drift(&spec("1")).is_empty());
        let gone = Step::Remove {
            path: draft.clone(),
        };
        assert_eq!(brought(&w, &spec("1")).steps, [gone]);
    }
}

#[test]
fn what_is_changed_before_it_has_started_gets_all_its_starts_again() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    w.apply(&spec("2"), &w.plan(&spec("2"), ""));
    let (used, whole) = ("loader/entries/t_2+1-2.conf", "loader/entries/t_2+3.conf");
    w.rename(whole, used);
    assert!(w.drift(&spec("2")).is_empty());
    let mut other = spec("2");
    for slot in &mut other.slots {
        let kernel = text("another kernel");
        slot.files.insert("EFI/t/2-linux".to_owned(), kernel);
    }
    let plan = w.plan(&other, "");
    let file = |path: &str| Step::File {
        path: path.to_owned(),
    };
    let gone = Step::Remove {
        path: used.to_owned(),
    };
    assert_eq!(
        plan.steps,
        [file("EFI/t/2-linux"), file(whole), gone.clone()]
    );
    let own = text_of(&other, 1, "loader/entries/t_2.conf");
    at_every_write(&w, &other, &plan, || {
        has_no_twins(&w);
        assert!(offered(&w).contains(&own));
        let kept = w.data();
        brought(&w, &other);
        w.restore(&kept);
    });
    assert!(w.drift(&other).is_empty(), "{:?}", w.drift(&other));
    // Two of one version: the one that was tried less stays.
    let bytes = kernel(&w, whole);
    w.on_esp(|volume| volume.write(used, &mut &bytes[..]).expect("written"));
    let told = format!("{used}: is a second entry of version 2");
    assert_eq!(w.drift(&other), [told]);
    assert_eq!(brought(&w, &other).steps, [gone]);
    // What starts is left as it is.
    w.rename(whole, "loader/entries/t_2.conf");
    assert_eq!(w.plan(&spec("2"), "").steps, [file("EFI/t/2-linux")]);
}

/// Finished, it would start in the place of the version that is asked for.
#[test]
fn a_draft_of_another_version_stays_one_while_something_starts() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    w.apply(&spec("2"), &w.plan(&spec("2"), ""));
    let (entry, draft) = ("loader/entries/t_2+3.conf", "loader/entries/t_2+3.conf.new");
    w.rename(entry, draft);
    let plan = w.plan(&spec("1"), "");
    assert!(plan.steps.is_empty(), "{plan:?}");
    let told = &plan.left[0];
    assert!(
        told.starts_with(entry) && told.ends_with("with the recipe of that version finishes it"),
        "{plan:?}"
    );
    let finish = Step::Finish {
        path: entry.to_owned(),
    };
    assert_eq!(brought(&w, &spec("2")).steps, [finish]);
}

#[test]
fn a_root_that_no_entry_names_is_not_taken_for_free() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    let entry = "loader/entries/t_1.conf";
    let bytes = kernel(&w, entry);
    w.on_esp(|volume| volume.remove(entry).expect("removed"));
    // One slot is empty: nothing is lost.
    for version in ["1", "2"] {
        let plan = w.plan(&spec(version), "");
        assert_eq!(plan.slot.as_deref(), Some("root-b"), "{plan:?}");
        assert!(plan.notes.is_empty(), "{plan:?}");
    }
    let root = w.offset("root-b");
    w.change(root + 70_000, b"data");
    let error = plan(&w.fake, &spec("2"), &w.device(), Wish::default()).expect_err("refused");
    let said = format!("{error:?}");
    for part in [
        "provision-no-slot",
        "no entry of the loader says what is in `root-a` and `root-b`",
        "put the lost entry back",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // With an entry again it is known which one stays, and the other is told of.
    w.on_esp(|volume| volume.write(entry, &mut &bytes[..]).expect("written"));
    let plan = w.plan(&spec("2"), "");
    assert_eq!(plan.slot.as_deref(), Some("root-b"));
    assert_eq!(
        plan.notes,
        [
            "warning: `root-b` is written over: it is not empty, and no entry of the loader says what is in it"
        ]
    );
    // A machine knows its own root.
    w.on_esp(|volume| volume.remove(entry).expect("removed"));
    let running = format!("root=PARTUUID={}", Uuid::derived("test", "root-b"));
    let plan = w.plan(&spec("2"), &running);
    assert_eq!(
        (plan.slot.as_deref(), plan.notes.len()),
        (Some("root-a"), 1)
    );
}

/// As a power failure leaves it, or an earlier version of this program that was stopped in the middle of an entry.
#[test]
fn an_entry_that_names_no_root_belongs_to_the_one_that_nothing_else_names() {
    let w = World::new();
    w.apply(&spec("1"), &w.plan(&spec("1"), ""));
    let file = |path: &str| Step::File {
        path: path.to_owned(),
    };
    for text in ["", "title t"] {
        let entry = "loader/entries/t_1.conf";
        w.on_esp(|volume| volume.write(entry, &mut text.as_bytes()).expect("written"));
        assert_eq!(w.plan(&spec("2"), "").slot.as_deref(), Some("root-b"));
        assert_eq!(brought(&w, &spec("1")).steps, [file(entry)], "{text}");
    }
    w.apply(&spec("2"), &w.plan(&spec("2"), ""));
    let entry = "loader/entries/t_2+3.conf";
    w.on_esp(|volume| volume.write(entry, &mut &b"title"[..]).expect("written"));
    assert_eq!(brought(&w, &spec("2")).steps, [file(entry)]);
}
