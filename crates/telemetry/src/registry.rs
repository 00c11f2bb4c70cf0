//! Where the exposition comes from: sources that are asked at every scrape.
//!
//! Nothing is registered for a route or a node. A source walks what lives at that moment, so
//! nothing is left behind by what has gone.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::exposition::Page;

type Source = Box<dyn Fn(&mut Page) + Send + Sync>;

/// The sources of one exposition, asked in the order in which they were added. Each metric belongs
/// to one source.
pub struct Registry {
    prefix: String,
    sources: Vec<Source>,
    /// One exposition at a time: a crowd of scrapers costs no more than one.
    turn: Mutex<()>,
}

impl Registry {
    /// Without sources; `prefix` goes in front of the reference's metrics.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), sources: Vec::new(), turn: Mutex::default() }
    }

    /// Adds a source.
    #[must_use]
    pub fn with(mut self, source: impl Fn(&mut Page) + Send + Sync + 'static) -> Self {
        self.sources.push(Box::new(source));
        self
    }

    /// Asks all sources. Takes as long as there are samples; not for a data core.
    #[must_use]
    pub fn expose(&self) -> String {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = Page::new(self.prefix.as_str());
        for source in &self.sources {
            source(&mut page);
        }
        page.into_text()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("prefix", &self.prefix)
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::SharedCounter;
    use crate::metric::Metric;

    static SEEN: Metric = Metric::counter("seen", "Seen", &[]).reference();

    #[test]
    fn values_are_those_of_the_moment() {
        let seen = Arc::new(SharedCounter::new());
        let counted = Arc::clone(&seen);
        let registry = Registry::new("my_").with(move |page| page.value(&SEEN, counted.get()));
        assert!(registry.expose().ends_with("\nmy_seen 0\n"));
        seen.add(3);
        assert!(registry.expose().ends_with("\nmy_seen 3\n"));
    }
}
