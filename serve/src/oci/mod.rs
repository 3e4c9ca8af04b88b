//! Images by the OCI distribution API, for pulling.

mod api;
mod images;
mod names;

pub(crate) use api::answer;
pub(crate) use images::Images;
pub(crate) use names::{is_name, name_from};
