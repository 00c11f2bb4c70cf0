//! Descriptors kept back, so that an operator reaches the server when traffic holds all others.

use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};

/// Placeholders that are given up, one for each connection that could not be accepted otherwise.
#[derive(Debug)]
pub(super) struct Spare {
    held: Mutex<Vec<File>>,
    most: usize,
}

impl Spare {
    pub(super) fn new(most: usize) -> Self {
        let spare = Self { held: Mutex::default(), most };
        spare.refill();
        spare
    }

    /// Frees a descriptor; `false` if none is kept back any more.
    pub(super) fn give_up_one(&self) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).pop().is_some()
    }

    /// Takes descriptors back, now that a connection ended.
    pub(super) fn refill(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.len() < self.most {
            let Ok(file) = File::open("/dev/null") else { return };
            held.push(file);
        }
    }
}

/// `EMFILE` of this process or `ENFILE` of the machine (errno(3)).
pub(super) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_is_taken_back() {
        let spare = Spare::new(2);
        assert!(spare.give_up_one() && spare.give_up_one());
        assert!(!spare.give_up_one());
        spare.refill();
        assert!(spare.give_up_one());
    }

    #[test]
    fn the_codes_are_those_of_the_system() {
        let text = |code| io::Error::from_raw_os_error(code).to_string();
        assert!(text(23).contains("in system") && text(24).contains("Too many open files"));
    }
}
