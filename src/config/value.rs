//! One value of a settings file, read as what its setting takes: a time, a size, a count, a list.
//!
//! Must not know: which settings there are, files, lines.
//!
//! Invariant: a message says what is wrong and what to write instead. Text from the file is quoted
//! with its control characters escaped, so that it cannot write to the terminal.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use bytesize::ByteSize;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::suggest;

/// What is wrong, and where in the text (bytes).
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

/// The value of a setting, or why it has none.
pub(super) type Checked<T> = Result<T, Problem>;
/// A key and where it stands.
pub(super) type Key<'a> = Spanned<DeString<'a>>;

/// What a setting takes. [`fmt::Display`] is the short form for a table: `1 to 1024`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// In words: `true or false`, `a list of names`.
    Words(&'static str),
    /// A whole number.
    Count {
        /// The lowest.
        least: i64,
        /// The highest.
        most: i64,
    },
    /// A time, written as `"30s"`.
    Time {
        /// The shortest.
        least: Duration,
        /// The longest.
        most: Duration,
    },
    /// A size in bytes, written as `"256 MiB"`.
    Size {
        /// The smallest.
        least: u64,
        /// The largest.
        most: u64,
    },
}

impl Limit {
    /// How to write it, for a message.
    fn wanted(self) -> String {
        match self {
            Self::Words(words) => words.to_owned(),
            Self::Count { .. } => format!("a whole number from {self}"),
            Self::Time { .. } => "a time in quotes, such as \"30s\" or \"1h 30m\"".to_owned(),
            Self::Size { .. } => "a size in quotes, such as \"256 MiB\"".to_owned(),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Words(words) => f.write_str(words),
            Self::Count { least, most } => write!(f, "{least} to {most}"),
            Self::Time { least, most } => write!(
                f,
                "{} to {}",
                humantime::format_duration(least),
                humantime::format_duration(most)
            ),
            Self::Size { least, most } => {
                write!(f, "{} to {}", ByteSize::b(least), ByteSize::b(most))
            }
        }
    }
}

/// A value with the setting it was given to. What `limit` says is checked by the readers below.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    pub(super) name: &'a str,
    pub(super) limit: Limit,
    pub(super) given: &'a Spanned<DeValue<'a>>,
}

impl<'a> Value<'a> {
    /// A problem at this value.
    pub(super) fn problem(&self, message: String) -> Problem {
        Problem { span: self.given.span(), message }
    }

    fn wrong_kind(&self) -> Problem {
        let kind = match self.given.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.problem(format!("`{}` must be {}, not {kind}", self.name, self.limit.wanted()))
    }

    fn outside(&self, given: impl fmt::Display) -> Problem {
        self.problem(format!("`{}` is {given}; it must be {}", self.name, self.limit))
    }

    pub(super) fn boolean(&self) -> Checked<bool> {
        self.given.get_ref().as_bool().ok_or_else(|| self.wrong_kind())
    }

