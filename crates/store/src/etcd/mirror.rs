//! Which keys are known at which revision: what a copy is compared by.

use std::collections::HashMap;

use crate::Revision;

/// Keys of the configuration and the revision of their last change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mirror(HashMap<String, Revision>);

/// How a mirror stands to what the cluster has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    /// The cluster has gone on; its changes may still be on their way.
    Behind(usize),
    /// Something differs that no later change explains.
    Differs(String),
}

impl Mirror {
    pub(super) fn put(&mut self, key: &str, revision: Revision) {
        match self.0.get_mut(key) {
            Some(known) => *known = revision,
            None => drop(self.0.insert(key.to_owned(), revision)),
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// Compares with all keys of the cluster, when everything up to `seen` was applied here.
    pub(super) fn compare(
        &self,
        keys: impl Iterator<Item = (String, Revision)>,
        seen: Revision,
    ) -> Comparison {
        let (mut behind, mut found) = (0, 0);
        for (key, revision) in keys {
            match self.0.get(&key) {
                Some(known) if *known == revision => found += 1,
                known => {
                    found += usize::from(known.is_some());
                    behind += 1;
                    if revision <= seen {
                        return Comparison::Differs(format!(
                            "{key} was changed at revision {revision}, which was missed"
                        ));
                    }
                }
            }
        }
        behind += self.0.len() - found;
        if behind == 0 { Comparison::Equal } else { Comparison::Behind(behind) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(keys: &[(&str, u64)]) -> Mirror {
        let mut mirror = Mirror::default();
        keys.iter().for_each(|(key, revision)| mirror.put(key, *revision));
        mirror
    }

    fn compare(ours: &[(&str, u64)], theirs: &[(&str, u64)], seen: u64) -> Comparison {
        let theirs = theirs.iter().map(|(key, revision)| ((*key).to_owned(), *revision));
        mirror(ours).compare(theirs, seen)
    }

    #[test]
    fn lag_and_drift_are_told_apart() {
        let ours = [("/a", 1), ("/b", 2)];
        assert_eq!(compare(&ours, &[("/a", 1), ("/b", 2)], 2), Comparison::Equal);
        assert_eq!(compare(&ours, &[("/a", 1), ("/b", 3)], 2), Comparison::Behind(1));
        assert_eq!(compare(&ours, &[("/a", 1)], 2), Comparison::Behind(1));
        assert_eq!(compare(&ours, &[("/a", 1), ("/b", 2), ("/c", 9)], 2), Comparison::Behind(1));
        assert!(matches!(compare(&ours, &[("/a", 1), ("/b", 1)], 2), Comparison::Differs(_)));
        let missed = compare(&ours, &[("/a", 1), ("/b", 2), ("/c", 2)], 2);
        assert!(matches!(missed, Comparison::Differs(_)));
    }
}
