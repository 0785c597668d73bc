//! An input of records: `inboxd::fuzzing::records`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    inboxd::fuzzing::records(folder.path(), bytes);
});
