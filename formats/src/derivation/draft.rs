//! A derivation while it is made: by reference, and in lists instead of maps. Evaluations make tens of thousands.

use super::aterm::{list, plain, string, write_command, write_output, write_outputs_with};
use super::modulo::Inputs;
use super::{Output, fixed_path};
use crate::Bytes;
use crate::hash::Sha256;
use crate::store_path::{self, StoreDir, StorePath, StorePathError};

/// What a derivation is made of. [`super::DrvHashes::instantiate`] makes it one.
#[derive(Debug, Clone, Default)]
pub struct Draft<'a> {
    /// The outputs, in ascending order of names. Those whose path follows from the derivation are `Deferred` at first.
    pub outputs: Vec<(&'a str, Output)>,
    /// Derivations whose outputs are needed, each with the name of one, in any order; doubles do not matter.
    pub input_drvs: Vec<(&'a StorePath, &'a str)>,
    /// Store objects that are needed as they are, in any order; doubles do not matter.
    pub input_srcs: Vec<&'a StorePath>,
    /// The platform to run on.
    pub system: &'a str,
    /// The program to run.
    pub builder: &'a [u8],
    /// Its arguments.
    pub args: Vec<&'a [u8]>,
    /// Its environment, in any order, each name once. A variable named like an output is given that output's path instead.
    pub env: Vec<(&'a [u8], &'a [u8])>,
}

/// Texts of a derivation, in memory that the next one uses again.
#[derive(Debug, Default)]
pub(super) struct Texts {
    hashed_inputs: Bytes,
    /// From the comma after the input derivations to the end, the values of the outputs' variables left empty.
    rest: Bytes,
    /// Where these values go, and of which output each is.
    holes: Vec<(usize, usize)>,
    /// All of it, as it is stored.
    pub(super) whole: Bytes,
}

