//! Recipe front ends and the sos language library.
