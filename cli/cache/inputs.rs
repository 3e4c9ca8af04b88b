//! Everything that an evaluation read, by content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use sos_formats::derivation::Method;
use sos_formats::hash::Blake3;
use sos_formats::store_path::StorePath;
use sos_lang::FileType;
use sos_store::StatKey;

use super::bytes::{Reader, Writer};
use super::names::Names;

/// What an evaluation read. Two evaluations of one command that find all of this equal give the same result.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// Files and directories of the machine: what was asked of them, and what the answer was.
    pub(super) files: BTreeMap<(PathBuf, Asked), Seen>,
    /// Environment variables, unset ones included.
    pub(super) env: BTreeMap<String, Option<String>>,
    /// Sources that were copied to the store, or would have been.
    pub(super) trees: Vec<Tree>,
    /// Store objects that were looked at or asked for, and whether they were there.
    pub(super) objects: BTreeMap<StorePath, bool>,
    /// Store objects that the result relies on: sources, texts, fetched files. A plan only computes their names.
    pub(super) added: BTreeSet<StorePath>,
    /// Trees of this machine that were fetched.
    pub(super) locals: Vec<Local>,
    /// Outputs that were built for the evaluation.
    pub(super) built: Vec<Built>,
    /// What the evaluation said, to be said again.
    pub(super) messages: Vec<(Message, String)>,
}

/// What can be asked of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    /// The bytes of the file.
    Content,
    /// The names in the directory and what they are.
    Listing,
    /// What it is, without following a link at its end.
    Type,
    /// Where it leads.
    Target,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// A digest of the answer; none when there was no answer.
    pub(super) answer: Option<Blake3>,
    /// What `stat` said before, if the answer cannot change without it: the short way to the same answer.
    pub(super) stat: Option<StatKey>,
}

/// A source.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) method: Method,
    pub(super) object: StorePath,
    /// What a filter was asked about and said, by path below the source; none without a filter.
    pub(super) chosen: Option<BTreeMap<PathBuf, (FileType, bool)>>,
    /// A digest of what `stat` says about all of it, if nothing in it can change without that.
    pub(super) print: Option<Blake3>,
    /// The names in it, for a shorter way to the same; not of a single file.
    pub(super) names: Option<Names>,
}

/// A directory or repository of this machine that was fetched as a tree. What was asked and answered is JSON.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) attrs: String,
    pub(super) name: String,
    pub(super) path: StorePath,
    pub(super) answer: String,
    /// What `stat` says about everything that the answer may depend on, as for [`Tree`].
    pub(super) print: Option<Blake3>,
    /// The names in a directory, as for [`Tree`]; not of a repository.
    pub(super) names: Option<Names>,
    /// The files that git tracks, each with a NUL after it.
    pub(super) tracked: Vec<u8>,
    /// Whether the evaluation has seen the name of the object, or anything else that depends on all of it. If not, the files that
    /// it read are noted one by one, and that is all that counts.
    pub(super) named: bool,
}

/// An output that was built.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) drv: StorePath,
    pub(super) output: String,
    pub(super) path: StorePath,
    /// The path follows from the derivation; else what the store knows about the derivation must say so.
    pub(super) follows: bool,
}

/// The two kinds of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Trace,
    Warning,
}

