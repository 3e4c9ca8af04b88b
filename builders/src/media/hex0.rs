//! `builtin:builder-hex0-image`: a disk that builder-hex0 boots, with every file in the order of its path.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::builder_hex0::{ImageError, ImageWriter, MEBIBYTE};

use super::failed;
use crate::build::Build;

/// Entries of one image.
const MAX_ENTRIES: usize = 1 << 20;

/// Makes the image.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuilderHex0Builder;

#[derive(Clone, Deserialize)]
struct ImageAttrs {
    /// The boot sector, as hex0.
    stage1: String,
    /// What it loads, which goes in as text.
    stage2: String,
    /// Files and directories by absolute path.
    files: BTreeMap<String, String>,
    /// Further directories, which may be empty, by absolute path.
    #[serde(default)]
    directories: Vec<String>,
    /// What is run when they are there.
    commands: Vec<String>,
    /// The least size of the image; what nothing is written to takes no room.
    #[serde(default)]
    mebibytes: u64,
}

impl Builder for BuilderHex0Builder {
    fn name(&self) -> &'static str {
        "builtin:builder-hex0-image"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: ImageAttrs = ctx.attrs_as()?;
        let out = ctx.out_path("out");
        make(ctx, &attrs, &out)
    }
}

/// A directory or file of the image: none is a directory.
type Entries = BTreeMap<String, Option<(PathBuf, u64)>>;

fn make(build: &dyn Build, attrs: &ImageAttrs, out: &Path) -> Result<(), BuilderError> {
    let mut entries = Entries::new();
    for (at, source) in &attrs.files {
        collect(at.trim_matches('/'), &build.tree(source)?, &mut entries)?;
    }
    for at in &attrs.directories {
        above(&format!("{}/", at.trim_matches('/')), &mut entries);
    }
    let read = |source: &str| {
        let path = build.tree(source)?;
        fs::read(&path).map_err(|e| failed("read", &path, e))
    };
    let first = String::from_utf8_lossy(&read(&attrs.stage1)?).into_owned();
    let second = read(&attrs.stage2)?;
    let file = File::create(out).map_err(|e| failed("create", out, e))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    let said = |e| match e {
        ImageError::Io(e) => failed("write", out, e),
        other => BuilderError::failed(format!("`{}`: {other}", build.name())),
    };
    let mut image = ImageWriter::begin(&mut writer, &first, &second).map_err(said)?;
    image.directory(".").map_err(said)?;
    directory("", &entries, &mut image, said)?;
    for command in &attrs.commands {
        // Directories that only commands need are made by them.
        image.command(command).map_err(said)?;
    }
    let written = image.end(0).map_err(said)?;
    let file = writer
        .into_inner()
        .map_err(|e| failed("write", out, e.into_error()))?;
    let wanted = attrs.mebibytes.saturating_mul(MEBIBYTE);
    if wanted > written {
        // Nobody has written there, so it takes no room.
        file.set_len(wanted).map_err(|e| failed("write", out, e))?;
    }
    Ok(())
}

/// Finds what is at a place, and the directories that it is in. What has `.git` in its path stays out, as upstream has it.
fn collect(at: &str, source: &Path, entries: &mut Entries) -> Result<(), BuilderError> {
    above(at, entries);
    let mut todo = vec![(at.to_owned(), source.to_owned())];
    while let Some((at, source)) = todo.pop() {
        if at.contains(".git") {
            continue;
        }
        if entries.len() >= MAX_ENTRIES {
            let message = format!("more than {MAX_ENTRIES} files in one image");
            return Err(BuilderError::failed(message));
        }
        let error = |e| failed("read", &source, e);
        // There are no links on such a disk: what they lead to is there instead.
        let meta = fs::metadata(&source).map_err(error)?;
        if !meta.is_dir() {
            entries.insert(at, Some((source, meta.len())));
            continue;
        }
        for entry in fs::read_dir(&source).map_err(error)? {
            let entry = entry.map_err(error)?;
            let Ok(name) = entry.file_name().into_string() else {
                let message = format!("a name in `/{at}` is not UTF-8");
                return Err(BuilderError::failed(message));
            };
            todo.push((format!("{at}/{name}"), entry.path()));
        }
        entries.entry(at).or_insert(None);
    }
    Ok(())
}

