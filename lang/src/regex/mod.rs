//! POSIX regular expressions.
#[derive(Default)]
pub(crate) struct Cache;
