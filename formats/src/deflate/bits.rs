//! Bits into bytes, the first bit lowest.

/// Takes bits.
pub(super) struct Bits<'a> {
    out: &'a mut Vec<u8>,
    word: u64,
    /// Bits in `word`, fewer than 32.
    len: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            word: 0,
            len: 0,
        }
    }

    /// Appends the lowest `len` bits of `value`, at most 32; the others are zero.
    #[inline]
    pub(super) fn put(&mut self, value: u64, len: u8) {
        self.word |= value << self.len;
        self.len += u32::from(len);
        if self.len >= 32 {
            self.out.extend_from_slice(
                self.word
                    .to_le_bytes()
                    .first_chunk::<4>()
                    .unwrap_or(&[0; 4]),
            );
            self.word >>= 32;
            self.len -= 32;
        }
    }

    /// Fills the byte that is begun.
    pub(super) fn align(&mut self) {
        while self.len > 0 {
            self.out.push(self.word.to_le_bytes()[0]);
            self.word >>= 8;
            self.len = self.len.saturating_sub(8);
        }
    }

    /// Appends whole bytes; the bits before must end on a byte.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
}
