//! `flake.lock`: the inputs of a flake, each pinned.
//!
//! # Format
//! JSON: `version` (5 to 7), `root` (the key of a node) and `nodes`. A node has `inputs` (a name to the key of a node, or to a list
//! of names that is followed from the root), and all but the root have `original` and `locked` attributes, `flake: false` where no
//! flake is meant, and from newer versions of Nix `parent` for a path inside the tree of another input.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::flake_ref::{self, FlakeRef, RefError};

/// The largest lock that is read.
pub const MAX_LOCK_BYTES: usize = 16 << 20;
/// Nodes of one lock.
const MAX_NODES: usize = 100_000;
/// Inputs that one `follows` may lead through.
const MAX_FOLLOWS: usize = 256;

/// What an input leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edge {
    /// A node of this lock.
    Node(usize),
    /// Whatever the input at this path, from the root, leads to.
    Follows(Vec<String>),
}

/// What a node is pinned to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// As the flake names it.
    pub original: FlakeRef,
    /// What it stood for when it was locked.
    pub locked: FlakeRef,
    /// Whether it is a flake, or just files.
    pub is_flake: bool,
    /// The input that a relative path starts at.
    pub parent: Option<Vec<String>>,
}

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its inputs.
    pub inputs: BTreeMap<String, Edge>,
    /// What it is; none for the root.
    pub pinned: Option<Pinned>,
}

/// A lock: nodes that name each other, the root first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlakeLock {
    /// The nodes.
    pub nodes: Vec<Node>,
}

impl Default for FlakeLock {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }
}

/// The node of the flake itself.
pub const ROOT: usize = 0;

impl FlakeLock {
    /// Parses a lock.
    ///
    /// # Errors
    /// When it is too large, no JSON, of another version, or names nodes that it does not have.
    pub fn parse(text: &[u8]) -> Result<Self, RefError> {
        let bad = |what: String| RefError(what);
        if text.len() > MAX_LOCK_BYTES {
            return Err(bad(format!(
                "lock file is larger than {} MiB",
                MAX_LOCK_BYTES >> 20
            )));
        }
        let whole: Value = serde_json::from_slice(text)
            .map_err(|e| bad(format!("lock file is not valid JSON: {e}")))?;
        let version = whole.get("version").and_then(Value::as_u64).unwrap_or(0);
        if !(5..=7).contains(&version) {
            return Err(bad(format!("lock file has unsupported version {version}")));
        }
        let root = whole.get("root").and_then(Value::as_str);
        let nodes = whole.get("nodes").and_then(Value::as_object);
        let (Some(root), Some(nodes)) = (root, nodes) else {
            return Err(bad("lock file has no 'root' or no 'nodes'".into()));
        };
        if nodes.len() > MAX_NODES {
            return Err(bad(format!("lock file has more than {MAX_NODES} nodes")));
        }
        // The root comes first, whatever it is called.
        let mut keys: Vec<&str> = vec![root];
        keys.extend(nodes.keys().map(String::as_str).filter(|k| *k != root));
        let index: BTreeMap<&str, usize> = keys.iter().enumerate().map(|(i, k)| (*k, i)).collect();
        let mut out = Vec::with_capacity(keys.len());
        for (i, key) in keys.iter().enumerate() {
            let node = nodes
                .get(*key)
                .ok_or_else(|| bad(format!("lock file references missing node '{key}'")))?;
            let pinned = if i == ROOT {
                None
            } else {
                Some(pinned(node, key)?)
            };
            out.push(Node {
                inputs: inputs(node, &index)?,
                pinned,
            });
        }
        Ok(Self { nodes: out })
    }

    /// Adds a node and returns its number.
    pub fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The node that a path of inputs leads to, from the root.
    pub fn find(&self, path: &[String]) -> Option<usize> {
        let mut todo: Vec<&String> = path.iter().rev().collect();
        let mut at = ROOT;
        let mut followed = 0;
        while let Some(name) = todo.pop() {
            match self.nodes.get(at)?.inputs.get(name)? {
                Edge::Node(n) => at = *n,
                Edge::Follows(path) => {
                    followed += 1;
                    if followed > MAX_FOLLOWS {
                        return None;
                    }
                    todo.extend(path.iter().rev());
                    at = ROOT;
                }
            }
        }
        Some(at)
    }

