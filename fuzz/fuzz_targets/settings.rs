//! A settings file: `inboxd::fuzzing::settings`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inboxd::fuzzing::settings(bytes));
