//! `builtin:payload-image`: files by name on a disk, for a kernel that imports them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::payload::{self, PayloadError, Width};

use super::failed;
use crate::build::Build;

/// Makes the image.
#[derive(Clone, Copy, Debug, Default)]
pub struct PayloadBuilder;

#[derive(Deserialize)]
struct PayloadAttrs {
    /// Files by the name that they get.
    files: BTreeMap<String, String>,
    /// Numbers of 64 bits.
    #[serde(default)]
    wide: bool,
}

impl Builder for PayloadBuilder {
    fn name(&self) -> &'static str {
        "builtin:payload-image"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: PayloadAttrs = ctx.attrs_as()?;
        let out = ctx.out_path("out");
        make(ctx, &attrs, &out)
    }
}

fn make(build: &dyn Build, attrs: &PayloadAttrs, out: &Path) -> Result<(), BuilderError> {
    let mut list = Vec::new();
    let mut sources: Vec<PathBuf> = Vec::new();
    for (name, source) in &attrs.files {
        let source = build.tree(source)?;
        let meta = fs::metadata(&source).map_err(|e| failed("read", &source, e))?;
        if !meta.is_file() {
            let message = format!("`{name}` of `{}` is not a file", build.name());
            return Err(BuilderError::failed(message));
        }
        list.push((name.clone(), meta.len()));
        sources.push(source);
    }
    let width = if attrs.wide {
        Width::Wide
    } else {
        Width::Narrow
    };
    let file = File::create(out).map_err(|e| failed("create", out, e))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    payload::write(&mut writer, width, &list, |i| File::open(&sources[i])).map_err(
        |e| match e {
            PayloadError::Io(e) => failed("write", out, e),
            other => BuilderError::failed(format!("`{}`: {other}", build.name())),
        },
    )?;
    writer.flush().map_err(|e| failed("write", out, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::fake::Fake;

    #[test]
    fn files_come_in_the_order_of_their_names() {
        let mut fake = Fake::new();
        for (name, text) in [("one", "1"), ("two", "22")] {
            let path = fake.path(name);
            fs::write(&path, text).unwrap();
            fake.trees.insert(format!("/{name}"), path);
        }
        let mut attrs = PayloadAttrs {
            files: BTreeMap::from([
                ("b".to_owned(), "/one".to_owned()),
                ("a".to_owned(), "/two".to_owned()),
            ]),
            wide: false,
        };
        let out = fake.path("out");
        make(&fake, &attrs, &out).unwrap();
        let expect = b"LBPAYLD1\x02\0\0\0\x01\0\0\0\x02\0\0\0a22\x01\0\0\0\x01\0\0\0b1";
        assert_eq!(fs::read(&out).unwrap(), expect);
        attrs.files.insert("a/b".to_owned(), "/one".to_owned());
        let error = make(&fake, &attrs, &out).unwrap_err();
        assert!(error.to_string().contains("has a slash"), "{error}");
    }
}
