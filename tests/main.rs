//! Black-box tests of the `sos` binary.
