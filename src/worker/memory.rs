//! Whether memory ended a worker: the kernel's own count of it for our cgroup (version 2).
//!
//! Must not know: workers. It counts the kills of the whole cgroup, so that two workers killed at
//! the same time, one of them for memory, are both taken for it.
//!
//! Where there is no such cgroup nothing is known, and nothing is claimed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Compares the count before an attempt with the one after it: two small reads at most.
#[derive(Debug)]
pub(super) struct OomWatch {
    events: Option<File>,
    before: Option<u64>,
}

impl OomWatch {
    /// For our own cgroup, of which the workers are a part.
    pub(super) fn new() -> Self {
        let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self { events: events_path(&cgroup).and_then(|path| File::open(path).ok()), before: None }
    }

    /// An attempt begins.
    pub(super) fn begin(&mut self) {
        self.before = self.count();
    }

    /// Whether something of the cgroup was killed for memory since [`Self::begin`].
    pub(super) fn ran_out(&self) -> bool {
        self.before.zip(self.count()).is_some_and(|(before, now)| now > before)
    }

    fn count(&self) -> Option<u64> {
        let mut text = [0u8; 512];
        let n = self.events.as_ref()?.read_at(&mut text, 0).ok()?;
        oom_kills(std::str::from_utf8(text.get(..n)?).ok()?)
    }
}

/// The line `0::/some/cgroup`; the root has no such file, which opening it finds out.
fn events_path(cgroup: &str) -> Option<PathBuf> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new("/sys/fs/cgroup").join(own).join("memory.events"))
}

fn oom_kills(events: &str) -> Option<u64> {
    events.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a kill for memory is seen, and only between begin and end. Method: a file in the kernel's form.
    #[test]
    fn counts_between_begin_and_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.events");
        let write = |n: u32| {
            std::fs::write(&path, format!("low 0\nmax 7\noom 9\noom_kill {n}\noom_group_kill 0\n"))
                .unwrap();
        };
        write(2);
        let mut watch = OomWatch { events: File::open(&path).ok(), before: None };
        assert!(!watch.ran_out());
        watch.begin();
        assert!(!watch.ran_out());
        write(3);
        assert!(watch.ran_out());
        watch.begin();
        assert!(!watch.ran_out());
    }

    /// Goal: our cgroup is found in both layouts, and none where there is none. Method: three files of proc.
    #[test]
    fn finds_the_cgroup() {
        let path = |text| events_path(text);
        assert_eq!(
            path("0::/system.slice/inboxd.service\n"),
            Some("/sys/fs/cgroup/system.slice/inboxd.service/memory.events".into())
        );
        assert_eq!(path("4:memory:/x\n0::/y\n"), Some("/sys/fs/cgroup/y/memory.events".into()));
        assert_eq!(path("4:memory:/x\n"), None);
    }
}
