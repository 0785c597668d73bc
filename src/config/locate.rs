//! Line and column of a place in a text, for messages.
//!
//! Must not know: TOML.

/// Line and column, both from 1, of a byte offset; the column counts characters, as editors do.
///
/// An offset behind the end, or inside a character, counts as the next place before it.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = text.get(..end).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.matches('\n').count() + 1;
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Goal: the place is the one an editor shows. Method: starts, ends and a letter of two bytes.
    #[test]
    fn places_as_an_editor_counts() {
        let text = "ab\nüc\n";
        for (offset, place) in [
            (0, (1, 1)),
            (2, (1, 3)),
            (3, (2, 1)),
            (4, (2, 1)),
            (5, (2, 2)),
            (7, (3, 1)),
            (99, (3, 1)),
        ] {
            assert_eq!(line_and_column(text, offset), place, "offset {offset}");
        }
    }

    proptest! {
        /// Goal: no text and no offset panics, and the place exists.
        /// Method: random text, any offset.
        #[test]
        fn every_offset_has_a_place(text in "[aü\n]{0,30}", offset in 0usize..80) {
            let (line, column) = line_and_column(&text, offset);
            let of_line = text.split('\n').nth(line - 1).unwrap();
            prop_assert!(column <= of_line.chars().count() + 1);
        }
    }
}
