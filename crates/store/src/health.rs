//! How a store stands to where it gets its values from.

use headgate_model::Problem;

/// What is known of the source of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// A configuration has arrived, if an empty one.
    pub is_loaded: bool,
    /// What is served may be older than the source.
    pub stale: Option<Stale>,
    /// Unix time in seconds at which what is served was last known to be what the source has; before
    /// that was ever so, when it was first asked. `None`: there is no source to ask.
    pub confirmed: Option<u64>,
    /// Since when and why the local disk does not take what is stored or applied.
    pub disk: Option<Stale>,
    /// The process should get no traffic while it is stale.
    pub unready_when_stale: bool,
    /// What is wrong with the source as a whole, or with what could not be taken from it.
    pub problems: Vec<Problem>,
    /// How often everything was read anew after the source had gone on without us.
    pub resyncs: u64,
    /// How often what is served was found to differ from the source, and was repaired.
    pub drifts: u64,
}

/// Since when (Unix time) and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// Unix time in seconds at which the source was last known to agree; 0 when it never was.
    pub since: u64,
    /// What is in the way.
    pub reason: String,
}

impl Default for Health {
    /// Loaded and fresh.
    fn default() -> Self {
        Self {
            is_loaded: true,
            stale: None,
            confirmed: None,
            disk: None,
            unready_when_stale: false,
            problems: Vec::new(),
            resyncs: 0,
            drifts: 0,
        }
    }
}

impl Health {
    /// Seconds since what is served was last known to be what the source has.
    #[must_use]
    pub fn age(&self, now: u64) -> u64 {
        self.confirmed.map_or(0, |at| now.saturating_sub(at))
    }

    /// Nothing has arrived yet.
    #[must_use]
    pub fn waiting() -> Self {
        Self { is_loaded: false, ..Self::default() }
    }
}
