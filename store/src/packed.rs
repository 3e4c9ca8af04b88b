//! Texts that the database keeps compressed: small and many, so what compresses them is made once a thread.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::get_frame_content_size;

/// Speed matters more than size.
const LEVEL: i32 = 1;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Uses what a slot holds, which is made with the first use.
fn with<T, R>(
    slot: &RefCell<Option<T>>,
    make: impl FnOnce() -> io::Result<T>,
    work: impl FnOnce(&mut T) -> io::Result<R>,
) -> io::Result<R> {
    let mut slot = slot.borrow_mut();
    let made = match &mut *slot {
        Some(made) => made,
        none => none.insert(make()?),
    };
    work(made)
}

/// Compresses a text.
pub(crate) fn pack(text: &[u8]) -> io::Result<Vec<u8>> {
    COMPRESSOR.with(|slot| {
        with(
            slot,
            || Compressor::new(LEVEL),
            |compressor| compressor.compress(text),
        )
    })
}

/// Restores what [`pack`] made; one larger than `max` bytes is an error.
pub(crate) fn unpack(packed: &[u8], max: usize) -> io::Result<Vec<u8>> {
    // Written by `pack`, so its size stands in it; what lies about that is refused below.
    let bytes = get_frame_content_size(packed)
        .ok()
        .flatten()
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it does not say its size"))?;
    DECOMPRESSOR.with(|slot| {
        with(slot, Decompressor::new, |decompressor| {
            decompressor.decompress(packed, bytes.min(max))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back() {
        for len in [0, 1, 1000, 300_000] {
            let text = b"text ".repeat(len);
            let packed = pack(&text).expect("packed");
            assert_eq!(unpack(&packed, text.len()).expect("unpacked"), text);
            assert!(len == 0 || unpack(&packed, text.len() - 1).is_err());
        }
        assert!(unpack(b"no zstd", 100).is_err());
        assert!(unpack(b"", 100).is_err());
    }
}
