//! The commit object, and what a recipe may say about it.

use std::collections::BTreeMap;

use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::gvariant::Variant;
use sos_formats::hash::Sha256;
use sos_formats::ostree::Commit;

use super::OstreeAttrs;
use super::trees::Found;
use crate::build::Build;

/// Bytes of a ref, at most.
pub const MAX_REF_BYTES: usize = 255;

/// Checks what can be checked before any work.
pub(super) fn check(build: &dyn Build, attrs: &OstreeAttrs) -> Result<(), BuilderError> {
    let wrong = |what: String| -> Result<(), BuilderError> {
        let message = format!(
            "the commit `{}` is not well described: {what}",
            build.name()
        );
        Err(Diagnostic::error("ostree-attrs", Class::Recipe, message).into())
    };
    if attrs.branch.len() > MAX_REF_BYTES {
        return wrong(format!(
            "`ref` has {} letters; it may have {MAX_REF_BYTES}",
            attrs.branch.len()
        ));
    }
    if !is_ref(&attrs.branch) {
        return wrong(format!(
            "`{}` is not a ref; it must be letters, digits, `.`, `_` and `-`, in parts joined by `/`, as in `os/amd64/stable`",
            attrs.branch
        ));
    }
    if attrs.epoch < 0 {
        return wrong(format!(
            "`epoch` is {}; it must not be negative",
            attrs.epoch
        ));
    }
    let texts = [&attrs.subject, &attrs.body].into_iter();
    let texts = texts.chain(&attrs.version).chain(attrs.metadata.values());
    if texts
        .chain(attrs.metadata.keys())
        .any(|text| text.contains('\0'))
    {
        return wrong("a text holds the character NUL".into());
    }
    for key in attrs.metadata.keys() {
        let taken = ["version", "ostree.bootable", "ostree.linux"];
        if key.is_empty() || taken.contains(&key.as_str()) {
            return wrong(format!(
                "`metadata` must not hold `{key}`; `version` and `bootable` are attributes of their own"
            ));
        }
    }
    Ok(())
}

/// Tells whether a text names a ref, as libostree allows them.
#[must_use]
pub fn is_ref(text: &str) -> bool {
    text.len() <= MAX_REF_BYTES
        && text.split('/').all(|part| {
            let mut bytes = part.bytes();
            bytes
                .next()
                .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
                && bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        })
}

/// Makes the commit of a tree.
pub(super) fn commit(
    attrs: &OstreeAttrs,
    found: &Found,
    parent: Option<Sha256>,
    (tree, meta): (Sha256, Sha256),
) -> Result<Commit, BuilderError> {
    let mut metadata: BTreeMap<String, Variant> = attrs
        .metadata
        .iter()
        .map(|(key, value)| (key.clone(), Variant::Text(value.clone())))
        .collect();
    if let Some(version) = &attrs.version {
        metadata.insert("version".into(), Variant::Text(version.clone()));
    }
    if attrs.bootable {
        let [kernel] = found.kernels.as_slice() else {
            return Err(no_kernel(&found.kernels).into());
        };
        metadata.insert("ostree.bootable".into(), Variant::Bool(true));
        metadata.insert("ostree.linux".into(), Variant::Text(kernel.clone()));
    }
    Ok(Commit {
        metadata,
        parent,
        subject: attrs.subject.clone(),
        body: attrs.body.clone(),
        timestamp: u64::try_from(attrs.epoch).unwrap_or(0),
        tree,
        meta,
    })
}

fn no_kernel(found: &[String]) -> Diagnostic {
    let message = match found {
        [] => "a commit that boots needs a kernel, and this root filesystem has none".to_owned(),
        many => format!(
            "a commit that boots needs one kernel, and this root filesystem has {}",
            many.len()
        ),
    };
    let note = match found {
        [] => "looked for `/usr/lib/modules/<version>/vmlinuz`".to_owned(),
        many => format!("found {}", many.join(", ")),
    };
    Diagnostic::error("ostree-kernel", Class::Recipe, message)
        .note(note)
        .help("bring exactly one kernel to that place, or leave `bootable` out")
}

#[cfg(test)]
mod tests {
    use super::is_ref;

    #[test]
    fn refs() {
        for good in ["a", "os/amd64/stable", "x_1.2-3/y", "_/a"] {
            assert!(is_ref(good), "{good}");
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", ".a", "a/.b", "-a", "a b", "a\0", "é",
        ] {
            assert!(!is_ref(bad), "{bad}");
        }
    }
}
