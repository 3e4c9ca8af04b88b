//! Pure byte formats and ids of sos: no I/O, no clock, no async.
