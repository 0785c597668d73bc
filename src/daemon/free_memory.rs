//! How much memory a new worker could have: the machine's, or what is left to our cgroup, whichever is less.
//!
//! Must not know: what follows from it. Where nothing can be found out, nothing is claimed.
//!
//! Of a cgroup (version 2) each ancestor's limit counts, too. File cache that nobody has used lately counts
//! as free, since the kernel gives it up before it kills anything; `MemAvailable` says the same of the machine.

use std::path::Path;

/// Bytes; `None` where the system does not say.
pub(super) fn available() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| number_after(&text, "MemAvailable:"));
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let ours = left_to(Path::new("/sys/fs/cgroup"), &cgroup);
    [machine.map(|kib| kib.saturating_mul(1024)), ours].into_iter().flatten().min()
}

/// The least that the cgroup of this line of /proc/self/cgroup and those above it have left.
fn left_to(root: &Path, cgroup: &str) -> Option<u64> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = root.join(own);
    own.ancestors().take_while(|folder| folder.starts_with(root)).filter_map(left_in).min()
}

/// What one cgroup has left; `None` where it has no limit.
fn left_in(folder: &Path) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let most: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    let cache = read("memory.stat").and_then(|text| number_after(&text, "inactive_file"));
    Some(most.saturating_sub(used.saturating_sub(cache.unwrap_or(0))))
}

/// The number behind a word at the beginning of a line.
fn number_after(text: &str, word: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: of a cgroup and its parents the tightest counts, its unused cache is free, and no limit is none.
    /// Method: a tree in the kernel's form.
    #[test]
    fn the_tightest_cgroup_counts() {
        let root = tempfile::tempdir().unwrap();
        let group = |path: &str, max: &str, current: u64, cache: u64| {
            let folder = root.path().join(path);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("memory.max"), format!("{max}\n")).unwrap();
            std::fs::write(folder.join("memory.current"), format!("{current}\n")).unwrap();
            let stat = format!("anon 7\ninactive_file {cache}\nfile 9\n");
            std::fs::write(folder.join("memory.stat"), stat).unwrap();
        };
        group("a", "1000", 900, 300);
        group("a/b", "max", 900, 300);
        group("a/b/c", "700", 100, 0);
        let left = |line: &str| left_to(root.path(), line);
        assert_eq!(left("0::/a/b/c\n"), Some(400));
        assert_eq!(left("0::/a/b\n"), Some(400));
        assert_eq!(left("0::/\n"), None);
        assert_eq!(left("4:memory:/a\n"), None);
        assert!(available().is_some_and(|bytes| bytes > 0));
    }
}
