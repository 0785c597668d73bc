//! A spool opened for one owner: its folders, where they are and who may write there, its lock, and
//! recovery with what that needs of the machine.
//!
//! Must not know: the keeper's thread, signals, the runtime.
//!
//! Invariants
//! - Nothing is recovered without the lock, or while an earlier daemon's workers run.
//! - Nobody else may change what decides which code runs.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::ShellError;
use crate::config::Settings;
use crate::daemon::keeper::Keeper;
use crate::daemon::recover::{Report, Surroundings, recover};
use crate::daemon::service::now_ms;
use crate::fs::real::mount_of;
use crate::fs::{Filesystem, RealFs};
use crate::spool::lock::Lock;
use crate::spool::{Spool, layout};
use crate::worker::orphans;

/// The spool opened for one owner: what `serve` and commands that change it without a daemon share.
pub struct Opened {
    /// Held until dropped.
    pub lock: Lock,
    /// The folders.
    pub spool: Spool<RealFs>,
    /// The spool's absolute path.
    pub path: PathBuf,
}

/// Opens a spool: checks where its folders are and who may write, makes missing ones, takes the lock, and
/// ends what an earlier daemon left running.
pub fn open(path: &Path) -> Result<Opened, ShellError> {
    let failed = |source| ShellError::Folder { path: path.to_owned(), source };
    let path = std::fs::canonicalize(path).map_err(failed)?;
    let folder = |(name, source)| ShellError::Folder { path: path.join(name), source };
    // First: it says more of what stands in the way than the system does.
    check_places(&path)?;
    layout::make(&path).map_err(folder)?;
    let root = RealFs.open_root(&path).map_err(failed)?;
    let spool = Spool::open(RealFs, root).map_err(folder)?;
    let lock = Lock::take(&path)?;
    check_renames(&spool, &path)?;
    let mark = orphans::mark(&path).map_err(ShellError::Orphans)?;
    orphans::end_marked(&mark).map_err(ShellError::Orphans)?;
    Ok(Opened { lock, spool, path })
}

/// Files are renamed from each of these to another.
const MOVED_BETWEEN: [&str; 5] = ["incoming", "processing", "done", "error", "output"];