/// Adds the directories that something is in.
fn above(mut at: &str, entries: &mut Entries) {
    while let Some((above, _)) = at.rsplit_once('/') {
        entries.entry(above.to_owned()).or_insert(None);
        at = above;
    }
}

/// Writes a directory as upstream does: first its directories as such, then its files, then what is in the directories.
fn directory(
    dir: &str,
    entries: &Entries,
    image: &mut ImageWriter<'_>,
    said: impl Fn(ImageError) -> BuilderError + Copy,
) -> Result<(), BuilderError> {
    let mut children: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for path in entries.keys() {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        children.entry(parent).or_default().push(path);
    }
    // Depth costs memory, not stack.
    let mut todo = vec![dir];
    while let Some(dir) = todo.pop() {
        let inside = children.get(dir).map_or(&[][..], Vec::as_slice);
        let is_dir = |path: &&&str| entries.get(**path).is_some_and(Option::is_none);
        let dirs: Vec<&str> = inside.iter().filter(is_dir).copied().collect();
        for path in &dirs {
            image.directory(&format!("./{path}")).map_err(said)?;
        }
        for path in inside {
            let Some(Some((source, size))) = entries.get(*path) else {
                continue;
            };
            let mut content = File::open(source).map_err(|e| failed("read", source, e))?;
            image
                .file(&format!("./{path}"), *size, &mut content)
                .map_err(said)?;
        }
        todo.extend(dirs.into_iter().rev());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::build::fake::Fake;

    #[test]
    fn directories_come_before_files_and_both_in_order() {
        let mut fake = Fake::new();
        let tree = fake.path("tree");
        for (path, text) in [
            ("b/x", "1"),
            ("a/y/z", "22"),
            ("a/w", ""),
            ("c", "3"),
            (".git/x", "no"),
            ("b/.gitignore", "no"),
        ] {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        std::os::unix::fs::symlink("c", tree.join("link")).unwrap();
        let sector = fake.path("stage1");
        fs::write(&sector, "00 ".repeat(512)).unwrap();
        let second = fake.path("stage2");
        fs::write(&second, "text").unwrap();
        for (name, path) in [("/tree", &tree), ("/stage1", &sector), ("/stage2", &second)] {
            fake.trees.insert(name.to_owned(), path.clone());
        }
        let text = ["a", "b", "c", "link"].map(|name| {
            fake.trees.insert(format!("/tree/{name}"), tree.join(name));
            (format!("/{name}"), format!("/tree/{name}"))
        });
        let mut files = BTreeMap::from(text);
        files.insert("/d/e".to_owned(), "/tree/c".to_owned());
        let attrs = ImageAttrs {
            stage1: "/stage1".to_owned(),
            stage2: "/stage2".to_owned(),
            files,
            directories: vec!["/d/f/g".to_owned(), "/d".to_owned()],
            commands: vec!["hex0 /c /d".to_owned()],
            mebibytes: 0,
        };
        let out = fake.path("out");
        make(&fake, &attrs, &out).unwrap();
        let bytes = fs::read(&out).unwrap();
        assert_eq!(bytes.len(), 1 << 20);
        let sized = |mebibytes| {
            let out = fake.path(&format!("out-{mebibytes}"));
            let sized = ImageAttrs {
                mebibytes,
                ..attrs.clone()
            };
            make(&fake, &sized, &out).unwrap();
            File::open(out).unwrap()
        };
        let large = sized(3000);
        let meta = large.metadata().unwrap();
        assert_eq!(meta.len(), 3000 << 20);
        assert!(meta.blocks() * 512 < 4 << 20, "{} blocks", meta.blocks());
        let mut same = Vec::new();
        large.take(1 << 20).read_to_end(&mut same).unwrap();
        assert!(same == bytes);
        // One that is larger stays as it is.
        assert_eq!(sized(1).metadata().unwrap().len(), 1 << 20);
        let text = String::from_utf8_lossy(&bytes[1024..]);
        assert_eq!(
            text.trim_end_matches('\0'),
            "src 0 .\nsrc 0 ./a\nsrc 0 ./b\nsrc 0 ./d\nsrc 1 ./c\n3src 1 ./link\n3src 0 ./a/y\nsrc 0 ./a/w\nsrc 2 ./a/y/z\n22src 1 ./b/x\n1src 0 ./d/f\nsrc 1 ./d/e\n3src 0 ./d/f/g\nhex0 /c /d\n"
        );
    }
}
