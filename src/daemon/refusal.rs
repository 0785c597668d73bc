//! Refused claims in a person's words: whose folder it is, who we are, what makes it claimable.
//!
//! Must not know: when a claim is tried again, who is told.
//!
//! Names of users and groups are those of `/etc/passwd` and `/etc/group`; where these say nothing, and
//! wherever names come from elsewhere (LDAP), the number stands.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::core::RelPath;
use crate::fs::{FileType, Filesystem, Stat};
use crate::spool::Spool;

/// Entries of a folder that are counted; beyond it says `or more`.
const COUNTED: usize = 1000;

/// Why a claim is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Refusal {
    /// `the folder is alice:alice 0755, inboxd runs as inboxd`
    pub(super) reason: String,
    /// What to do, where it is the folder.
    pub(super) fix: Option<String>,
}

impl Refusal {
    /// What the error means for this name, as far as its folder explains it.
    pub(super) fn of<F: Filesystem>(spool: &Spool<F>, rel: &RelPath, error: &io::Error) -> Self {
        let plain = || Self { reason: error.to_string(), fix: None };
        if Errno::from_io_error(error) == Some(Errno::XDEV) {
            let reason = "it is on another mount than the spool, and a claim must be one rename: copy it \
                          into a folder of incoming/ that is on none";
            return Self { reason: reason.to_owned(), fix: None };
        }
        if error.kind() != io::ErrorKind::PermissionDenied {
            return plain();
        }
        let Ok(folder) = open_parent(spool, rel) else { return plain() };
        let Ok(stat) = spool.fs.stat(&folder, Path::new(".")) else { return plain() };
        match spool.fs.stat(&spool.incoming, rel.as_path()) {
            // A folder that moves has its `..` written.
            Ok(own) if own.file_type == FileType::Dir && lets_us_write(&stat) => {
                Self::of_own_folder(rel, &own)
            }
            // rename(2) says EPERM of a sticky folder and of attributes, EACCES of permissions.
            Ok(_)
                if Errno::from_io_error(error) == Some(Errno::PERM) && stat.mode & 0o1000 == 0 =>
            {
                Self::of_attributes(rel)
            }
            Ok(_) if lets_us_write(&stat) && is_closed(spool) => Self {
                reason: "processing/ does not let inboxd write in it: chmod u+rwx processing"
                    .to_owned(),
                fix: None,
            },
            _ => Self::of_folder(rel, &stat),
        }
    }

    /// Nobody may move it.
    fn of_attributes(rel: &RelPath) -> Self {
        let file = quoted(&String::from_utf8_lossy(rel.as_bytes()));
        let reason = format!(
            "it is immutable or append-only, or its folder is: lsattr {file}, chattr -ia {file}"
        );
        // Of this file alone.
        Self { reason, fix: None }
    }

    /// The folder that is to be claimed is in its own way.
    fn of_own_folder(rel: &RelPath, stat: &Stat) -> Self {
        let it = Self::of_folder(rel, stat);
        let folder = quoted(&String::from_utf8_lossy(rel.as_bytes()));
        let fix = opens(&folder, Stat { mode: stat.mode & !0o1000, ..*stat }, our_uid());
        // Of this folder alone, not of all beside it: so it is no fix for those.
        Self { reason: format!("{} and must write in it to move it: {fix}", it.reason), fix: None }
    }

    fn of_folder(rel: &RelPath, stat: &Stat) -> Self {
        let us = name_of("/etc/passwd", our_uid());
        let owner = name_of("/etc/passwd", stat.uid);
        let group = name_of("/etc/group", stat.gid);
        let mode = stat.mode;
        let folder = match rel.parent() {
            [] => "incoming".to_owned(),
            parent => quoted(&String::from_utf8_lossy(parent)),
        };
        let once = opens(&folder, *stat, our_uid());
        Self {
            reason: format!("the folder is {owner}:{group} {mode:04o}, inboxd runs as {us}"),
            fix: Some(format!("once: {once}      for good: rsync -rtpO --chmod=D2770,F660")),
        }
    }
}

fn our_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The command that lets `us` move what stands in this folder.
fn opens(folder: &str, stat: Stat, us: u32) -> String {
    if stat.uid == us && us != 0 {
        // To its owner the rights of its group mean nothing.
        return format!("chmod u+rwx {folder}");
    }
    let group = name_of("/etc/group", rustix::process::getegid().as_raw());
    // In a sticky folder nobody takes what is another's, whatever the group.
    let sticky = if stat.mode & 0o1000 == 0 { "" } else { ",-t" };
    format!("chgrp -R {group} {folder} && chmod -R g+rwX,g+s{sticky} {folder}")
}

/// The other end of the rename, a folder of our own, is in its way.
fn is_closed<F: Filesystem>(spool: &Spool<F>) -> bool {
    spool.fs.stat(&spool.processing, Path::new(".")).is_ok_and(|stat| stat.mode & 0o300 != 0o300)
}

