//! The NAR archive format of Nix: streaming writer and reader.