impl Inputs {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.list(self.files.iter(), |w, ((path, asked), seen)| {
            w.path(path);
            w.byte(*asked as u8);
            w.option(seen.answer.as_ref(), Writer::digest);
            w.option(seen.stat.as_ref(), write_stat);
        });
        w.list(self.env.iter(), |w, (name, value)| {
            w.text(name);
            w.option(value.as_deref(), Writer::text);
        });
        w.list(self.trees.iter(), |w, tree| {
            w.path(&tree.path);
            w.text(&tree.name);
            w.text(tree.method.as_str());
            w.object(&tree.object);
            w.option(tree.chosen.as_ref(), |w, chosen| {
                w.list(chosen.iter(), |w, (path, (kind, taken))| {
                    w.path(path);
                    w.byte(type_byte(*kind));
                    w.byte(u8::from(*taken));
                });
            });
            w.option(tree.print.as_ref(), Writer::digest);
            w.option(tree.names.as_ref(), |w, names| names.write(w));
        });
        w.list(self.objects.iter(), |w, (path, valid)| {
            w.object(path);
            w.byte(u8::from(*valid));
        });
        w.list(self.added.iter(), Writer::object);
        w.list(self.locals.iter(), |w, local| {
            w.text(&local.attrs);
            w.text(&local.name);
            w.object(&local.path);
            w.text(&local.answer);
            w.option(local.print.as_ref(), Writer::digest);
            w.option(local.names.as_ref(), |w, names| names.write(w));
            w.bytes(&local.tracked);
            w.byte(u8::from(local.named));
        });
        w.list(self.built.iter(), |w, built| {
            w.object(&built.drv);
            w.text(&built.output);
            w.object(&built.path);
            w.byte(u8::from(built.follows));
        });
        w.list(self.messages.iter(), |w, (kind, text)| {
            w.byte(u8::from(*kind == Message::Warning));
            w.text(text);
        });
        w.0
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        let inputs = Self {
            files: r.list(|r| {
                let path = r.path()?;
                let asked = match r.byte()? {
                    0 => Asked::Content,
                    1 => Asked::Listing,
                    2 => Asked::Type,
                    _ => Asked::Target,
                };
                let answer = r.option(Reader::digest)?;
                let stat = r.option(read_stat)?;
                Some(((path, asked), Seen { answer, stat }))
            })?,
            env: r.list(|r| Some((r.text()?, r.option(Reader::text)?)))?,
            trees: r.list(|r| {
                Some(Tree {
                    path: r.path()?,
                    name: r.text()?,
                    method: method(&r.text()?)?,
                    object: r.object()?,
                    chosen: r.option(|r| {
                        r.list(|r| {
                            let path = r.path()?;
                            let kind = type_of_byte(r.byte()?);
                            Some((path, (kind, r.flag()?)))
                        })
                    })?,
                    print: r.option(Reader::digest)?,
                    names: r.option(Names::read)?,
                })
            })?,
            objects: r.list(|r| Some((r.object()?, r.flag()?)))?,
            added: r.list(Reader::object)?,
            locals: r.list(|r| {
                Some(Local {
                    attrs: r.text()?,
                    name: r.text()?,
                    path: r.object()?,
                    answer: r.text()?,
                    print: r.option(Reader::digest)?,
                    names: r.option(Names::read)?,
                    tracked: r.bytes()?.to_vec(),
                    named: r.flag()?,
                })
            })?,
            built: r.list(|r| {
                Some(Built {
                    drv: r.object()?,
                    output: r.text()?,
                    path: r.object()?,
                    follows: r.flag()?,
                })
            })?,
            messages: r.list(|r| {
                let kind = if r.flag()? {
                    Message::Warning
                } else {
                    Message::Trace
                };
                Some((kind, r.text()?))
            })?,
        };
        r.0.is_empty().then_some(inputs)
    }
}

fn method(text: &str) -> Option<Method> {
    [Method::Flat, Method::Recursive, Method::Text]
        .into_iter()
        .find(|m| m.as_str() == text)
}

fn write_stat(w: &mut Writer, stat: &StatKey) {
    for number in [stat.dev, stat.ino, stat.size, stat.mtime_ns, stat.ctime_ns] {
        w.signed(number);
    }
}

fn read_stat(r: &mut Reader<'_>) -> Option<StatKey> {
    Some(StatKey {
        dev: r.signed()?,
        ino: r.signed()?,
        size: r.signed()?,
        mtime_ns: r.signed()?,
        ctime_ns: r.signed()?,
    })
}

/// One byte for what a path is.
pub(super) fn type_byte(kind: FileType) -> u8 {
    match kind {
        FileType::Regular => b'f',
        FileType::Directory => b'd',
        FileType::Symlink => b'l',
        FileType::Unknown => b'?',
    }
}

fn type_of_byte(byte: u8) -> FileType {
    match byte {
        b'f' => FileType::Regular,
        b'd' => FileType::Directory,
        b'l' => FileType::Symlink,
        _ => FileType::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_no_part_of_it_is() {
        let object = StorePath::from_base("c308p525g51kyw8nqxynl1pqbd6nyihx-t").unwrap();
        let mut inputs = Inputs::default();
        let stat = StatKey {
            dev: 1,
            ino: -2,
            size: 3,
            mtime_ns: 4,
            ctime_ns: 5,
        };
        let seen = Seen {
            answer: Some(Blake3::of(b"x")),
            stat: Some(stat),
        };
        inputs.files.insert(("/a".into(), Asked::Listing), seen);
        inputs.env.insert("HOME".to_owned(), None);
        inputs.objects.insert(object.clone(), false);
        inputs
            .messages
            .push((Message::Warning, "careful".to_owned()));
        inputs.trees.push(Tree {
            path: "/src".into(),
            name: "src".to_owned(),
            method: Method::Recursive,
            object,
            chosen: Some([("a".into(), (FileType::Symlink, false))].into()),
            print: None,
            names: None,
        });
        let bytes = inputs.to_bytes();
        let again = Inputs::from_bytes(&bytes).unwrap();
        assert_eq!(format!("{again:?}"), format!("{inputs:?}"));
        for end in 0..bytes.len() {
            assert!(Inputs::from_bytes(&bytes[..end]).is_none(), "{end}");
        }
    }
}