/// Whether the permissions of a folder let us write in it.
fn lets_us_write(stat: &Stat) -> bool {
    let us = our_uid();
    let groups = rustix::process::getgroups().unwrap_or_default();
    let is_group = stat.gid == rustix::process::getegid().as_raw()
        || groups.iter().any(|group| group.as_raw() == stat.gid);
    let bit = match (us, is_group) {
        (0, _) => return true,
        (us, _) if us == stat.uid => 0o200,
        (_, true) => 0o020,
        (_, false) => 0o002,
    };
    stat.mode & bit != 0
}

/// How many files stand in a name's folder, as far as they are counted: `37 files`.
pub(super) fn files_beside<F: Filesystem>(spool: &Spool<F>, rel: &RelPath) -> String {
    let list = open_parent(spool, rel).and_then(|folder| spool.fs.list(&folder));
    let is_file = |entry: &io::Result<crate::fs::Entry>| {
        entry.as_ref().is_ok_and(|entry| entry.file_type != Some(FileType::Dir))
    };
    let count = list.map_or(1, |list| list.take(COUNTED).filter(is_file).count());
    match count {
        1 => "1 file".to_owned(),
        COUNTED => format!("{COUNTED} files or more"),
        count => format!("{count} files"),
    }
}

fn open_parent<F: Filesystem>(spool: &Spool<F>, rel: &RelPath) -> io::Result<F::Dir> {
    use std::os::unix::ffi::OsStrExt;
    match rel.parent() {
        [] => Ok(spool.incoming.clone()),
        parent => {
            spool.fs.open_dir(&spool.incoming, Path::new(std::ffi::OsStr::from_bytes(parent)))
        }
    }
}

/// The name of a number in a file of `name:password:number:…` lines; else the number.
fn name_of(file: &str, id: u32) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    find_name(&text, id).map_or_else(|| id.to_string(), str::to_owned)
}

fn find_name(text: &str, id: u32) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    })
}

/// For a shell: as it is where that is safe.
fn quoted(path: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,@%=".contains(c);
    if path.chars().all(is_plain) && !path.starts_with('-') {
        return path.to_owned();
    }
    // A name that begins with a dash is no option behind `./`.
    let dash = if path.starts_with('-') { "./" } else { "" };
    let path = path.escape_debug().to_string().replace("\\'", "'").replace('\'', r"'\''");
    format!("'{dash}{path}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a number is a name where there is one. Method: a user database with odd lines.
    #[test]
    fn names_are_found_by_number() {
        let text =
            "root:x:0:0:root:/root:/bin/sh\n\n#\nbad\nalice:x:1000:1000::/:\nbob:x:1000:1::/:\n";
        assert_eq!(find_name(text, 0), Some("root"));
        assert_eq!(find_name(text, 1000), Some("alice"));
        assert_eq!(find_name(text, 7), None);
    }

    /// Goal: what is to be pasted into a shell does what it says. Method: plain, spaces, a quote, a dash.
    #[test]
    fn folders_are_quoted_for_a_shell() {
        assert_eq!(quoted("site/A"), "site/A");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("-rf"), "'./-rf'");
    }

    /// Goal: the message of the documentation. Method: a folder of root's, mode 0755, and a sticky one.
    #[test]
    fn the_message_names_folder_and_fix() {
        let stat = Stat {
            file_type: FileType::Dir,
            ino: 1,
            size: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            btime_ns: 0,
            mode: 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            is_mounted: false,
            is_fixed: false,
        };
        let rel = RelPath::new("siteA/x").unwrap();
        let us = name_of("/etc/passwd", our_uid());
        let group = name_of("/etc/group", rustix::process::getegid().as_raw());
        let refusal = Refusal::of_folder(&rel, &stat);
        assert_eq!(refusal.reason, format!("the folder is root:root 0755, inboxd runs as {us}"));
        let fix = format!(
            "once: chgrp -R {group} siteA && chmod -R g+rwX,g+s siteA      for good: rsync \
             -rtpO --chmod=D2770,F660"
        );
        assert_eq!(refusal.fix, Some(fix));
        let own = Refusal::of_own_folder(&rel, &stat);
        let said = format!(
            "the folder is root:root 0755, inboxd runs as {us} and must write in it to move it: chgrp \
             -R {group} siteA/x && chmod -R g+rwX,g+s siteA/x"
        );
        assert_eq!((own.reason, own.fix), (said, None));
        let sticky = Refusal::of_folder(&rel, &Stat { mode: 0o1777, ..stat });
        assert!(sticky.fix.unwrap().contains("g+rwX,g+s,-t siteA"));
        assert_eq!(opens("siteA", Stat { uid: 7, mode: 0o555, ..stat }, 7), "chmod u+rwx siteA");
    }
}
