//! What a command prints: `inboxd::fuzzing::stdout`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inboxd::fuzzing::stdout(bytes));
