//! Source bytes to text that rnix can read.

use std::borrow::Cow;

/// First of the 128 private characters that stand for the bytes 0x80 to 0xff of text that is not UTF-8.
const PRIVATE: u32 = 0x10_ff00;

/// Turns bytes into text: bytes that are not UTF-8 become private characters (`encode` turns them back), a lone carriage return becomes a
/// line feed. The second value says whether private characters were used.
pub(crate) fn decode(bytes: Cow<'_, [u8]>) -> (String, bool) {
    let mut foreign = false;
    let returns = memchr::memchr(b'\r', &bytes).is_some();
    let mut out = match String::from_utf8(bytes.into_owned()) {
        Ok(text) => text,
        Err(e) => {
            let bytes = e.as_bytes();
            let mut out = String::with_capacity(bytes.len());
            for chunk in bytes.utf8_chunks() {
                out.push_str(chunk.valid());
                for &b in chunk.invalid() {
                    foreign = true;
                    out.extend(char::from_u32(PRIVATE + u32::from(b)));
                }
            }
            out
        }
    };
    if returns {
        let mut s: Vec<char> = out.chars().collect();
        for i in 0..s.len() {
            if s[i] == '\r' && s.get(i + 1) != Some(&'\n') {
                s[i] = '\n';
            }
        }
        out = s.into_iter().collect();
    }
    (out, foreign)
}

/// The bytes of a piece of decoded text.
pub(crate) fn encode(text: &str, foreign: bool) -> Vec<u8> {
    if !foreign {
        return text.as_bytes().to_vec();
    }
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match (c as u32).checked_sub(PRIVATE) {
            Some(b @ 0x80..=0xff) => out.push(b as u8),
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}