    pub(super) fn text(&self) -> Checked<&'a str> {
        self.given.get_ref().as_str().ok_or_else(|| self.wrong_kind())
    }

    /// A number within the limit.
    pub(super) fn count<T: TryFrom<i64>>(&self) -> Checked<T> {
        let given = self.given.get_ref().as_integer().ok_or_else(|| self.wrong_kind())?;
        let number = i64::from_str_radix(given.as_str(), given.radix());
        number
            .ok()
            .filter(|n| match self.limit {
                Limit::Count { least, most } => (least..=most).contains(n),
                _ => true,
            })
            .and_then(|n| T::try_from(n).ok())
            .ok_or_else(|| self.outside(given))
    }

    /// A time within the limit.
    pub(super) fn time(&self) -> Checked<Duration> {
        let text = self.text()?;
        let time = humantime::parse_duration(text).map_err(|e| {
            let wanted = self.limit.wanted();
            self.problem(format!("`{}` = {text:?} is no time ({e}); write {wanted}", self.name))
        })?;
        match self.limit {
            Limit::Time { least, most } if !(least..=most).contains(&time) => {
                Err(self.outside(text.escape_debug()))
            }
            _ => Ok(time),
        }
    }

    /// A size within the limit, in bytes.
    pub(super) fn size(&self) -> Checked<u64> {
        let text = self.text()?;
        let size = text.trim().parse::<ByteSize>().map_err(|_| {
            let wanted = self.limit.wanted();
            self.problem(format!("`{}` = {text:?} is no size; write {wanted}", self.name))
        })?;
        match self.limit {
            Limit::Size { least, most } if !(least..=most).contains(&size.as_u64()) => {
                Err(self.outside(text.escape_debug()))
            }
            _ => Ok(size.as_u64()),
        }
    }

    /// The elements of a list.
    pub(super) fn list(&self) -> Checked<Vec<Self>> {
        let array = self.given.get_ref().as_array().ok_or_else(|| self.wrong_kind())?;
        Ok(array.iter().map(|given| Self { given, ..*self }).collect())
    }

    /// The keys and values of a table, in the order of the file.
    pub(super) fn table(&self) -> Checked<Vec<(&'a Key<'a>, Self)>> {
        let table = self.given.get_ref().as_table().ok_or_else(|| self.wrong_kind())?;
        Ok(in_file_order(table)
            .into_iter()
            .map(|(key, given)| (key, Self { name: key.get_ref(), limit: self.limit, given }))
            .collect())
    }

    /// A table as JSON; dates become text.
    pub(super) fn json(&self) -> Checked<serde_json::Map<String, serde_json::Value>> {
        let table = self.given.get_ref().as_table().ok_or_else(|| self.wrong_kind())?;
        let fields = in_file_order(table).into_iter();
        fields.map(|(key, given)| Ok((key.get_ref().to_string(), self.json_of(given)?))).collect()
    }

    /// Any value as JSON.
    pub(super) fn json_value(&self) -> Checked<serde_json::Value> {
        self.json_of(self.given)
    }

    fn json_of(&self, given: &Spanned<DeValue<'_>>) -> Checked<serde_json::Value> {
        let inner = Value { name: self.name, limit: self.limit, given };
        let no_number = |text: &str| inner.problem(format!("{text} is no number of JSON"));
        Ok(match given.get_ref() {
            DeValue::String(text) => text.to_string().into(),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| no_number(number.as_str()))?
                .into(),
            DeValue::Float(number) => number
                .as_str()
                .parse()
                .ok()
                .and_then(serde_json::Number::from_f64)
                .ok_or_else(|| no_number(number.as_str()))?
                .into(),
            DeValue::Boolean(yes) => (*yes).into(),
            DeValue::Datetime(date) => date.to_string().into(),
            DeValue::Array(items) => {
                items.iter().map(|item| self.json_of(item)).collect::<Checked<Vec<_>>>()?.into()
            }
            DeValue::Table(_) => inner.json()?.into(),
        })
    }

    /// One of several words, with what each stands for.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&'static str, T)]) -> Checked<T> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let hint = match suggest::nearest(text, words.iter().map(|(word, _)| *word)) {
            Some(word) => format!("did you mean {word:?}?"),
            None => format!("write {}", self.limit.wanted()),
        };
        Err(self.problem(format!("`{}` = {text:?} is unknown; {hint}", self.name)))
    }

    /// The value is a string, where the setting wants something else.
    pub(super) fn is_text(&self) -> bool {
        self.given.get_ref().is_str()
    }

    /// The value is a table.
    pub(super) fn is_table(&self) -> bool {
        self.given.get_ref().is_table()
    }
}

/// The entries of a table as the file has them: the parser sorts by name.
pub(super) fn in_file_order<'a>(
    table: &'a DeTable<'a>,
) -> Vec<(&'a Key<'a>, &'a Spanned<DeValue<'a>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}
