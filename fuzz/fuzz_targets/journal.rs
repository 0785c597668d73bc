//! A journal of any bytes: `inboxd::fuzzing::journal`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    inboxd::fuzzing::journal(folder.path(), bytes);
});
