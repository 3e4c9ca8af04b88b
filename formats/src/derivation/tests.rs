use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

macro_rules! fixture {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../../tests/fixtures/drv/", $name)),
        )
    };
}

/// `.drv` files that Nix 2.8 wrote; the names are part of the test.
const FIXTURES: &[(&str, &[u8])] = &[
    fixture!("54v4ql0h8vircfk8vkf7kcbc531ab30a-ca.drv"),
    fixture!("5f8njp3y4b07nphyj1xl8yk72222v9zy-ononca.drv"),
    fixture!("9d794zbx10n43fa6zaqf33pfymdrm4r2-foo.drv"),
    fixture!("9iyzm7jfsjqjan2d7gz2mm75k5inmy5q-multi.drv"),
    fixture!("bb0vpncnl7g6qc4zx045r5jdnakkr322-user.drv"),
    fixture!("gnndhcf6vkzi5dgib6csv1gplmyijlkd-fx.drv"),
    fixture!("j96gxvn7ha59xv7f436ab87krgsis2dc-onca.drv"),
    fixture!("qp26lrwsqkwkrixrg9n7n6h16g0cm5c4-fr.drv"),
    fixture!("wbrvkklbrlql1vi4vfp6vhfmmfncd5xk-f1.drv"),
    fixture!("y73jj70yz39bws31lk2hkml875kkn2f4-same.drv"),
    fixture!("ys23ifcrw7yps6wi8h6v69p2cj0i3ig4-fx.drv"),
];

fn dir() -> StoreDir {
    StoreDir::default()
}

fn path(base: &str) -> StorePath {
    StorePath::from_base(base).unwrap()
}

fn all() -> BTreeMap<StorePath, Derivation> {
    FIXTURES
        .iter()
        .map(|(base, bytes)| (path(base), Derivation::parse_aterm(bytes, &dir()).unwrap()))
        .collect()
}

#[test]
fn derivations_of_nix_read_and_write_the_same() {
    for (base, bytes) in FIXTURES {
        let path = path(base);
        let name = Derivation::name_from_path(&path);
        let drv = Derivation::parse_aterm(bytes, &dir()).unwrap();
        let written = drv.to_aterm(&dir(), name).unwrap();
        assert_eq!(written, *bytes, "{base}");
        assert_eq!(drv.drv_path(&dir(), name), Ok(path));
    }
}

/// Forgets the paths of outputs, as before they are computed.
fn unfilled(drv: &Derivation) -> Derivation {
    let mut drv = drv.clone();
    for (name, output) in &mut drv.outputs {
        if let Output::InputAddressed(_) = output {
            *output = Output::Deferred;
        }
        drv.env.remove(name.as_bytes());
    }
    drv
}

/// The same, out of order and with what does not matter.
fn draft(drv: &Derivation) -> Draft<'_> {
    let inputs = drv.input_drvs.iter().rev();
    let inputs = inputs.flat_map(|(path, outputs)| outputs.iter().map(move |o| (path, &**o)));
    let srcs = drv.input_srcs.iter().rev();
    let env = drv.env.iter().map(|(k, v)| (&**k, &**v)).rev();
    // What a variable of an output holds is overwritten.
    let last = drv
        .outputs
        .keys()
        .next_back()
        .map(|o| (o.as_bytes(), &b"old"[..]));
    Draft {
        outputs: drv
            .outputs
            .iter()
            .map(|(o, how)| (&**o, how.clone()))
            .collect(),
        input_drvs: inputs.clone().chain(inputs).collect(),
        input_srcs: srcs.clone().chain(srcs).collect(),
        system: &drv.system,
        builder: &drv.builder,
        args: drv.args.iter().map(|a| &**a).collect(),
        env: env.chain(last).collect(),
    }
}

