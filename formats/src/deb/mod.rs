//! The formats of the Debian archive: ar containers, control text, versions, relations, Release files.

pub mod ar;
pub mod clearsign;
pub mod control;
pub mod package;
pub mod relation;
pub mod release;
pub mod version;

pub use ar::{ArError, ArReader, Member};
pub use clearsign::{ClearSignError, ClearSigned};
pub use control::{ControlError, Field, Paragraph, Paragraphs};
pub use package::{Codec, DebError, DebReader};
pub use relation::{Group, Relation, RelationError, RelationOp};
pub use release::{IndexEntry, Release, ReleaseError};
pub use version::{Version, VersionError};
