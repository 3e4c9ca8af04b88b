//! Attribute paths of a tree of steps, whose names have dots in them.

/// What every tree has beside its steps. A step of such a name is asked for below `steps`.
const OWN: &str = "bootstrap builder-hex0-image distfiles oci ostree payload-image pins rootfs seed stage0 steps tar";

/// Tells whether every tree has something of this name.
pub(super) fn is_own(name: &str) -> bool {
    OWN.split(' ').any(|own| own == name)
}

/// Returns the attribute path that `attr` means, with names quoted as the language needs it. `steps` are the names below `steps`, and
/// `sets` are other attributes of the tree with the names below them.
///
/// `steps.mes-0.27.1.1` is pass 1 of `mes-0.27.1`, and `bash-2.05b` is short for `steps.bash-2.05b`: the longest name wins. What every
/// tree has, as `rootfs`, is no step, also where a step has that name; with the number of a pass behind it it is.
///
/// # Example
/// ```
/// use sos_recipes::bootstrap::attr_path;
/// let steps = ["mes-0.27.1", "mes-0.27"].map(str::to_owned);
/// assert_eq!(attr_path("steps.mes-0.27.1.1", &steps, &[]), r#"steps."mes-0.27.1"."1""#);
/// assert_eq!(attr_path("mes-0.27.oci", &steps, &[]), r#"steps."mes-0.27".oci"#);
/// let taken = ["rootfs".to_owned()];
/// assert_eq!(attr_path("rootfs.oci", &taken, &[]), "rootfs.oci");
/// assert_eq!(attr_path("rootfs.1", &taken, &[]), r#"steps."rootfs"."1""#);
/// assert_eq!(attr_path("steps.rootfs", &taken, &[]), r#"steps."rootfs""#);
/// let more = [("steps-more", vec!["mes-0.28".to_owned()])];
/// assert_eq!(attr_path("steps-more.mes-0.28.1", &steps, &more), r#"steps-more."mes-0.28"."1""#);
/// let like_sets = ["steps-more", "stage0"].map(str::to_owned);
/// assert_eq!(attr_path("steps-more.2", &like_sets, &more), r#"steps."steps-more"."2""#);
/// let stage0 = [("stage0", vec!["all".to_owned()])];
/// assert_eq!(attr_path("stage0.2", &like_sets, &stage0), r#"steps."stage0"."2""#);
/// ```
pub fn attr_path(attr: &str, steps: &[String], sets: &[(&str, Vec<String>)]) -> String {
    let below = |set: &str| attr.strip_prefix(set)?.strip_prefix('.');
    let is_pass = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    let is_of = |rest: &str, name: &str| {
        let rest = rest.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let other = sets.iter().find_map(|(set, names)| {
        let rest = below(set)?;
        // A step may have the name of the set: then the number is that of its pass, unless the set has such a name.
        let is_of_step = is_pass(rest)
            && steps.iter().any(|step| step == set)
            && !names.iter().any(|name| is_of(rest, name));
        (!is_of_step).then_some((*set, names.as_slice(), rest))
    });
    let mut parts = attr.split('.');
    let of_tree = parts.next().is_some_and(is_own);
    if other.is_none() && below("steps").is_none() && of_tree && !parts.next().is_some_and(is_pass)
    {
        return attr.to_owned();
    }
    let (set, names, rest) = other.unwrap_or(("steps", steps, below("steps").unwrap_or(attr)));
    let Some(name) = names
        .iter()
        .filter(|name| is_of(rest, name))
        .max_by_key(|name| name.len())
    else {
        return attr.to_owned();
    };
    let mut out = format!("{set}.\"{name}\"");
    for part in rest[name.len()..]
        .split('.')
        .filter(|part| !part.is_empty())
    {
        let is_number = part.bytes().all(|b| b.is_ascii_digit());
        out.push('.');
        out.push_str(&if is_number {
            format!("\"{part}\"")
        } else {
            part.to_owned()
        });
    }
    out
}