#[test]
fn output_paths_of_nix_are_recomputed() {
    let all = all();
    let mut lookup = |p: &StorePath| Ok::<_, Infallible>(all[p].clone());
    // Once with a memory for each, once with one for all.
    let mut shared = DrvHashes::new(dir());
    for (path, expect) in &all {
        let name = Derivation::name_from_path(path);
        for hashes in [&mut DrvHashes::new(dir()), &mut shared] {
            let mut drv = unfilled(expect);
            let filled = hashes.fill_outputs(&mut drv, name, &mut lookup).unwrap();
            assert_eq!(drv, *expect, "{path}");
            let kind = match name {
                "ca" => Filled::Floating,
                "onca" | "ononca" => Filled::Deferred,
                _ => Filled::Known,
            };
            assert_eq!(filled, kind, "{path}");
            for output in expect.outputs.keys() {
                let known = drv.output_path(&dir(), name, output);
                assert_eq!(known.is_some(), kind == Filled::Known);
                if let Some(known) = known {
                    let value = &expect.env[output.as_bytes()];
                    assert_eq!(known.absolute(&dir()).as_bytes(), value);
                }
            }
        }
        shared.record(path, expect, &mut lookup).unwrap();
        assert!(shared.contains(path));
        let mut hashes = DrvHashes::new(dir());
        let drv = unfilled(expect);
        let mut draft = draft(&drv);
        let made = hashes.instantiate(&mut draft, name, &mut lookup);
        let text = expect.to_aterm(&dir(), name).unwrap();
        assert_eq!(made.unwrap(), *path);
        assert_eq!(hashes.text(), text, "{path}");
        assert!(hashes.contains(path));
        let outputs = draft.outputs.into_iter();
        let outputs = outputs.map(|(name, how)| (name.to_owned(), how)).collect();
        assert_eq!(expect.outputs, outputs, "{path}");
    }
}

#[test]
fn recorded_inputs_are_not_looked_up() {
    let all = all();
    let mut hashes = DrvHashes::new(dir());
    let mut lookup = |p: &StorePath| Ok::<_, Infallible>(all[p].clone());
    let user = path("bb0vpncnl7g6qc4zx045r5jdnakkr322-user.drv");
    for input in all[&user].input_drvs.keys() {
        hashes.record(input, &all[input], &mut lookup).unwrap();
    }
    let mut drv = unfilled(&all[&user]);
    let mut refuse = |p: &StorePath| Err::<Derivation, _>(format!("asked for {p}"));
    hashes.fill_outputs(&mut drv, "user", &mut refuse).unwrap();
    assert_eq!(drv, all[&user]);
}

// The placeholders are in the environments that Nix 2.8 wrote.
#[test]
fn placeholders_of_nix() {
    let all = all();
    let ca = path("54v4ql0h8vircfk8vkf7kcbc531ab30a-ca.drv");
    let onca = path("j96gxvn7ha59xv7f436ab87krgsis2dc-onca.drv");
    let ononca = path("5f8njp3y4b07nphyj1xl8yk72222v9zy-ononca.drv");
    for (drv, key, expect) in [
        (&ca, "out", store_path::placeholder("out")),
        (&ca, "doc", store_path::placeholder("doc")),
        (&onca, "dep", store_path::downstream_placeholder(&ca, "out")),
        (
            &onca,
            "doc2",
            store_path::downstream_placeholder(&ca, "doc"),
        ),
        (
            &ononca,
            "dep",
            store_path::downstream_placeholder(&onca, "dev"),
        ),
    ] {
        assert_eq!(all[drv].env[key.as_bytes()], expect.as_bytes());
    }
}

#[test]
fn failures_of_lookup() {
    let all = all();
    let user = path("bb0vpncnl7g6qc4zx045r5jdnakkr322-user.drv");
    let multi = path("9iyzm7jfsjqjan2d7gz2mm75k5inmy5q-multi.drv");
    let mut hashes = DrvHashes::new(dir());
    let mut fail = |_: &StorePath| Err::<Derivation, _>("gone");
    let result = hashes.fill_outputs(&mut unfilled(&all[&user]), "user", &mut fail);
    assert!(matches!(
        result,
        Err(ModuloError::Lookup { cause: "gone", .. })
    ));

    let mut lookup = |p: &StorePath| Ok::<_, Infallible>(all[p].clone());
    let mut wrong = unfilled(&all[&user]);
    wrong.input_drvs.insert(multi, ["nodoc".to_owned()].into());
    let result = hashes.fill_outputs(&mut wrong, "user", &mut lookup);
    assert!(matches!(result, Err(ModuloError::NoSuchOutput { output, .. }) if output == "nodoc"));

    // Every derivation depends on `user`.
    let mut circular = |_: &StorePath| Ok::<_, Infallible>(all[&user].clone());
    let mut hashes = DrvHashes::new(dir());
    let result = hashes.fill_outputs(&mut unfilled(&all[&user]), "user", &mut circular);
    assert!(matches!(result, Err(ModuloError::Cycle(_))));
    let result = hashes.fill_outputs(&mut unfilled(&all[&user]), "a/b", &mut lookup);
    assert!(matches!(result, Err(ModuloError::Path(_))));
}

