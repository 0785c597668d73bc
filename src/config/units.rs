//! `unit = "folder"`: which folder is one job, and what cannot go with it.
//!
//! Must not know: the disk. Whether a name stands for a folder is said by who asks.
//!
//! Invariants
//! - The outermost folder that such a route's glob takes is the job. All below it belongs to it, whatever
//!   other routes would take.
//! - A route takes files or folders, never both.

use super::request::Body;
use super::{Route, RouteTable, Unit, Worker, request};
use crate::core::RelPath;

impl RouteTable {
    /// The index in the settings of the route whose job this folder is.
    pub fn find_folder(&self, rel: &RelPath) -> Option<usize> {
        if !self.has_units() || self.unit_above(rel).is_some() {
            return None;
        }
        self.folder_taker(rel)
    }

    /// The folder, above this name, that is one job.
    pub fn unit_above(&self, rel: &RelPath) -> Option<RelPath> {
        if !self.has_units() {
            return None;
        }
        let bytes = rel.as_bytes();
        let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        let folders = ends.filter_map(|end| RelPath::new(bytes.get(..end)?));
        folders.into_iter().find(|folder| self.folder_taker(folder).is_some())
    }

    /// The name of the file that says, beside it, that a folder is whole.
    pub fn folder_sentinel(&self, rel: &RelPath) -> Option<Vec<u8>> {
        self.sentinel_of(self.find_folder(rel)?, rel)
    }
}

/// What is wrong with a route whose jobs are folders: the key at which to say it, and what.
pub(super) fn fault(route: &Route, given: &dyn Fn(&str) -> bool) -> Option<(&'static str, String)> {
    if route.unit != Unit::Folder {
        return None;
    }
    if route.done_file.is_none() {
        let message = "nothing tells when a folder is complete: add a line such as done_file = \
                       \"{name}.ok\", and let who drops a folder make that file beside it, last";
        return Some(("unit", message.to_owned()));
    }
    let of_a_file = ["stdin", "fields", "schema", "records", "on_repeat"];
    if let Some(key) = of_a_file.into_iter().find(|key| given(key)) {
        let message = format!(
            "`{key}` is about what is in one file, and with unit = \"folder\" a job is a folder; \
             take one of the two lines out"
        );
        return Some((key, message));
    }
    if given("call") && route.warm.call == super::Call::Kwargs {
        let message = "with unit = \"folder\" there is no JSON object to call with: the function \
                       gets the folder's path; take one of the two lines out";
        return Some(("call", message.to_owned()));
    }
    let Worker::Http { url } = &route.worker else { return None };
    let sends = route.http.method.has_body() && !matches!(route.http.body, Body::Template(_));
    if sends || request::reads_input(url, &route.http) {
        let message = "with unit = \"folder\" there is no one file to send or to read members of; \
                       tell the runner where it is: body = { path = \"{path}\" }";
        return Some(("http", message.to_owned()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn route(name: &str, unit: Unit, globs: &[&str]) -> Route {
        Route {
            unit,
            glob: globs.iter().map(ToString::to_string).collect(),
            done_file: (unit == Unit::Folder).then(|| "{name}.ok".to_owned()),
            ..Route::new(name, vec!["true".to_owned()])
        }
    }

    fn rel(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    /// Goal: a folder is one job for the outermost route that takes it, and what is in it is for nobody.
    /// Method: a catch-all for files before a route for folders; folders in folders, names on both sides.
    #[test]
    fn what_is_in_a_folder_that_is_one_job_is_no_job() {
        let routes = vec![
            route("files", Unit::File, &[]),
            route("scans", Unit::Folder, &["scan-*"]),
            route("deep", Unit::Folder, &["a/b/*"]),
        ];
        let table = RouteTable::new(&Settings { routes, ..Settings::default() }).unwrap();
        for (name, folder, file) in [
            ("scan-1", Some(1), Some(0)),
            ("x/scan-1", Some(1), Some(0)),
            ("scan-1/page", None, None),
            ("scan-1/scan-2", None, None),
            ("x/scan-1/y/z.tif", None, None),
            ("a/b", None, Some(0)),
            ("a/b/c", Some(2), Some(0)),
            ("a/b/c/d", None, None),
            ("other/page", None, Some(0)),
        ] {
            assert_eq!(table.find_folder(&rel(name)), folder, "{name} as a folder");
            assert_eq!(table.find(&rel(name)), file, "{name} as a file");
        }
        assert_eq!(table.unit_above(&rel("x/scan-1/scan-2/z")), Some(rel("x/scan-1")));
        assert_eq!(table.folder_sentinel(&rel("x/scan-1")), Some(b"scan-1.ok".to_vec()));
        assert_eq!(table.announced(&rel("x/scan-1.ok")), Some(rel("x/scan-1")));
        assert_eq!(table.announced(&rel("other.ok")), None);
        assert_eq!(table.sentinel(&rel("scan-1")), None);
    }

    /// Goal: without such a route nothing changes. Method: the same names.
    #[test]
    fn without_such_a_route_no_folder_is_a_job() {
        let routes = vec![route("files", Unit::File, &[])];
        let table = RouteTable::new(&Settings { routes, ..Settings::default() }).unwrap();
        assert_eq!(table.find_folder(&rel("a")), None);
        assert_eq!(table.unit_above(&rel("a/b/c")), None);
        assert_eq!(table.find(&rel("a/b/c")), Some(0));
    }
}
