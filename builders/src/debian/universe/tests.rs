use super::*;

/// Writes an index from short lines: `name version ; Field: value ; ...`.
pub(crate) fn index(lines: &[&str]) -> String {
    let mut out = String::new();
    for line in lines {
        let mut parts = line.split(" ; ").map(str::trim);
        let (name, version) = parts
            .next()
            .and_then(|head| head.split_once(' '))
            .expect("name and version");
        let digest = "0".repeat(64);
        out.push_str(&format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: pool/{name}.deb\nSize: 1\nSHA256: {digest}\n"));
        for field in parts {
            out.push_str(field);
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

fn found(universe: &Universe<'_>, relation: &str) -> Vec<String> {
    let relation = Relation::parse(relation).expect("valid");
    let qualifier = if relation.arch == Some("any") {
        Qualifier::Any
    } else {
        Qualifier::None
    };
    let Some(target) = universe.names.get(&(relation.name, qualifier)) else {
        return Vec::new();
    };
    let atom = Atom {
        target: *target,
        condition: relation.version,
    };
    let asker = universe
        .find("asker")
        .and_then(|p| universe.default_candidate(p))
        .expect("asker");
    let chosen = |p| universe.default_candidate(p);
    universe
        .matches(asker, Kind::Depends, &atom, chosen)
        .into_iter()
        .map(|v| universe.name_of(v).to_owned())
        .collect()
}

#[test]
fn real_and_provided_names_match_their_relations() {
    let text = index(&[
        "asker 1",
        "mta 1",
        "exim 4 ; Provides: mta, smtp (= 2)",
        "python3 3.11 ; Multi-Arch: allowed",
        "perl 5 ; Multi-Arch: foreign",
    ]);
    let mut universe = Universe::new("amd64");
    universe.add_index(&text, 0, 500).expect("valid");
    assert_eq!(found(&universe, "mta"), ["mta", "exim"]);
    assert_eq!(found(&universe, "mta (>= 1)"), ["mta"]);
    assert_eq!(found(&universe, "smtp (>= 2)"), ["exim"]);
    assert_eq!(found(&universe, "smtp (>> 2)"), Vec::<String>::new());
    assert_eq!(found(&universe, "python3:any (>= 3)"), ["python3"]);
    assert_eq!(found(&universe, "perl:any"), Vec::<String>::new());
    assert_eq!(universe.real_count(), 5);
}

#[test]
fn the_highest_version_of_the_best_pin_is_the_candidate() {
    let (stable, updates, backports) = (
        index(&["a 1"]),
        index(&["a 2", "a 1"]),
        index(&["a 3", "b 1"]),
    );
    let mut universe = Universe::new("amd64");
    universe.add_index(&stable, 0, 500).expect("valid");
    universe.add_index(&updates, 1, 500).expect("valid");
    universe.add_index(&backports, 2, 100).expect("valid");
    let candidate = |name| {
        universe
            .find(name)
            .and_then(|p| universe.default_candidate(p))
            .map(|v| universe.version(v))
    };
    assert_eq!(
        candidate("a").map(|v| (v.version, v.origin)),
        Some(("2", 1))
    );
    assert_eq!(candidate("b").map(|v| v.version), Some("1"));
    assert_eq!(
        universe
            .package(universe.find("a").expect("a"))
            .versions
            .len(),
        3
    );
}

#[test]
fn other_architectures_are_left_out_and_bad_stanzas_are_errors() {
    let text = index(&["a 1"]).replace("amd64", "arm64");
    let mut universe = Universe::new("amd64");
    universe.add_index(&text, 0, 500).expect("valid");
    assert_eq!(universe.real_count(), 0);
    let mut fails = |text: &str| {
        let text = text.to_owned().leak();
        universe
            .add_index(text, 0, 500)
            .expect_err("must fail")
            .to_string()
    };
    assert!(fails(&index(&["a 1-"])).contains("Version"));
    assert!(fails(&index(&["a 1 ; Depends: b ("])).contains("line 7: field `Depends` of `a`"));
    assert!(fails(&index(&["a 1"]).replace("pool/", "../")).contains("leaves the archive"));
}
