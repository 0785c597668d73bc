//! The binary: reads the command line, runs a command, prints its error, returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    inboxd::cli::main()
}
