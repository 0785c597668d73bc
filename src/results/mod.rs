//! Results: from journal records to rolling CSVs.
//!
//! Must not know: jobs' states, workers, the daemon.
