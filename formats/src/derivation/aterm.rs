//! The textual form of a derivation, as stored in `.drv` files.

use std::collections::{BTreeMap, BTreeSet};

use super::modulo::Inputs;
use super::{Derivation, Method, Output, fixed_path};
use crate::Bytes;
use crate::hash::{Hash, HashAlgo};
use crate::store_path::{self, StoreDir, StorePath, StorePathError};

/// Why bytes are not a derivation, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset} of the derivation: {problem}")]
pub struct AtermError {
    /// Where reading stopped.
    pub offset: usize,
    /// What is wrong there.
    pub problem: AtermProblem,
}

/// What can be wrong in the bytes of a derivation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AtermProblem {
    /// Something else should stand here.
    #[error("expected `{0}`")]
    Expected(&'static str),
    /// A string has no closing quote.
    #[error("string is not closed")]
    OpenString,
    /// A backslash stands before a character that needs none, or a line break stands bare.
    #[error("string is not escaped as derivations are written")]
    BadEscape,
    /// A string that must be text is not UTF-8.
    #[error("string is not UTF-8")]
    NotUtf8,
    /// Elements are doubled or not in ascending order.
    #[error("elements are not in ascending order")]
    NotSorted,
    /// A string should be a store path.
    #[error(transparent)]
    BadPath(#[from] StorePathError),
    /// An output name that cannot be part of a path.
    #[error("`{0}` is not a usable output name")]
    BadOutputName(String),
    /// The algorithm or hash of an output is not understood.
    #[error("output has unusable hash `{algo}` `{hash}`")]
    BadOutputHash {
        /// The third field.
        algo: String,
        /// The fourth field.
        hash: String,
    },
    /// The path of a fixed output does not follow from its hash.
    #[error("path of the fixed output should be `{expected}`")]
    WrongFixedPath {
        /// The path that follows from the hash.
        expected: String,
    },
    /// Outputs whose paths come about in different ways, or several fixed ones.
    #[error("outputs are addressed in ways that cannot be combined")]
    MixedOutputs,
    /// A list that must have an element has none.
    #[error("list is empty")]
    EmptyList,
    /// A form of derivation that sos does not implement.
    #[error("derivation needs unsupported feature `{0}`")]
    Unsupported(String),
    /// Bytes after the end.
    #[error("bytes follow the derivation")]
    TrailingBytes,
}

/// What stands for the hash of an impure output.
const IMPURE: &str = "impure";

impl Derivation {
    /// Writes the derivation named `name`.
    ///
    /// # Format
    /// `Derive([OUTPUTS],[INPUT DRVS],[INPUT SOURCES],"system","builder",[ARGS],[ENV])`, no white space, no line break
    /// at the end. Output: `("name","path","algo","hex")`, with empty strings for what is not known or not fixed.
    /// Input derivation: `("path",["output",..])`. Environment: `("key","value")`. All but the arguments in ascending
    /// order of bytes. In strings `"`, `\`, LF, CR and TAB are escaped with a backslash, all else is raw.
    ///
    /// # Errors
    /// When `name` gives no legal path for a fixed output.
    ///
    /// # Source
    /// `NixOS/nix` `doc/manual/source/protocols/derivation-aterm.md`.
    pub fn to_aterm(&self, dir: &StoreDir, name: &str) -> Result<Bytes, StorePathError> {
        let mut out = Vec::with_capacity(self.size_hint());
        self.write_outputs(&mut out, dir, Some(name))?;
        self.write_inputs(&mut out, dir);
        self.write_rest(&mut out, dir, |out, _, value| string(out, value));
        Ok(out)
    }

    fn write_inputs(&self, out: &mut Bytes, dir: &StoreDir) {
        let prefix = [dir.as_str(), "/"];
        list(out, &self.input_drvs, |out, (path, outputs)| {
            out.push(b'(');
            plain(out, &[prefix[0], prefix[1], path.as_str()]);
            out.push(b',');
            list(out, outputs, |out, o| plain(out, &[o]));
            out.push(b')');
        });
    }

    /// Writes the form that is hashed: input derivations are given by hash, and outputs may be blanked.
    pub(super) fn to_hashed_aterm(
        &self,
        dir: &StoreDir,
        name: &str,
        mask_outputs: bool,
        inputs: &Inputs<'_>,
    ) -> Result<Bytes, StorePathError> {
        let mut out = Vec::with_capacity(self.size_hint());
        self.write_outputs(&mut out, dir, (!mask_outputs).then_some(name))?;
        write_hashed_inputs(&mut out, inputs);
        self.write_rest(&mut out, dir, |out, key, value| {
            let masked = mask_outputs && self.is_output(key);
            string(out, if masked { b"" } else { value });
        });
        Ok(out)
    }

    /// Whether a variable is named like an output: derivations have few of these.
    fn is_output(&self, key: &[u8]) -> bool {
        if self.outputs.len() > 8 {
            return str::from_utf8(key).is_ok_and(|name| self.outputs.contains_key(name));
        }
        self.outputs.keys().any(|name| name.as_bytes() == key)
    }

    fn size_hint(&self) -> usize {
        let env: usize = self.env.iter().map(|(k, v)| k.len() + v.len() + 8).sum();
        let args: usize = self.args.iter().map(|a| a.len() + 4).sum();
        let paths = self.outputs.len() + self.input_drvs.len() + self.input_srcs.len();
        128 + env + args + paths * 96
    }

    /// Writes up to the comma after the outputs; without a name all paths are blank.
    fn write_outputs(
        &self,
        out: &mut Bytes,
        dir: &StoreDir,
        name: Option<&str>,
    ) -> Result<(), StorePathError> {
        write_outputs_with(out, &self.outputs, |out, (output, how)| {
            write_output(out, dir, name, output, how)
        })
    }

    /// Writes from the comma after the input derivations to the end; the values of variables by `write_value`, from name and value.
    fn write_rest(
        &self,
        out: &mut Bytes,
        dir: &StoreDir,
        mut write_value: impl FnMut(&mut Bytes, &[u8], &[u8]),
    ) {
        let args = self.args.iter().map(Vec::as_slice);
        write_command(
            out,
            dir,
            &self.input_srcs,
            (&self.system, &self.builder, args),
        );
        out.push(b',');
        list(out, &self.env, |out, (key, value)| {
            out.push(b'(');
            string(out, key);
            out.push(b',');
            write_value(out, key, value);
            out.push(b')');
        });
        out.push(b')');
    }

    /// Reads a derivation.
    ///
    /// Only the one canonical form is accepted, so that writing the result under its own name gives the same bytes.
    ///
    /// # Errors
    /// Anything [`AtermProblem`] lists, with the offset.
    pub fn parse_aterm(bytes: &[u8], dir: &StoreDir) -> Result<Self, AtermError> {
        let mut r = Reader { bytes, at: 0, dir };
        if bytes.starts_with(b"DrvWithVersion(") {
            return r.fail(AtermProblem::Unsupported(
                "versioned derivations".to_owned(),
            ));
        }
        let mut drv = Self::default();
        r.expect("Derive(")?;
        r.list(|r| {
            let (name, output) = r.output()?;
            ascending_insert(&mut drv.outputs, name, output).or_else(|p| r.fail(p))
        })?;
        if let Err(problem) = check_outputs(&drv.outputs) {
            return r.fail(problem);
        }
        r.expect(",")?;
        r.list(|r| {
            r.expect("(")?;
            let path = r.path()?;
            r.expect(",")?;
            let mut outputs = BTreeMap::new();
            r.list(|r| {
                let name = r.output_name()?;
                ascending_insert(&mut outputs, name, ()).or_else(|p| r.fail(p))
            })?;
            if outputs.is_empty() {
                return r.fail(AtermProblem::EmptyList);
            }
            r.expect(")")?;
            ascending_insert(&mut drv.input_drvs, path, outputs.into_keys().collect())
                .or_else(|p| r.fail(p))
        })?;
        r.expect(",")?;
        r.list(|r| {
            let path = r.path()?;
            if drv.input_srcs.last().is_some_and(|last| *last >= path) {
                return r.fail(AtermProblem::NotSorted);
            }
            drv.input_srcs.insert(path);
            Ok(())
        })?;
        r.expect(",")?;
        drv.system = r.text()?;
        r.expect(",")?;
        drv.builder = r.string()?;
        r.expect(",")?;
        r.list(|r| {
            drv.args.push(r.string()?);
            Ok(())
        })?;
        r.expect(",")?;
        r.list(|r| {
            r.expect("(")?;
            let key = r.string()?;
            r.expect(",")?;
            let value = r.string()?;
            r.expect(")")?;
            ascending_insert(&mut drv.env, key, value).or_else(|p| r.fail(p))
        })?;
        r.expect(")")?;
        if r.at != bytes.len() {
            return r.fail(AtermProblem::TrailingBytes);
        }
        Ok(drv)
    }
}

/// Writes up to the comma after the outputs.
pub(super) fn write_outputs_with<T>(
    out: &mut Bytes,
    outputs: impl IntoIterator<Item = T>,
    write: impl Fn(&mut Bytes, T) -> Result<(), StorePathError>,
) -> Result<(), StorePathError> {
    out.extend_from_slice(b"Derive([");
    for (i, output) in outputs.into_iter().enumerate() {
        out.extend_from_slice(if i > 0 { b",(" } else { b"(" });
        write(out, output)?;
        out.push(b')');
    }
    out.extend_from_slice(b"],");
    Ok(())
}

/// Writes what is between the brackets of one output; without the name of the derivation, its path is blank.
pub(super) fn write_output(
    out: &mut Bytes,
    dir: &StoreDir,
    name: Option<&str>,
    output: &str,
    how: &Output,
) -> Result<(), StorePathError> {
    string(out, output.as_bytes());
    out.push(b',');
    match how {
        Output::InputAddressed(path) if name.is_some() => {
            plain(out, &[dir.as_str(), "/", path.as_str()]);
            out.extend_from_slice(b",\"\",\"\"");
        }
        Output::InputAddressed(_) | Output::Deferred => {
            out.extend_from_slice(b"\"\",\"\",\"\"");
        }
        Output::Fixed { method, hash } => {
            let path = name.map(|n| fixed_path(dir, n, output, *method, hash));
            match path.transpose()? {
                Some(path) => plain(out, &[dir.as_str(), "/", path.as_str()]),
                None => plain(out, &[]),
            }
            out.push(b',');
            plain(out, &[method.prefix(), &hash.algo().to_string()]);
            out.push(b',');
            plain(out, &[&hash.to_hex()]);
        }
        Output::Floating { method, algo } | Output::Impure { method, algo } => {
            out.extend_from_slice(b"\"\",");
            plain(out, &[method.prefix(), &algo.to_string()]);
            out.push(b',');
            let impure = matches!(how, Output::Impure { .. });
            plain(out, &[if impure { IMPURE } else { "" }]);
        }
    }
    Ok(())
}

/// Writes the input derivations with their hashes in place of their paths. They come in the order of these.
pub(super) fn write_hashed_inputs(out: &mut Bytes, inputs: &Inputs<'_>) {
    // Different derivations can have one hash; their outputs are then listed together.
    list(out, inputs.chunk_by(|a, b| a.0 == b.0), |out, group| {
        out.extend_from_slice(b"(\"");
        out.extend_from_slice(group[0].0);
        out.extend_from_slice(b"\",");
        match group {
            [(_, output)] => list(out, [output], |out, o| plain(out, &[o])),
            _ => {
                let all: BTreeSet<&str> = group.iter().map(|g| g.1).collect();
                list(out, all, |out, o| plain(out, &[o]));
            }
        }
        out.push(b')');
    });
}

fn check_outputs(outputs: &BTreeMap<String, Output>) -> Result<(), AtermProblem> {
    let mut kinds = outputs.values().map(std::mem::discriminant);
    let Some(first) = kinds.next() else {
        return Err(AtermProblem::EmptyList);
    };
    let fixed = matches!(outputs.values().next(), Some(Output::Fixed { .. }));
    if kinds.any(|k| k != first) || fixed && !(outputs.len() == 1 && outputs.contains_key("out")) {
        return Err(AtermProblem::MixedOutputs);
    }
    Ok(())
}

fn ascending_insert<K: Ord, V>(
    map: &mut BTreeMap<K, V>,
    key: K,
    value: V,
) -> Result<(), AtermProblem> {
    if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
        return Err(AtermProblem::NotSorted);
    }
    map.insert(key, value);
    Ok(())
}

