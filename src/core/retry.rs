//! Which failures are tried again, where a route says so itself. How often is the budgets' matter.
//!
//! Must not know: how long it waits, exit codes that are no failures.
//!
//! What a list does not name is permanent: it goes to `error/` at once. *Lost* is named by nobody: the
//! daemon or the machine died, which says nothing of the job.

use super::{FailClass, Failure};

/// `retry_on` of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// Exit codes, whatever they mean otherwise.
    pub exits: Vec<i32>,
    /// Kinds of failure.
    pub classes: Vec<FailClass>,
}

impl RetryOn {
    /// The class by which a failure is treated.
    pub fn class_of(&self, failure: &Failure) -> FailClass {
        let is_listed = failure.exit.is_some_and(|code| self.exits.contains(&code));
        match failure.class {
            FailClass::Lost => FailClass::Lost,
            // Exit 65 means that trying again is useless, unless the list says otherwise.
            FailClass::Permanent if is_listed => FailClass::Fail,
            class if is_listed || self.classes.contains(&class) => class,
            _ => FailClass::Permanent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is listed is tried again by its own budget, all else is permanent, a loss never is.
    /// Method: a list of two codes and a class against each kind of failure.
    #[test]
    fn only_what_is_listed() {
        let on = RetryOn { exits: vec![3, 65], classes: vec![FailClass::Timeout] };
        let class = |class, exit| on.class_of(&Failure { exit, ..Failure::new(class, "x") });
        assert_eq!(class(FailClass::Fail, Some(3)), FailClass::Fail);
        assert_eq!(class(FailClass::Fail, Some(4)), FailClass::Permanent);
        assert_eq!(class(FailClass::Permanent, Some(65)), FailClass::Fail);
        assert_eq!(class(FailClass::Permanent, Some(66)), FailClass::Permanent);
        assert_eq!(class(FailClass::TryAgain, Some(75)), FailClass::Permanent);
        assert_eq!(class(FailClass::Timeout, None), FailClass::Timeout);
        assert_eq!(class(FailClass::Crash, None), FailClass::Permanent);
        assert_eq!(class(FailClass::Lost, None), FailClass::Lost);
    }
}
