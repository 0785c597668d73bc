//! Which columns a segment has, and when a job's rows need another one.
//!
//! Must not know: files, bytes, sizes. It is pure: rows and columns in, a decision out.
//!
//! Invariants
//! - A column never changes its place within a segment, and nothing is ever shifted.
//! - The trace columns stand last, and only we fill them.

use crate::core::Row;

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
        if let Some(missing) = columns.iter().find(|c| row.get(c).is_none()) {
            return Err(format!("missing column \"{missing}\""));
        }
        if let Some((further, _)) = row.0.iter().find(|(name, _)| !columns.contains(name)) {
            return Err(format!("unexpected column \"{further}\""));
        }
    }
    Ok(())
}

/// The open segment's columns in their places, then the rows' further keys as first seen.
fn union(open: Option<&[String]>, trace: bool, rows: &[Row]) -> Result<Vec<String>, String> {
    let mut columns = data_columns(open.unwrap_or_default(), trace, rows).to_vec();
    for row in rows {
        refuse_trace_keys(row, trace)?;
        for (at, (name, _)) in row.0.iter().enumerate() {
            // Most rows come in the order of the columns: look there first.
            if columns.get(at) != Some(name) && !columns.contains(name) {
                columns.push(name.clone());
            }
        }
    }
    Ok(with_trace(columns, trace))
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
}
