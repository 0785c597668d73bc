//! Which columns a segment has, and when a job's rows need another one.
//!
//! Must not know: files, bytes, sizes. It is pure: rows and columns in, a decision out.
//!
//! Invariants
//! - A column never changes its place within a segment, and nothing is ever shifted.
//! - The trace columns stand last, and only we fill them.
//! - What is decided fits into one journal line: the names together have a limit. Rows that break it by
//!   themselves fail their job; those that break it with what others brought begin afresh.
//! - So have the cells that are empty because other rows have that column: a few wide rows among many
//!   narrow ones would be gigabytes of commas, made in memory while all others wait.
//! - The work grows with the cells, whatever their names and order: while the keeper decides for one
//!   job, all others wait.

use std::collections::HashSet;

use crate::config::limits;
use crate::core::{Cells, Row};

/// Trace column: the path below `incoming/`.
pub const FILE_COLUMN: &str = "_file";
/// Trace column: the job id.
pub const JOB_COLUMN: &str = "_job";

/// What a job's rows ask of the segment that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They fit its columns.
    Fits,
    /// They need a segment with these columns.
    Begin(Vec<String>),
}

/// Decides for the rows of one job, at least one. The error is the reason the job fails for good.
///
/// `open`: the columns of the segment that would take the rows, if there is one.
/// `fixed`: the route's own `columns`, which allow neither fewer nor more.
pub fn decide(
    open: Option<&[String]>,
    trace: bool,
    fixed: Option<&[String]>,
    rows: &[Row],
) -> Result<Decision, String> {
    let wanted = match fixed {
        Some(columns) => {
            check_fixed(columns, trace, rows)?;
            with_trace(columns.to_vec(), trace)
        }
        None => union(open, trace, rows)?,
    };
    Ok(if open == Some(wanted.as_slice()) { Decision::Fits } else { Decision::Begin(wanted) })
}

fn check_fixed(columns: &[String], trace: bool, rows: &[Row]) -> Result<(), String> {
    for row in rows {
        refuse_trace_keys(row, trace)?;
        let mut cells = Cells::of(row);
        let mut wanted = columns.iter().enumerate();
        if let Some((_, missing)) = wanted.find(|(at, name)| cells.get(*at, name).is_none()) {
            return Err(format!("missing column \"{}\"", shown(missing)));
        }
        // None stands twice, so with all there are further ones only where there are more.
        if row.0.len() > columns.len() {
            let known: HashSet<&String> = columns.iter().collect();
            let further = row.0.iter().find(|(name, _)| !known.contains(name));
            let name = further.map_or("", |(name, _)| name);
            return Err(format!("unexpected column \"{}\"", shown(name)));
        }
    }
    Ok(())
}

/// A name in a reason, which stands in a journal line.
fn shown(name: &str) -> String {
    match name.char_indices().nth(limits::COLUMN_SHOWN) {
        Some((at, _)) => format!("{}…", name.get(..at).unwrap_or_default()),
        None => name.to_owned(),
    }
}

/// The open segment's columns in their places, then the rows' further keys as first seen.
fn union(open: Option<&[String]>, trace: bool, rows: &[Row]) -> Result<Vec<String>, String> {
    for row in rows {
        refuse_trace_keys(row, trace)?;
    }
    let columns = with_further(data_columns(open.unwrap_or_default(), trace, rows), rows);
    let is_too_much = is_too_long(&columns) || empty_cells(&columns, rows) > limits::EMPTY_CELLS;
    let columns = if is_too_much { with_further(&[], rows) } else { columns };
    let (first, count) = (shown(columns.first().map_or("", |name| name)), columns.len());
    if is_too_long(&columns) {
        let most = bytesize::ByteSize::b(limits::COLUMNS as u64);
        return Err(format!(
            "its rows have {count} columns, \"{first}\" and so on, whose names are longer than {most}; \
             what differs from row to row belongs in the cells"
        ));
    }
    let empty = empty_cells(&columns, rows);
    if empty > limits::EMPTY_CELLS {
        let (rows, most) = (rows.len(), limits::EMPTY_CELLS);
        return Err(format!(
            "its {rows} rows have {count} columns, \"{first}\" and so on, of which each row fills few: \
             {empty} cells would be empty, {most} may be; what differs from row to row belongs in the cells"
        ));
    }
    Ok(with_trace(columns.into_iter().map(str::to_owned).collect(), trace))
}

fn with_further<'a>(known: &'a [String], rows: &'a [Row]) -> Vec<&'a str> {
    let mut columns: Vec<&str> = known.iter().map(String::as_str).collect();
    let mut seen: Option<HashSet<&str>> = None;
    for row in rows {
        for (at, (name, _)) in row.0.iter().enumerate() {
            // Most rows come in the order of the columns: look there first.
            if columns.get(at) == Some(&name.as_str()) {
                continue;
            }
            let seen = seen.get_or_insert_with(|| columns.iter().copied().collect());
            if seen.insert(name) {
                columns.push(name);
            }
        }
    }
    columns
}

