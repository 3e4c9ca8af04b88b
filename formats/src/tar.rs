//! The tar archive format: a canonical ustar and pax writer, and a tolerant, bounded reader.