#[test]
fn very_long_chains_do_not_overflow() {
    let numbered = |i: usize| {
        let mut hash = [0; 20];
        hash[..8].copy_from_slice(&i.to_le_bytes());
        StorePath::new(hash, "n.drv").unwrap()
    };
    let depth = 200_000;
    let link = |i: usize| Derivation {
        outputs: [("out".to_owned(), Output::Deferred)].into(),
        input_drvs: (i > 0)
            .then(|| (numbered(i - 1), ["out".to_owned()].into()))
            .into_iter()
            .collect(),
        ..Derivation::default()
    };
    let mut lookup = |p: &StorePath| {
        let (bytes, _) = p
            .hash_bytes()
            .split_first_chunk::<8>()
            .map(|(a, b)| (*a, b.len()))
            .unwrap();
        Ok::<_, Infallible>(link(usize::from_le_bytes(bytes)))
    };
    let mut drv = link(depth);
    let filled = DrvHashes::new(dir()).fill_outputs(&mut drv, "n", &mut lookup);
    assert_eq!(filled.unwrap(), Filled::Known);
}

const SMALL: &str = r#"Derive([("out","","","")],[],[],"s","b",[],[])"#;

#[track_caller]
fn refused(text: &str, offset: usize, problem: &AtermProblem) {
    let error = Derivation::parse_aterm(text.as_bytes(), &dir()).unwrap_err();
    assert_eq!((error.offset, &error.problem), (offset, problem), "{text}");
}