    /// The paths of the inputs that follow something that does not exist, with what they follow.
    pub fn dangling(&self) -> Vec<(String, String)> {
        let mut out = Vec::new();
        let mut seen = vec![false; self.nodes.len()];
        let mut todo = vec![(ROOT, Vec::new())];
        while let Some((at, path)) = todo.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            for (name, edge) in &self.nodes[at].inputs {
                let mut here = path.clone();
                here.push(name.clone());
                match edge {
                    Edge::Node(n) if *n < self.nodes.len() => todo.push((*n, here)),
                    Edge::Node(_) => {}
                    Edge::Follows(to) if self.find(to).is_none() => {
                        out.push((here.join("/"), to.join("/")));
                    }
                    Edge::Follows(_) => {}
                }
            }
        }
        out
    }

    /// The references of all nodes that can still change.
    pub fn unlocked(&self) -> impl Iterator<Item = &FlakeRef> {
        self.nodes
            .iter()
            .filter_map(|n| n.pinned.as_ref())
            .filter(|p| p.parent.is_none() && !flake_ref::is_locked(&p.locked.tree))
            .map(|p| &p.locked)
    }

    /// The lock in the form that Nix writes: only nodes that the root reaches, keys sorted, named after the first input that leads to
    /// them.
    pub fn to_json(&self) -> Value {
        let mut keys: Vec<Option<String>> = vec![None; self.nodes.len()];
        let mut used: std::collections::BTreeSet<String> = ["root".to_owned()].into();
        keys[ROOT] = Some("root".into());
        // Depth first and in order of names: the numbers behind names that occur twice depend on it.
        let mut todo: Vec<(usize, &String)> = Vec::new();
        todo.extend(children(&self.nodes[ROOT]));
        while let Some((at, name)) = todo.pop() {
            if at >= self.nodes.len() || keys[at].is_some() {
                continue;
            }
            let mut key = name.clone();
            let mut n = 2;
            while !used.insert(key.clone()) {
                key = format!("{name}_{n}");
                n += 1;
            }
            keys[at] = Some(key);
            todo.extend(children(&self.nodes[at]));
        }
        let mut nodes: BTreeMap<&str, Value> = BTreeMap::new();
        for (node, key) in self.nodes.iter().zip(&keys) {
            if let Some(key) = key {
                nodes.insert(key, node_json(node, &keys));
            }
        }
        let nodes: Map<String, Value> = nodes.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        json!({ "nodes": nodes, "root": "root", "version": 7 })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        format!("{:#}\n", self.to_json())
    }
}

/// The nodes that a node names, the last one first.
fn children(node: &Node) -> impl Iterator<Item = (usize, &String)> {
    node.inputs
        .iter()
        .rev()
        .filter_map(|(name, edge)| match edge {
            Edge::Node(n) => Some((*n, name)),
            Edge::Follows(_) => None,
        })
}

fn node_json(node: &Node, keys: &[Option<String>]) -> Value {
    let mut out: BTreeMap<&str, Value> = BTreeMap::new();
    if !node.inputs.is_empty() {
        let inputs: Map<String, Value> = node
            .inputs
            .iter()
            .map(|(name, edge)| {
                let value = match edge {
                    Edge::Node(n) => keys
                        .get(*n)
                        .cloned()
                        .flatten()
                        .map_or(Value::Null, Value::from),
                    Edge::Follows(path) => Value::from(path.clone()),
                };
                (name.clone(), value)
            })
            .collect();
        out.insert("inputs", Value::Object(inputs));
    }
    if let Some(pinned) = &node.pinned {
        out.insert("locked", flake_ref::to_json(&pinned.locked.to_attrs()));
        out.insert("original", flake_ref::to_json(&pinned.original.to_attrs()));
        if !pinned.is_flake {
            out.insert("flake", Value::from(false));
        }
        if let Some(parent) = &pinned.parent {
            out.insert("parent", Value::from(parent.clone()));
        }
    }
    Value::Object(out.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

fn pinned(node: &Value, key: &str) -> Result<Pinned, RefError> {
    let reference = |name: &str| -> Result<FlakeRef, RefError> {
        let value = node
            .get(name)
            .ok_or_else(|| RefError(format!("attribute '{name}' missing in lock file")))?;
        let mut attrs = flake_ref::from_json(value)?;
        attrs.remove("__final");
        // Version 5 and 6 keep what was learnt beside the reference.
        if name == "locked"
            && let Some(info) = node.get("info")
        {
            attrs.extend(flake_ref::from_json(info)?);
        }
        FlakeRef::from_attrs(attrs)
    };
    let locked = reference("locked")?;
    let parent = node.get("parent").map(names).transpose()?;
    if !flake_ref::is_locked(&locked.tree)
        && flake_ref::text(&locked.tree, "narHash").is_none()
        && !(locked.is_relative() && parent.is_some())
    {
        return Err(RefError(format!(
            "lock file contains unlocked input '{}' in node '{key}'",
            flake_ref::to_json(&locked.to_attrs())
        )));
    }
    Ok(Pinned {
        original: reference("original")?,
        locked,
        is_flake: node.get("flake").and_then(Value::as_bool).unwrap_or(true),
        parent,
    })
}

fn names(value: &Value) -> Result<Vec<String>, RefError> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|v| v.as_str().map(str::to_owned))
        .collect::<Option<_>>()
        .ok_or_else(|| RefError("lock file has a path of inputs that is no list of names".into()))
}