fn is_too_long(columns: &[&str]) -> bool {
    columns.iter().map(|name| name.len()).sum::<usize>() > limits::COLUMNS
}

/// Cells below these columns that no row fills: a comma each.
fn empty_cells(columns: &[&str], rows: &[Row]) -> u64 {
    let filled = rows.iter().fold(0_usize, |sum, row| sum.saturating_add(row.0.len()));
    columns.len().saturating_mul(rows.len()).saturating_sub(filled) as u64
}

/// The columns without the trace columns. With `trace` off, a last `_file,_job` that no row brings
/// is left from when it was on.
fn data_columns<'a>(open: &'a [String], trace: bool, rows: &[Row]) -> &'a [String] {
    let own = |name: &str| rows.iter().any(|row| row.get(name).is_some());
    match open {
        [data @ .., file, job] if file == FILE_COLUMN && job == JOB_COLUMN => {
            if trace || !(own(FILE_COLUMN) || own(JOB_COLUMN)) { data } else { open }
        }
        _ => open,
    }
}

fn with_trace(mut columns: Vec<String>, trace: bool) -> Vec<String> {
    if trace {
        columns.extend([FILE_COLUMN.to_owned(), JOB_COLUMN.to_owned()]);
    }
    columns
}

fn refuse_trace_keys(row: &Row, trace: bool) -> Result<(), String> {
    let taken = |name: &&str| trace && row.get(name).is_some();
    match [FILE_COLUMN, JOB_COLUMN].iter().find(|name| taken(name)) {
        Some(name) => Err(format!("column \"{name}\" is taken by trace_columns")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(columns: &[&str]) -> Vec<String> {
        columns.iter().map(|c| (*c).to_owned()).collect()
    }

    fn row(keys: &[&str]) -> Row {
        Row::from_pairs(keys.iter().map(|k| (*k, "1")))
    }

    #[track_caller]
    fn check(
        open: Option<&[&str]>,
        trace: bool,
        fixed: Option<&[&str]>,
        rows: &[&[&str]],
        expected: Result<Option<&[&str]>, &str>,
    ) {
        let open = open.map(names);
        let fixed = fixed.map(names);
        let rows: Vec<Row> = rows.iter().map(|r| row(r)).collect();
        let expected = match expected {
            Ok(None) => Ok(Decision::Fits),
            Ok(Some(columns)) => Ok(Decision::Begin(names(columns))),
            Err(reason) => Err(reason.to_owned()),
        };
        assert_eq!(decide(open.as_deref(), trace, fixed.as_deref(), &rows), expected);
    }

    /// Goal: the first rows make the header. Method: two rows with different keys, with and without trace.
    #[test]
    fn first_rows_make_the_header() {
        check(None, false, None, &[&["b", "a"], &["a", "c"]], Ok(Some(&["b", "a", "c"])));
        check(None, true, None, &[&["b", "a"]], Ok(Some(&["b", "a", "_file", "_job"])));
        check(None, false, None, &[&[]], Ok(Some(&[])));
    }

    /// Goal: other order and fewer keys fit, a further key begins a segment, in its right place.
    /// Method: one case each.
    #[test]
    fn only_a_further_key_begins_a_segment() {
        check(Some(&["a", "b"]), false, None, &[&["b", "a"], &["b"], &[]], Ok(None));
        check(Some(&["a", "b"]), false, None, &[&["b", "c"]], Ok(Some(&["a", "b", "c"])));
        check(Some(&["a", "_file", "_job"]), true, None, &[&["a"]], Ok(None));
        check(
            Some(&["a", "_file", "_job"]),
            true,
            None,
            &[&["c"]],
            Ok(Some(&["a", "c", "_file", "_job"])),
        );
    }

    /// Goal: switching `trace_columns` begins a segment. Method: both ways; a worker's own keys stay its own.
    #[test]
    fn toggled_trace_begins_a_segment() {
        check(Some(&["a"]), true, None, &[&["a"]], Ok(Some(&["a", "_file", "_job"])));
        check(Some(&["a", "_file", "_job"]), false, None, &[&["a"]], Ok(Some(&["a"])));
        check(Some(&["a", "_file", "_job"]), false, None, &[&["a", "_file", "_job"]], Ok(None));
        check(None, true, None, &[&["_job"]], Err("column \"_job\" is taken by trace_columns"));
        check(
            None,
            true,
            Some(&["a"]),
            &[&["a", "_file"]],
            Err("column \"_file\" is taken by trace_columns"),
        );
    }

    /// Goal: fixed columns allow neither fewer nor more, and the error names the key.
    /// Method: each, also against an open segment that differs.
    #[test]
    fn fixed_columns_are_exact() {
        let fixed: Option<&[&str]> = Some(&["fruits", "meat"]);
        check(None, false, fixed, &[&["meat", "fruits"]], Ok(Some(&["fruits", "meat"])));
        check(Some(&["fruits", "meat"]), false, fixed, &[&["meat", "fruits"]], Ok(None));
        check(
            Some(&["meat", "fruits"]),
            false,
            fixed,
            &[&["meat", "fruits"]],
            Ok(Some(&["fruits", "meat"])),
        );
        check(None, false, fixed, &[&["fruits"]], Err("missing column \"meat\""));
        check(None, false, fixed, &[&["fruits", "meat", "veg"]], Err("unexpected column \"veg\""));
    }

    /// Goal: names that no journal line could hold fail their own job, and what one job brought stops no
    /// later one. Method: rows whose names are too long together; then some that are so only with those of
    /// the open segment.
    #[test]
    fn too_many_names_do_not_stop_the_journal() {
        let many = |from: usize, to: usize| -> Row {
            Row((from..to).map(|n| (format!("{n:0100}"), Vec::new())).collect())
        };
        let most = limits::COLUMNS / 100;
        let reason = decide(None, true, None, &[many(0, most + 1)]).unwrap_err();
        assert!(reason.starts_with(&format!("its rows have {} columns, ", most + 1)), "{reason}");
        assert!(reason.len() < 1000, "{reason}");
        let Ok(Decision::Begin(open)) = decide(None, true, None, &[many(0, most)]) else {
            panic!()
        };
        assert_eq!(decide(Some(&open), true, None, &[many(0, 2)]), Ok(Decision::Fits));
        let further = decide(Some(&open), true, None, &[many(most, most + 1)]);
        let alone = names(&[&format!("{most:0100}"), "_file", "_job"]);
        assert_eq!(further, Ok(Decision::Begin(alone)));
    }

    /// Goal: a few wide rows among many narrow ones do not become gigabytes of commas, and wide rows of one
    /// job do not make another's narrow ones so. Method: just as many empty cells as may be, and more, by
    /// the job's own columns and by those of the open segment.
    #[test]
    fn empty_cells_have_a_limit() {
        let wide = Row((0..1 << 13).map(|n| (n.to_string(), Vec::new())).collect());
        let rows = |narrow: usize| {
            let narrow = std::iter::repeat_n(row(&["0"]), narrow);
            std::iter::once(wide.clone()).chain(narrow).collect::<Vec<_>>()
        };
        let most = usize::try_from(limits::EMPTY_CELLS).unwrap() / ((1 << 13) - 1);
        let Ok(Decision::Begin(open)) = decide(None, false, None, &rows(most)) else { panic!() };
        assert_eq!(decide(Some(&open), false, None, &rows(most)), Ok(Decision::Fits));
        let reason = decide(None, false, None, &rows(most + 1)).unwrap_err();
        assert!(reason.starts_with("its 8195 rows have 8192 columns, \"0\" "), "{reason}");
        let narrow = rows(most + 1).split_off(1);
        assert_eq!(decide(Some(&open), false, None, &narrow), Ok(Decision::Begin(names(&["0"]))));
    }

    /// Goal: a reason stays one that the journal can hold. Method: names of 9 MB against fixed columns.
    #[test]
    fn a_name_without_end_is_shown_in_part() {
        let long = "x".repeat(9_000_000);
        for (fixed, given) in [("a", vec!["a", &long]), (long.as_str(), vec!["a"])] {
            let reason = decide(None, false, Some(&names(&[fixed])), &[row(&given)]).unwrap_err();
            assert!(reason.contains("column \"x"), "{reason}");
            assert!(reason.len() < 1000, "{} bytes", reason.len());
        }
    }

    /// Goal: wide rows in any order do not hold up the keeper, and with it all other routes.
    /// Method: so many columns in turned order, decided and encoded, that in squared time it would not end today.
    #[test]
    fn wide_rows_in_another_order_stop_nobody() {
        let there: Vec<String> = (0..150_000).map(|n| n.to_string()).collect();
        let turned = Row(there.iter().rev().map(|name| (name.clone(), b"1".to_vec())).collect());
        let rel = crate::core::RelPath::new(b"a".to_vec()).unwrap();
        let rows = [turned.clone(), turned];
        assert_eq!(decide(Some(&there), false, None, &rows), Ok(Decision::Fits));
        assert_eq!(decide(Some(&there), false, Some(&there), &rows), Ok(Decision::Fits));
        let job = crate::core::JobId::MIN;
        let bytes = crate::results::encode::rows(&there, false, &rows, &rel, job).unwrap();
        assert_eq!(bytes.len(), 2 * 2 * there.len());
    }
}
