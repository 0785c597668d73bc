//! How the binary is linked: in a release at a fixed address (`-no-pie`), where that is known to work.
//!
//! Must not know: what is in it. Only the program's own code and tables lie at a fixed address: stack, heap
//! and libraries are still where the kernel puts them, anew at each start.
//!
//! Why: in a program that may lie anywhere 25,000 pointers in tables are corrected at each start. That
//! makes half a megabyte private to each process, the supervisor and the daemon, and reads as much to do
//! so: 1.6 of the 10 MiB that both together took.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|it| it == value);
    let is_known = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if is_known && is("PROFILE", "release") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
