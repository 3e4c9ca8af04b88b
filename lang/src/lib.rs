//! The Nix language: parse, resolve, evaluate.
