//! The spools that `inboxd init --example NAME` makes: the folders of `examples/`, in the binary.
//!
//! Must not know: what is in them, or where they are written.
//!
//! Invariant: each has an `inboxd.toml`, a `README.md` whose commands a test runs, and `samples/`.

/// A spool to try.
#[derive(Debug)]
pub(super) struct Example {
    /// How it is asked for.
    pub(super) name: &'static str,
    /// What it shows.
    pub(super) shows: &'static str,
    /// Paths below the spool, with the texts.
    pub(super) files: &'static [(&'static str, &'static str)],
}

/// A file below the folder of an example.
macro_rules! file {
    ($example:literal, $path:literal) => {
        ($path, include_str!(concat!("../../examples/", $example, "/", $path)))
    };
}

/// One of the six samples of the project.
macro_rules! sample {
    ($name:literal) => {
        (concat!("samples/", $name), include_str!(concat!("../../inbox/samples/", $name)))
    };
}

/// The simplest first.
pub(super) const EXAMPLES: [Example; 6] = [
    Example {
        name: "count",
        shows: "one Python function over many files, their rows in one CSV",
        files: &[
            file!("count", "inboxd.toml"),
            file!("count", "README.md"),
            file!("count", "count.py"),
            sample!("file_0.json"),
            sample!("file_1.json"),
            sample!("file_2.json"),
            sample!("file_3.json"),
            sample!("file_4.json"),
            sample!("file_5.json"),
        ],
    },
    Example {
        name: "prefixed",
        shows: "a script that answers by lines LOG:, OUTPUT: and ERROR:",
        files: &[
            file!("prefixed", "inboxd.toml"),
            file!("prefixed", "README.md"),
            file!("prefixed", "classify.py"),
            file!("prefixed", "samples/empty.json"),
            file!("prefixed", "samples/misspelt.json"),
            file!("prefixed", "samples/motor.json"),
            file!("prefixed", "samples/noise.json"),
            file!("prefixed", "samples/silence.json"),
        ],
    },
    Example {
        name: "warm",
        shows: "a worker of your own that stays, in any language",
        files: &[
            file!("warm", "inboxd.toml"),
            file!("warm", "README.md"),
            file!("warm", "worker.py"),
            file!("warm", "samples/question.txt"),
            file!("warm", "samples/three.txt"),
        ],
    },
    Example {
        name: "made-files",
        shows: "a worker that makes files",
        files: &[
            file!("made-files", "inboxd.toml"),
            file!("made-files", "README.md"),
            file!("made-files", "split.py"),
            file!("made-files", "samples/guide.md"),
            file!("made-files", "samples/note.md"),
            file!("made-files", "samples/plain.md"),
        ],
    },
    Example {
        name: "plugins",
        shows: "messages that name their algorithm; a new one is one new file",
        files: &[
            file!("plugins", "inboxd.toml"),
            file!("plugins", "README.md"),
            file!("plugins", "algos.py"),
            file!("plugins", "routes.d/language_detection.toml"),
            file!("plugins", "routes.d/ocr.toml"),
            file!("plugins", "samples/add.json"),
            file!("plugins", "samples/greeting.json"),
            file!("plugins", "samples/misspelt.json"),
            file!("plugins", "samples/nowhere.json"),
            file!("plugins", "samples/sign.json"),
        ],
    },
    Example {
        name: "rest-records",
        shows: "a service that is asked about each line of a file",
        files: &[
            file!("rest-records", "inboxd.toml"),
            file!("rest-records", "README.md"),
            file!("rest-records", "server.py"),
            file!("rest-records", "samples/customers.csv"),
        ],
    },
];

/// Names and what they show, a line each, for the help.
pub(super) fn list() -> String {
    let lines = EXAMPLES.iter().map(|example| format!("  {:14}{}", example.name, example.shows));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Goal: the binary has all of the folders, and no file is forgotten. Method: both lists.
    #[test]
    fn all_files_of_the_folders_are_there() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let walk = walkdir::WalkDir::new(&root).into_iter().map(Result::unwrap);
        let there: BTreeSet<String> = walk
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| entry.path().strip_prefix(&root).unwrap().to_str().unwrap().to_owned())
            .collect();
        let listed: BTreeSet<String> = EXAMPLES
            .iter()
            .flat_map(|it| it.files.iter().map(move |(path, _)| format!("{}/{path}", it.name)))
            .filter(|path| !path.starts_with("count/samples/"))
            .collect();
        assert_eq!(there, listed);
    }
}
