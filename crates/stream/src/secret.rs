//! Secrets that live elsewhere: `$secret://` references in plugins, certificates and keys.

use std::fmt;
use std::sync::Arc;

/// What every reference begins with.
pub(crate) const SCHEME: &str = "$secret://";

/// Looks references up among what the control side has fetched; never waits.
#[derive(Clone)]
pub struct SecretLookup(Arc<LookUp>);

type LookUp = dyn Fn(&str) -> Result<String, String> + Send + Sync;

impl SecretLookup {
    /// A lookup by that function, whose error says why a reference has no value.
    pub fn new(look_up: impl Fn(&str) -> Result<String, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(look_up))
    }

    /// The value of a reference.
    ///
    /// # Errors
    /// Why it has none.
    pub(crate) fn find(&self, reference: &str) -> Result<String, String> {
        (self.0)(reference)
    }
}

impl Default for SecretLookup {
    /// Knows nothing.
    fn default() -> Self {
        Self::new(|_| Err("no secret manager is asked here".to_owned()))
    }
}

impl fmt::Debug for SecretLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretLookup")
    }
}
