//! Bits into bytes, the first bit lowest.

/// Takes bits.
pub(super) struct Bits<'a> {
    out: &'a mut Vec<u8>,
    /// Bytes of `out` that are written; what is beyond is room.
    at: usize,
    word: u64,
    /// Bits in `word`, fewer than 8 after each [`Bits::flush`].
    len: u32,
}

/// What a flush writes.
const WORD: usize = 8;

impl<'a> Bits<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        let at = out.len();
        Self {
            out,
            at,
            word: 0,
            len: 0,
        }
    }

    /// Makes room for so many bits; more than there is room for are lost.
    pub(super) fn reserve(&mut self, bits: u64) {
        let bytes = usize::try_from(bits / 8).unwrap_or(usize::MAX);
        self.out.resize(self.at + bytes + 2 * WORD, 0);
    }

    /// Appends the lowest `len` bits of `value`; the others are zero. Between two flushes there is room for 56.
    #[inline(always)]
    pub(super) fn add(&mut self, value: u64, len: u32) {
        self.word |= value << (self.len & 63);
        self.len += len;
    }

    /// Writes whole bytes into the room that was made.
    #[inline(always)]
    pub(super) fn flush(&mut self) {
        if let Some(place) = self.out.get_mut(self.at..self.at + WORD) {
            place.copy_from_slice(&self.word.to_le_bytes());
        }
        self.at += (self.len / 8) as usize;
        self.word >>= self.len & 56;
        self.len &= 7;
    }

    /// Appends the lowest `len` bits of `value`, at most 56; the others are zero.
    pub(super) fn put(&mut self, value: u64, len: u8) {
        self.add(value, u32::from(len));
        self.reserve(0);
        self.flush();
    }

    /// Fills the byte that is begun.
    pub(super) fn align(&mut self) {
        self.len = self.len.next_multiple_of(8);
        self.reserve(0);
        self.flush();
    }

    /// Appends whole bytes; the bits before must end on a byte.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.out.truncate(self.at);
        self.out.extend_from_slice(bytes);
        self.at = self.out.len();
    }
}

impl Drop for Bits<'_> {
    fn drop(&mut self) {
        self.out.truncate(self.at);
    }
}
