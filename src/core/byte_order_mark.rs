//! The byte order mark, which some programs of other systems put before a text.
//!
//! Must not know: what the text is. Invariant: only the first bytes of a whole text can be one.

/// U+FEFF in UTF-8 (RFC 3629, section 6).
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The text without it.
pub fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// `UTF-16` where the text begins as that does, which Excel calls "Unicode text"; a text of ours is UTF-8.
pub fn not_utf8(text: &[u8]) -> &'static str {
    match text {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "UTF-16, not UTF-8",
        _ => "not UTF-8",
    }
}