#[test]
fn malformed() {
    use AtermProblem as P;
    assert!(Derivation::parse_aterm(SMALL.as_bytes(), &dir()).is_ok());
    refused("", 0, &P::Expected("Derive("));
    refused("Derive", 0, &P::Expected("Derive("));
    refused(
        &SMALL.replace("Derive", "derive"),
        0,
        &P::Expected("Derive("),
    );
    refused(&format!("{SMALL} "), SMALL.len(), &P::TrailingBytes);
    refused(&format!("{SMALL}\n"), SMALL.len(), &P::TrailingBytes);
    refused(&SMALL.replace(",[]", ", []"), 26, &P::Expected("["));
    refused(&SMALL.replace("(\"out", "( \"out"), 9, &P::Expected("\""));
    refused("Derive([],[],[],\"s\",\"b\",[],[])", 9, &P::EmptyList);
    refused(r#"Derive([("#, 9, &P::Expected("\""));
    refused(r#"Derive([("out"#, 13, &P::OpenString);
    refused(
        r#"DrvWithVersion("xp-dyn-drv",[])"#,
        0,
        &P::Unsupported("versioned derivations".to_owned()),
    );
    let builder = |b: &str| SMALL.replace("\"b\"", &format!("\"{b}\""));
    let at = SMALL.find("\"b\"").unwrap() + 1;
    refused(&builder("\n"), at, &P::BadEscape);
    refused(&builder("x\t"), at + 1, &P::BadEscape);
    refused(&builder("\r"), at, &P::BadEscape);
    refused(&builder("\\x"), at + 1, &P::BadEscape);
    refused(&builder("\\0"), at + 1, &P::BadEscape);
    refused(&SMALL[..at], at, &P::OpenString);
    refused(&format!("{}\\", &SMALL[..at]), at + 1, &P::BadEscape);
    let mut bytes = SMALL.as_bytes().to_vec();
    bytes[SMALL.find("\"s\"").unwrap() + 1] = 0xff;
    let error = Derivation::parse_aterm(&bytes, &dir()).unwrap_err();
    assert_eq!(error.problem, P::NotUtf8);
}

#[test]
fn malformed_outputs() {
    use AtermProblem as P;
    let problem = |outputs: &str| {
        let text = SMALL.replace(r#"("out","","","")"#, outputs);
        Derivation::parse_aterm(text.as_bytes(), &dir())
            .unwrap_err()
            .problem
    };
    let hex = "00".repeat(32);
    for (algo, hash) in [
        ("sha256", ""),
        ("r:sha1", ""),
        ("text:sha256", ""),
        ("rootfs:blake3", ""),
        ("blake3", ""),
    ] {
        let text = SMALL.replace(r#""","","""#, &format!(r#""","{algo}","{hash}""#));
        let drv = Derivation::parse_aterm(text.as_bytes(), &dir()).unwrap();
        assert!(drv.is_floating());
        assert_eq!(drv.to_aterm(&dir(), "n").unwrap(), text.as_bytes());
    }
    for (algo, hash) in [
        ("sha3", ""),
        ("x:sha256", ""),
        ("r:", ""),
        ("", "00"),
        ("text:sha1", ""),
        ("rootfs:sha256", ""),
        ("sha256", &*hex),
        ("r:r:sha256", ""),
    ] {
        let found = problem(&format!(r#"("out","","{algo}","{hash}")"#));
        let expect = P::BadOutputHash {
            algo: algo.to_owned(),
            hash: hash.to_owned(),
        };
        assert_eq!(found, expect);
    }
    let fx = "/nix/store/3a52d53v4xrhwhwjyd6sy9m0lh4w9kwp-fx";
    let hello = Sha256::of(b"hello\n").to_hex();
    let fixed = |path: &str, hash: &str| format!(r#"("out","{path}","sha256","{hash}")"#);
    let good = SMALL.replace(r#"("out","","","")"#, &fixed(fx, &hello));
    assert!(
        Derivation::parse_aterm(good.as_bytes(), &dir())
            .unwrap()
            .is_fixed()
    );
    let expected = fx.to_owned();
    assert_eq!(
        problem(&fixed(&fx.replace("3a5", "4a5"), &hello)),
        P::WrongFixedPath { expected }
    );
    for bad in [&hello.to_uppercase(), &hello[1..], "00"] {
        assert!(matches!(problem(&fixed(fx, bad)), P::BadOutputHash { .. }));
    }
    assert!(matches!(
        problem(r#"("out","relative","","")"#),
        P::BadPath(_)
    ));
    assert!(matches!(problem(r#"("","","","")"#), P::BadOutputName(_)));
    assert!(matches!(
        problem(r#"("a/b","","","")"#),
        P::BadOutputName(_)
    ));
    let two = |a: &str, b: &str| problem(&format!("{a},{b}"));
    assert!(matches!(
        problem(r#"("out","","","impure")"#),
        P::BadOutputHash { .. }
    ));
    assert_eq!(
        two(
            r#"("dev","","r:sha256","impure")"#,
            r#"("out","","r:sha256","")"#
        ),
        P::MixedOutputs
    );
    let plain = r#"("out","","","")"#;
    assert_eq!(two(plain, plain), P::NotSorted);
    assert_eq!(two(plain, r#"("dev","","","")"#), P::NotSorted);
    assert_eq!(two(plain, r#"("z","","sha256","")"#), P::MixedOutputs);
    assert_eq!(
        two(r#"("dev","","","")"#, &fixed(fx, &hello)),
        P::MixedOutputs
    );
    assert_eq!(
        problem(&fixed(fx, &hello).replace("\"out\"", "\"dev\"")),
        P::MixedOutputs
    );
}

/// As Nix 2.8 writes it with its feature `impure-derivations`.
#[test]
fn impure_outputs() {
    let text = br#"Derive([("dev","","r:sha256","impure"),("out","","r:sha256","impure")],[],[],"x86_64-linux","/bin/sh",[],[("builder","/bin/sh"),("dev","/02qcpld1y6xhs5gz9bchpxaw0xdhmsp5dv88lh25r2ss44kh8dxz"),("name","i"),("out","/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"),("system","x86_64-linux")])"#;
    let drv = Derivation::parse_aterm(text, &dir()).unwrap();
    assert!(drv.is_impure() && !drv.is_floating() && !drv.is_deferred());
    assert_eq!(drv.output_path(&dir(), "i", "out"), None);
    assert_eq!(drv.to_aterm(&dir(), "i").unwrap(), text);
}

#[test]
fn malformed_inputs_and_order() {
    use AtermProblem as P;
    let a = "/nix/store/9d794zbx10n43fa6zaqf33pfymdrm4r2-a";
    let b = "/nix/store/9d794zbx10n43fa6zaqf33pfymdrm4r2-b";
    let problem = |drvs: &str, srcs: &str, env: &str| {
        let text =
            format!(r#"Derive([("out","","","")],[{drvs}],[{srcs}],"s","b",["z","a"],[{env}])"#);
        Derivation::parse_aterm(text.as_bytes(), &dir()).map_err(|e| e.problem)
    };
    let good_drvs = format!(r#"("{a}",["out"]),("{b}",["dev","out"])"#);
    assert!(
        problem(
            &good_drvs,
            &format!(r#""{a}","{b}""#),
            r#"("a","1"),("b","2")"#
        )
        .is_ok()
    );
    for (drvs, srcs, env) in [
        (
            format!(r#"("{b}",["out"]),("{a}",["out"])"#),
            String::new(),
            "",
        ),
        (
            format!(r#"("{a}",["out"]),("{a}",["out"])"#),
            String::new(),
            "",
        ),
        (format!(r#"("{a}",["out","dev"])"#), String::new(), ""),
        (format!(r#"("{a}",["out","out"])"#), String::new(), ""),
        (String::new(), format!(r#""{b}","{a}""#), ""),
        (String::new(), format!(r#""{a}","{a}""#), ""),
        (String::new(), String::new(), r#"("b",""),("a","")"#),
        (String::new(), String::new(), r#"("a",""),("a","")"#),
    ] {
        assert_eq!(problem(&drvs, &srcs, env), Err(P::NotSorted));
    }
    assert_eq!(
        problem(&format!(r#"("{a}",[])"#), "", ""),
        Err(P::EmptyList)
    );
    assert!(matches!(
        problem(r#"("/x",["out"])"#, "", ""),
        Err(P::BadPath(_))
    ));
    assert!(matches!(
        problem("", r#""/nix/store/x""#, ""),
        Err(P::BadPath(_))
    ));
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<Vec<u8>>(),
        "[a-z\"\\\\\n\r\t]{0,12}".prop_map(String::into_bytes)
    ]
}

fn store_paths() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[a-z0-9+?=]{1,8}").prop_map(|(h, n)| StorePath::new(h, &n).unwrap())
}

fn derivation() -> impl Strategy<Value = Derivation> {
    use prop::collection::{btree_map, btree_set, vec};
    let names = || btree_set("[a-z]{1,5}", 1..4);
    let algo = prop::sample::select(&HashAlgo::ALL[..]);
    let fixed = (any::<Vec<u8>>(), algo.clone(), any::<bool>()).prop_map(|(data, algo, r)| {
        let method = if r { Method::Recursive } else { Method::Flat };
        let hash = Hash::of(algo, &data);
        BTreeMap::from([("out".to_owned(), Output::Fixed { method, hash })])
    });
    let floating = (names(), algo, any::<bool>()).prop_map(|(names, algo, impure)| {
        let method = Method::Recursive;
        let output = if impure {
            Output::Impure { method, algo }
        } else {
            Output::Floating { method, algo }
        };
        names.into_iter().map(|n| (n, output.clone())).collect()
    });
    let addressed = btree_map(
        "[a-z]{1,5}",
        store_paths().prop_map(Output::InputAddressed),
        1..4,
    );
    let outputs = prop_oneof![fixed, floating, addressed];
    let inputs = (
        btree_map(store_paths(), names(), 0..4),
        btree_set(store_paths(), 0..4),
    );
    let strings = (vec(bytes(), 0..4), btree_map(bytes(), bytes(), 0..5));
    (outputs, inputs, "[a-z0-9_-]{0,9}", bytes(), strings).prop_map(
        |(outputs, (input_drvs, input_srcs), system, builder, (args, env))| Derivation {
            outputs,
            input_drvs,
            input_srcs,
            system,
            builder,
            args,
            env,
        },
    )
}

proptest! {
    #[test]
    fn round_trip(drv in derivation()) {
        let bytes = drv.to_aterm(&dir(), "some-name").unwrap();
        prop_assert_eq!(Derivation::parse_aterm(&bytes, &dir()), Ok(drv));
    }
}