impl Draft<'_> {
    /// Puts everything in order.
    pub(super) fn sort(&mut self) {
        self.input_drvs.sort_unstable();
        self.input_drvs.dedup();
        self.input_srcs.sort_unstable();
        self.input_srcs.dedup();
        self.env.sort_unstable_by_key(|variable| variable.0);
    }

    /// The store objects that the text refers to, in order.
    fn references(&self) -> Vec<&StorePath> {
        let drvs = self.input_drvs.iter().map(|input| input.0);
        let mut all: Vec<&StorePath> = self.input_srcs.iter().copied().chain(drvs).collect();
        // Most have no sources, so that this finds them in order.
        all.sort();
        all.dedup();
        all
    }

    /// Writes what the texts have in common.
    pub(super) fn write_shared(&self, dir: &StoreDir, inputs: &Inputs<'_>, to: &mut Texts) {
        to.hashed_inputs.clear();
        super::aterm::write_hashed_inputs(&mut to.hashed_inputs, inputs);
        self.write_rest(dir, to);
    }

    fn write_rest(&self, dir: &StoreDir, to: &mut Texts) {
        let Texts { rest, holes, .. } = to;
        rest.clear();
        holes.clear();
        let sources = self.input_srcs.iter().copied();
        let args = self.args.iter().copied();
        write_command(rest, dir, sources, (self.system, self.builder, args));
        rest.extend_from_slice(b",[");
        // Two lists in order, as one.
        let mut variables = self.env.iter().peekable();
        let mut outputs = self.outputs.iter().enumerate().peekable();
        let mut first = true;
        let mut open = |out: &mut Bytes, key: &[u8]| {
            out.extend_from_slice(if first { b"(" } else { b",(" });
            first = false;
            string(out, key);
            out.push(b',');
        };
        loop {
            let output = outputs.peek().map(|(_, output)| output.0.as_bytes());
            match (variables.peek().copied(), output) {
                (None, None) => break,
                (Some((key, value)), output) if output.is_none_or(|output| *key < output) => {
                    open(rest, key);
                    string(rest, value);
                    variables.next();
                }
                (variable, Some(output)) => {
                    if variable.is_some_and(|(key, _)| *key == output) {
                        variables.next();
                    }
                    open(rest, output);
                    if let Some((i, _)) = outputs.next() {
                        holes.push((rest.len(), i));
                    }
                    plain(rest, &[]);
                }
                // A variable that comes before no output comes before all.
                (Some(_), None) => break,
            }
            rest.push(b')');
        }
        rest.extend_from_slice(b"])");
    }

    /// The hash from which the paths of the outputs follow.
    pub(super) fn masked_hash(
        &self,
        dir: &StoreDir,
        texts: &Texts,
    ) -> Result<Sha256, StorePathError> {
        let mut outputs = Vec::with_capacity(64);
        self.write_outputs(&mut outputs, dir, None)?;
        Ok(Sha256::of_parts(&[
            &outputs,
            &texts.hashed_inputs,
            &texts.rest,
        ]))
    }

    /// Writes the whole text; gives the hash of the form that names inputs by their hashes, unless the output is fixed.
    pub(super) fn write_whole(
        &self,
        dir: &StoreDir,
        name: &str,
        texts: &mut Texts,
    ) -> Result<Sha256, StorePathError> {
        let Texts {
            hashed_inputs,
            rest,
            holes,
            whole,
        } = texts;
        whole.clear();
        self.write_outputs(whole, dir, Some(name))?;
        let outputs_end = whole.len();
        list(
            whole,
            self.input_drvs.chunk_by(|a, b| a.0 == b.0),
            |out, group| {
                out.push(b'(');
                plain(out, &[dir.as_str(), "/", group[0].0.as_str()]);
                out.push(b',');
                list(out, group, |out, input| plain(out, &[input.1]));
                out.push(b')');
            },
        );
        let inputs_end = whole.len();
        let mut at = 0;
        for &(hole, output) in holes.iter() {
            whole.extend_from_slice(&rest[at..hole]);
            self.write_value(whole, dir, name, output)?;
            at = hole + 2;
        }
        whole.extend_from_slice(&rest[at..]);
        if let Some(hash) = self.fixed_hash(dir, name)? {
            return Ok(hash);
        }
        Ok(Sha256::of_parts(&[
            &whole[..outputs_end],
            hashed_inputs,
            &whole[inputs_end..],
        ]))
    }

    /// The path of the derivation, given its text.
    pub(super) fn path(
        &self,
        dir: &StoreDir,
        name: &str,
        texts: &Texts,
    ) -> Result<StorePath, StorePathError> {
        let refs = self.references();
        store_path::make_text(dir, &format!("{name}.drv"), &Sha256::of(&texts.whole), refs)
    }

    fn write_outputs(
        &self,
        out: &mut Bytes,
        dir: &StoreDir,
        name: Option<&str>,
    ) -> Result<(), StorePathError> {
        let outputs = self.outputs.iter().map(|(output, how)| (*output, how));
        write_outputs_with(out, outputs, |out, (output, how)| {
            write_output(out, dir, name, output, how)
        })
    }

    /// Writes the value of an output's variable: its path, if that is known, or what stands for it.
    fn write_value(
        &self,
        out: &mut Bytes,
        dir: &StoreDir,
        name: &str,
        output: usize,
    ) -> Result<(), StorePathError> {
        let (output, how) = &self.outputs[output];
        match how {
            Output::InputAddressed(path) => plain(out, &[dir.as_str(), "/", path.as_str()]),
            Output::Fixed { method, hash } => {
                let path = fixed_path(dir, name, output, *method, hash)?;
                plain(out, &[dir.as_str(), "/", path.as_str()]);
            }
            Output::Floating { .. } | Output::Impure { .. } => {
                plain(out, &[&store_path::placeholder(output)]);
            }
            Output::Deferred => plain(out, &[]),
        }
        Ok(())
    }

    /// By what a derivation with a fixed output is known, whatever its inputs.
    fn fixed_hash(&self, dir: &StoreDir, name: &str) -> Result<Option<Sha256>, StorePathError> {
        match self.outputs.first() {
            Some((output, Output::Fixed { method, hash })) => {
                super::modulo::fixed_hash(dir, name, output, *method, hash).map(Some)
            }
            _ => Ok(None),
        }
    }
}
