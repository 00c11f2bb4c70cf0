//! What the plugin `prometheus` counts: sessions by route and by how they ended
//! (`spec/plugins.md`, section 5).
//!
//! Series appear as sessions bring them. A core remembers those it has counted in, so that only
//! the first session of a series takes the lock that the cores share. A scrape takes none.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use headgate_telemetry::SharedCounter;
use headgate_upstream::Address;

use super::series::{Count, Series};

/// How a session ended and where.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ending {
    pub(crate) code: u16,
    /// Listening address.
    pub(crate) listener: String,
    /// The endpoint tried last; empty when there was none.
    pub(crate) node: String,
}

/// The series of all cores.
#[derive(Debug)]
pub struct Recorded {
    routes: Series<String>,
    endings: Series<Ending>,
    /// Sessions that were not counted because there are too many series.
    pub(crate) lost: SharedCounter,
}

impl Recorded {
    pub(super) fn new(cores: usize) -> Self {
        let (routes, endings) = (Series::new(cores), Series::new(cores));
        Self { routes, endings, lost: SharedCounter::new() }
    }

    /// Sessions by the label of their route.
    pub(crate) fn by_route(&self) -> Vec<(&String, u64)> {
        self.routes.totals()
    }

    /// Sessions by how they ended.
    pub(crate) fn by_ending(&self) -> Vec<(&Ending, u64)> {
        self.endings.totals()
    }

    /// Sets what a predecessor counted for a route.
    pub(crate) fn inherit_route(&self, slot: usize, label: &str, count: u64) {
        if let Some(counts) = self.counted(self.routes.find(label.to_owned())) {
            counts.get(slot).set(count);
        }
    }

    /// Sets how many sessions ended so with a predecessor.
    pub(crate) fn inherit_ending(&self, slot: usize, ending: Ending, count: u64) {
        if let Some(counts) = self.counted(self.endings.find(ending)) {
            counts.get(slot).set(count);
        }
    }

    /// Notes a session whose series found no room.
    fn counted(&self, found: Option<Count>) -> Option<Count> {
        if found.is_none() {
            self.lost.increment();
        }
        found
    }
}

/// The series that one core has counted in for one listener.
pub(super) struct Recorder {
    all: Arc<Recorded>,
    routes: RefCell<HashMap<String, Count>>,
    endings: RefCell<HashMap<u16, HashMap<Option<Address>, Count>>>,
}

impl Recorder {
    pub(super) fn new(all: Arc<Recorded>) -> Self {
        Self { all, routes: RefCell::default(), endings: RefCell::default() }
    }

    pub(super) fn route(&self, core: usize, label: &str) {
        let mut known = self.routes.borrow_mut();
        if let Some(count) = known.get(label) {
            return count.get(core).increment();
        }
        if let Some(count) = self.all.counted(self.all.routes.find(label.to_owned())) {
            count.get(core).increment();
            known.insert(label.to_owned(), count);
        }
    }

    pub(super) fn ending(&self, core: usize, code: u16, listener: &str, node: &Option<Address>) {
        let mut known = self.endings.borrow_mut();
        let known = known.entry(code).or_default();
        if let Some(count) = known.get(node) {
            return count.get(core).increment();
        }
        let (listener, text) = (listener.to_owned(), node.as_ref().map(ToString::to_string));
        let ending = Ending { code, listener, node: text.unwrap_or_default() };
        if let Some(count) = self.all.counted(self.all.endings.find(ending)) {
            count.get(core).increment();
            known.insert(node.clone(), count);
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::series::MOST;
    use super::*;

    #[test]
    fn cores_and_listeners_add_up() {
        let all = Arc::new(Recorded::new(2));
        let (one, other) = (Recorder::new(Arc::clone(&all)), Recorder::new(Arc::clone(&all)));
        let node = Some(Address::Ip(([10, 0, 0, 1], 80).into()));
        for (recorder, core) in [(&one, 0), (&one, 0), (&other, 1)] {
            recorder.route(core, "1");
            recorder.ending(core, 200, "0.0.0.0:1", &node);
        }
        one.ending(0, 502, "0.0.0.0:1", &None);
        assert_eq!(all.by_route(), [(&"1".to_owned(), 3)]);
        let endings: Vec<_> =
            all.by_ending().into_iter().map(|(of, n)| (of.code, of.node.as_str(), n)).collect();
        assert_eq!(endings, [(200, "10.0.0.1:80", 3), (502, "", 1)]);
    }

    #[test]
    fn sessions_beyond_the_bound_are_counted_as_lost() {
        let all = Arc::new(Recorded::new(1));
        let recorder = Recorder::new(Arc::clone(&all));
        (0..MOST + 5).for_each(|number| recorder.route(0, &number.to_string()));
        assert_eq!(all.by_route().len(), MOST);
        assert_eq!(all.lost.get(), 5);
    }
}
