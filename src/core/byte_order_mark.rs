//! The byte order mark, which some programs of other systems put before a text.
//!
//! Must not know: what the text is. Invariant: only the first three bytes of a whole text can be one.

/// U+FEFF in UTF-8 (RFC 3629, section 6).
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The text without it.
pub fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}