/// Writes what stands between the input derivations and the variables, from the comma before it: sources, and the system, the builder
/// and the arguments of `command`.
pub(super) fn write_command<'a>(
    out: &mut Bytes,
    dir: &StoreDir,
    sources: impl IntoIterator<Item = &'a StorePath>,
    command: (&str, &[u8], impl IntoIterator<Item = &'a [u8]>),
) {
    let (system, builder, args) = command;
    out.push(b',');
    list(out, sources, |out, path| {
        plain(out, &[dir.as_str(), "/", path.as_str()]);
    });
    out.push(b',');
    string(out, system.as_bytes());
    out.push(b',');
    string(out, builder);
    out.push(b',');
    list(out, args, string);
}

pub(super) fn list<T>(
    out: &mut Bytes,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Bytes, T),
) {
    out.push(b'[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// Writes a string that is known to hold nothing to escape.
pub(super) fn plain(out: &mut Bytes, parts: &[&str]) {
    out.push(b'"');
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}

pub(super) fn string(out: &mut Bytes, bytes: &[u8]) {
    out.push(b'"');
    let mut rest = bytes;
    while let Some(i) = first_special(rest) {
        out.extend_from_slice(&rest[..i]);
        out.push(b'\\');
        out.push(match rest[i] {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            other => other,
        });
        rest = &rest[i + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Offset of the first byte that must be escaped. Nearly all blocks hold none, which vector instructions see at once: without short
/// cuts, and with all control characters up to CR taken together.
fn first_special(bytes: &[u8]) -> Option<usize> {
    let special = |b: &u8| matches!(b, b'"' | b'\\' | b'\n' | b'\r' | b'\t');
    let suspect = |&b: &u8| (b <= b'\r') | (b == b'"') | (b == b'\\');
    let (blocks, rest) = bytes.as_chunks::<16>();
    for (i, block) in blocks.iter().enumerate() {
        if block.iter().fold(false, |any, b| any | suspect(b))
            && let Some(at) = block.iter().position(special)
        {
            return Some(i * 16 + at);
        }
    }
    let at = rest.iter().position(special)?;
    Some(blocks.len() * 16 + at)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    dir: &'a StoreDir,
}

impl Reader<'_> {
    fn fail<T>(&self, problem: AtermProblem) -> Result<T, AtermError> {
        Err(AtermError {
            offset: self.at,
            problem,
        })
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.bytes[self.at..].starts_with(token.as_bytes());
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &'static str) -> Result<(), AtermError> {
        if self.eat(token) {
            Ok(())
        } else {
            self.fail(AtermProblem::Expected(token))
        }
    }

    fn list(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), AtermError>,
    ) -> Result<(), AtermError> {
        self.expect("[")?;
        if self.eat("]") {
            return Ok(());
        }
        loop {
            element(self)?;
            if self.eat("]") {
                return Ok(());
            }
            self.expect(",")?;
        }
    }

    fn string(&mut self) -> Result<Bytes, AtermError> {
        self.expect("\"")?;
        let mut out = Vec::new();
        loop {
            let rest = &self.bytes[self.at..];
            let Some(i) = memchr::memchr2(b'"', b'\\', rest) else {
                self.at = self.bytes.len();
                return self.fail(AtermProblem::OpenString);
            };
            let bare = &rest[..i];
            if let Some(j) = memchr::memchr3(b'\n', b'\r', b'\t', bare) {
                self.at += j;
                return self.fail(AtermProblem::BadEscape);
            }
            out.extend_from_slice(bare);
            self.at += i + 1;
            if rest[i] == b'"' {
                return Ok(out);
            }
            out.push(match self.bytes.get(self.at) {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(&c @ (b'"' | b'\\')) => c,
                _ => return self.fail(AtermProblem::BadEscape),
            });
            self.at += 1;
        }
    }

    fn text(&mut self) -> Result<String, AtermError> {
        let bytes = self.string()?;
        String::from_utf8(bytes).or_else(|_| self.fail(AtermProblem::NotUtf8))
    }

    fn path(&mut self) -> Result<StorePath, AtermError> {
        let text = self.text()?;
        StorePath::from_absolute(self.dir, &text).or_else(|e| self.fail(AtermProblem::BadPath(e)))
    }

    fn output_name(&mut self) -> Result<String, AtermError> {
        let name = self.text()?;
        if store_path::check_name(&name).is_err() {
            return self.fail(AtermProblem::BadOutputName(name));
        }
        Ok(name)
    }

    fn output(&mut self) -> Result<(String, Output), AtermError> {
        self.expect("(")?;
        let name = self.output_name()?;
        self.expect(",")?;
        let path = self.text()?;
        self.expect(",")?;
        let algo = self.text()?;
        self.expect(",")?;
        let hash = self.text()?;
        let output = self.output_kind(&path, &algo, &hash)?;
        self.expect(")")?;
        Ok((name, output))
    }

    fn output_kind(&self, path: &str, algo: &str, hash: &str) -> Result<Output, AtermError> {
        let path = if path.is_empty() {
            None
        } else {
            match StorePath::from_absolute(self.dir, path) {
                Ok(path) => Some(path),
                Err(e) => return self.fail(AtermProblem::BadPath(e)),
            }
        };
        if algo.is_empty() && hash.is_empty() {
            return Ok(path.map_or(Output::Deferred, Output::InputAddressed));
        }
        let bad_hash = || AtermProblem::BadOutputHash {
            algo: algo.to_owned(),
            hash: hash.to_owned(),
        };
        let Some((method, algo)) = split_algo(algo) else {
            return self.fail(bad_hash());
        };
        match (path, hash) {
            (None, "") => Ok(Output::Floating { method, algo }),
            (None, IMPURE) => Ok(Output::Impure { method, algo }),
            (Some(path), _) => {
                // Only lower-case hexadecimal, since that is how it is written.
                let parsed = Hash::parse_any(hash, Some(algo));
                let Some(hash) = parsed.ok().filter(|h| h.to_hex() == hash) else {
                    return self.fail(bad_hash());
                };
                let expected = fixed_path(self.dir, path.name(), "out", method, &hash)
                    .or_else(|e| self.fail(AtermProblem::BadPath(e)))?;
                if expected != path {
                    return self.fail(AtermProblem::WrongFixedPath {
                        expected: expected.absolute(self.dir),
                    });
                }
                Ok(Output::Fixed { method, hash })
            }
            (None, _) => self.fail(bad_hash()),
        }
    }
}

fn split_algo(text: &str) -> Option<(Method, HashAlgo)> {
    let (method, name) = [
        Method::Recursive,
        Method::Text,
        Method::Rootfs,
        Method::Tree,
    ]
    .into_iter()
    .find_map(|m| Some((m, text.strip_prefix(m.prefix())?)))
    .unwrap_or((Method::Flat, text));
    let algo = name.parse().ok()?;
    method.check_algo(algo).ok()?;
    Some((method, algo))
}