fn inputs(node: &Value, index: &BTreeMap<&str, usize>) -> Result<BTreeMap<String, Edge>, RefError> {
    let mut out = BTreeMap::new();
    let listed = node.get("inputs").and_then(Value::as_object);
    for (name, to) in listed.into_iter().flatten() {
        let edge = match to {
            Value::Array(_) => Edge::Follows(names(to)?),
            Value::String(key) => match index.get(key.as_str()) {
                Some(n) => Edge::Node(*n),
                None => {
                    return Err(RefError(format!(
                        "lock file references missing node '{key}'"
                    )));
                }
            },
            _ => {
                return Err(RefError(format!(
                    "input '{name}' in the lock file is neither a name nor a list"
                )));
            }
        };
        out.insert(name.clone(), edge);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"{
  "nodes": {
    "b": {
      "locked": {
        "lastModified": 1,
        "narHash": "sha256-x",
        "path": "/b",
        "type": "path"
      },
      "original": {
        "path": "/b",
        "type": "path"
      }
    },
    "b_2": {
      "flake": false,
      "inputs": {
        "q": [
          "b"
        ]
      },
      "locked": {
        "narHash": "sha256-y",
        "type": "tarball",
        "url": "file:///c.tar"
      },
      "original": {
        "type": "tarball",
        "url": "file:///c.tar"
      }
    },
    "c": {
      "inputs": {
        "b": "b_2"
      },
      "locked": {
        "narHash": "sha256-z",
        "path": "/c",
        "type": "path"
      },
      "original": {
        "path": "/c",
        "type": "path"
      }
    },
    "root": {
      "inputs": {
        "b": "b",
        "c": "c"
      }
    }
  },
  "root": "root",
  "version": 7
}
"#;

    #[test]
    fn a_lock_is_written_as_it_was_read() {
        let lock = FlakeLock::parse(LOCK.as_bytes()).unwrap();
        assert_eq!(lock.to_text(), LOCK);
        let path = ["c", "b", "q"].map(str::to_owned);
        assert_eq!(lock.find(&path), lock.find(&path[1..2]));
        assert!(lock.dangling().is_empty());
    }

    #[test]
    fn foreign_bytes_are_refused_with_a_reason() {
        for (text, why) in [
            ("", "not valid JSON"),
            ("[]", "unsupported version 0"),
            ("{\"version\":99}", "unsupported version 99"),
            ("{\"version\":7}", "no 'root'"),
            (
                "{\"version\":7,\"root\":\"r\",\"nodes\":{}}",
                "missing node 'r'",
            ),
            (
                "{\"version\":7,\"root\":\"r\",\"nodes\":{\"r\":{\"inputs\":{\"a\":\"b\"}}}}",
                "missing node 'b'",
            ),
            (
                "{\"version\":7,\"root\":\"r\",\"nodes\":{\"r\":{\"inputs\":{\"a\":1}}}}",
                "neither a name nor a list",
            ),
            (
                "{\"version\":7,\"root\":\"r\",\"nodes\":{\"r\":{},\"a\":{\"locked\":{\"type\":\"path\",\"path\":\"/x\"},\"original\":{\"type\":\"path\",\"path\":\"/x\"}}}}",
                "unlocked input",
            ),
        ] {
            let found = FlakeLock::parse(text.as_bytes()).unwrap_err().0;
            assert!(found.contains(why), "{text}: {found}");
        }
    }

    #[test]
    fn follows_that_lead_in_a_circle_end() {
        let text = r#"{"version":7,"root":"r","nodes":{"r":{"inputs":{"a":["b"],"b":["a"]}}}}"#;
        let lock = FlakeLock::parse(text.as_bytes()).unwrap();
        assert_eq!(lock.find(&["a".to_owned()]), None);
        assert_eq!(lock.dangling().len(), 2);
    }
}
