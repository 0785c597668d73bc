//! The binary: reads the command line, runs a command, prints its error, returns its exit code.

fn main() {}
