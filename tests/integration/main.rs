//! The real binary, seen from outside: one test program, because linking is what takes long.
//!
//! Must not know: the library. What a user cannot see is tested where it is written.

// cfg(test) tells the lints that the helpers here may unwrap as tests may.
/// `batch`: sources, repeats, exit codes.
#[cfg(test)]
mod batch;
/// What a history must satisfy, each with a broken history that it must refuse.
#[cfg(test)]
mod checks;
/// Every command, once, and its messages.
#[cfg(test)]
mod cli;
/// Files that come with others.
#[cfg(test)]
mod companions;
/// Workers with several jobs at once.
#[cfg(test)]
mod crew;
/// The spools that `init --example` makes: what their pages say, done.
#[cfg(test)]
mod examples;
/// Folders that are one job.
#[cfg(test)]
mod folders;
/// A function of a Python file.
#[cfg(test)]
mod functions;
/// What is handed in by `batch SRC` and `submit`: folders that are one job, files with others.
#[cfg(test)]
mod handed_in;
/// Temporary spools, children and waiting.
#[cfg(test)]
mod harness;
/// What stands in the place of a worker's folders, or is another user's.
#[cfg(test)]
mod in_place;
/// How files come in: events, open files, producers.
#[cfg(test)]
mod intake;
/// The log as systemd's journal gets it.
#[cfg(test)]
mod journald;
/// Kill, crash, restart, retry, drain.
#[cfg(test)]
mod lifecycle;
/// Workers of every kind at their worst.
#[cfg(test)]
mod misbehaviour;
/// What workers mount, and leave.
#[cfg(test)]
mod mounted;
/// From another program to a spool.
#[cfg(test)]
mod moving_in;
/// Any name a file can have.
#[cfg(test)]
mod names;
/// What people meet who are new here.
#[cfg(test)]
mod newcomers;
/// Workers that leave their group, or that somebody stops or holds.
#[cfg(test)]
mod out_of_hand;
/// How fast and in which order routes start their jobs, and what makes them wait.
#[cfg(test)]
mod pace;
/// Where a spool may stand, and what stands in its way there.
#[cfg(test)]
mod places;
/// What workers protect, or make as another user.
#[cfg(test)]
mod protected;
/// The commands that the documents show.
#[cfg(test)]
mod readme;
/// Inputs whose records are tasks of their own.
#[cfg(test)]
mod records;
/// What a worker prints, and the rows it becomes.
#[cfg(test)]
mod results;
/// What goes once it is old, and what never does.
#[cfg(test)]
mod retention;
/// Which route takes a file: by what is in it, and by what may be in it.
#[cfg(test)]
mod routes;
/// Runners that answer HTTP: statuses, waits, those that inboxd starts.
#[cfg(test)]
mod runners;
/// HUP, TERM and what a running daemon makes of new settings.
#[cfg(test)]
mod signals;
/// Folders of the spool that someone removes while it is served.
#[cfg(test)]
mod taken_away;
/// What the first ten minutes look like on the screen.
#[cfg(test)]
mod transcripts;
/// The unit files, as systemd reads them.
#[cfg(test)]
mod unit_file;
/// What may happen to events: lost, refused, unheard, unknown.
#[cfg(test)]
mod watching;
/// Programs of one's own that stay: the protocol and its violations.
#[cfg(test)]
mod workers;
