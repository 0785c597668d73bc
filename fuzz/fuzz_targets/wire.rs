//! What a warm worker says: `inboxd::fuzzing::wire`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inboxd::fuzzing::wire(bytes));
