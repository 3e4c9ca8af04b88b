//! The `sos` command.
fn main() {}