/// One filesystem, and nobody else may change what decides which code runs.
pub fn check_places(path: &Path) -> Result<(), ShellError> {
    let stat = |path: &Path| {
        std::fs::symlink_metadata(path)
            .map_err(|source| ShellError::Folder { path: path.to_owned(), source })
    };
    let home = stat(path)?;
    let within = path.ancestors().skip(1).find(|place| place.ends_with("incoming"));
    if let Some(place) = within
        && place.with_file_name("inboxd.toml").is_file()
    {
        return Err(ShellError::Unsafe(format!(
            "{} is in {}, which belongs to another spool\n  All that stands here would be that one's input. \
             Move this spool out of it.",
            path.display(),
            place.display()
        )));
    }
    for (name, _) in layout::FOLDERS {
        let folder = path.join(name);
        let meta = match stat(&folder) {
            // `open` makes them; `check` looks at a spool that was never opened.
            Err(ShellError::Folder { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                continue;
            }
            other => other?,
        };
        if meta.is_symlink() {
            return Err(ShellError::Unsafe(format!(
                "{} is a symbolic link\n  A claim must be one rename. Put the folder itself there, or the \
                 whole spool where the link leads.",
                folder.display()
            )));
        }
        if !meta.is_dir() {
            let folder = folder.display();
            return Err(ShellError::Unsafe(format!("{folder} is not a folder; move it away")));
        }
        if meta.dev() != home.dev() {
            return Err(ShellError::Unsafe(format!(
                "{} is on another filesystem than {}\n  A claim must be one rename. Put the whole \
                 spool on one filesystem.",
                folder.display(),
                path.display()
            )));
        }
        let mounts = [mount_of(path), mount_of(&folder)];
        if let [Some(ours), Some(its)] = mounts
            && ours != its
            && MOVED_BETWEEN.contains(&name)
        {
            return Err(ShellError::Unsafe(format!(
                "{} is a mount of its own\n  A claim must be one rename, which leads from no mount to \
                 another, not even within one filesystem. Mount the whole spool instead.",
                folder.display()
            )));
        }
    }
    let us = rustix::process::geteuid().as_raw();
    let ours = ["inboxd.toml", "routes.d", "journal", "processing"].map(|name| path.join(name));
    let parents = path.ancestors().map(Path::to_owned);
    // A file of a plug-in may come from elsewhere with its own mode, and says which program runs.
    let plug_ins = std::fs::read_dir(path.join("routes.d")).into_iter().flatten().flatten();
    let plug_ins = plug_ins.map(|entry| entry.path());
    for place in ours.into_iter().chain(plug_ins).chain(parents) {
        let Ok(meta) = std::fs::symlink_metadata(&place) else { continue };
        if meta.is_symlink() {
            let place = place.display();
            return Err(ShellError::Unsafe(format!(
                "{place} is a symbolic link: who may change what it leads to could run code as this \
                 user\n  Put the file or folder itself there."
            )));
        }
        if let Some(who) = others_who_may_write(&meta, us) {
            return Err(ShellError::Unsafe(format!(
                "{} may be changed by {who}, who could then run code as this user\n  chmod go-w {} \
                 or chown it to the user inboxd runs as.",
                place.display(),
                place.display()
            )));
        }
    }
    Ok(())
}

/// Nothing is ever overwritten because the kernel refuses to (`RENAME_NOREPLACE`), which network
/// filesystems and most of FUSE do not know: rename(2) says EINVAL there, and only of a file that exists.
fn check_renames(spool: &Spool<RealFs>, path: &Path) -> Result<(), ShellError> {
    use rustix::io::Errno;
    let (at, names) = (&spool.journal, ["probe", "probe.renamed"].map(Path::new));
    let clear = || names.iter().for_each(|name| drop(spool.fs.remove_file(at, name)));
    // What a daemon left that was killed right here.
    clear();
    let tried = spool
        .fs
        .create(at, names[0], 0o600)
        .and_then(|_| spool.fs.rename(at, names[0], at, names[1]));
    clear();
    let errno = tried.err().and_then(|error| Errno::from_io_error(&error));
    if errno == Some(Errno::ROFS) {
        return Err(ShellError::Unsafe(format!(
            "{} is on a filesystem that is mounted read-only\n  After an error the kernel does that by \
             itself: see dmesg. Nothing that was taken in is lost.",
            path.display()
        )));
    }
    if !matches!(errno, Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)) {
        // A full disk, say: it is met again where it is dealt with.
        return Ok(());
    }
    Err(ShellError::Unsafe(format!(
        "{} is on a filesystem that cannot rename a file without replacing another one\n  Put the spool \
         on a local one, such as ext4, xfs or btrfs; what is on the other one may be copied into incoming/.",
        path.display()
    )))
}

/// Workers as root only where the settings ask for it.
pub fn check_user(settings: &Settings) -> Result<(), ShellError> {
    if !rustix::process::geteuid().is_root() || settings.allow_root {
        return Ok(());
    }
    Err(ShellError::Unsafe(
        "inboxd runs as root, and so would its workers\n  Start it as another user, or say \
         `allow_root = true` in inboxd.toml."
            .to_owned(),
    ))
}

fn others_who_may_write(meta: &std::fs::Metadata, us: u32) -> Option<&'static str> {
    let is_sticky_dir = meta.is_dir() && meta.mode() & 0o1000 != 0;
    if meta.uid() != us && meta.uid() != 0 {
        return Some("its owner");
    }
    // In a sticky folder (/tmp) nobody can rename or remove what is not theirs.
    if is_sticky_dir {
        return None;
    }
    if meta.mode() & 0o002 != 0 {
        return Some("everyone");
    }
    // A user's own group is common (umask 002); a group of others cannot be told from it, so only
    // a group other than the user's own counts.
    let own_group = meta.gid() == rustix::process::getegid().as_raw() || meta.gid() == 0;
    (meta.mode() & 0o020 != 0 && !own_group).then_some("its group")
}

/// Recovers a spool that was opened.
pub fn recover_spool(
    opened: &Opened,
    settings: &Settings,
) -> Result<(Keeper<RealFs>, Report), ShellError> {
    let around =
        Surroundings { path: opened.path.clone(), boot: boot_id()?, now: now_ms(), random };
    Ok(recover(opened.spool.clone(), settings, &around)?)
}

/// Names this boot of the machine.
pub(super) fn boot_id() -> Result<String, ShellError> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(ShellError::start("without a boot id"))?;
    Ok(boot.trim().to_owned())
}

/// Ten random bytes; the clock's nanoseconds where the kernel gives none.
pub fn random() -> [u8; 10] {
    let mut bytes = [0; 10];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    if got != Ok(bytes.len()) {
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        for (to, from) in bytes.iter_mut().zip(nanos.to_le_bytes()) {
            *to = from;
        }
    }
    bytes
}
