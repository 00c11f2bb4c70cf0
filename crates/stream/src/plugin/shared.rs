//! State of plugins that outlives them: a recompiled route finds what its predecessor counted.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

type Key = (TypeId, String);

/// Values by type and key, each for as long as somebody uses it.
#[derive(Default)]
pub(super) struct SharedState(Mutex<HashMap<Key, Weak<dyn Any + Send + Sync>>>);

impl SharedState {
    /// The value at `key`; `make` builds it when nobody uses one.
    pub(super) fn get<T: Any + Send + Sync>(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (TypeId::of::<T>(), key.to_owned());
        let known = all.get(&key).and_then(Weak::upgrade);
        if let Some(known) = known.and_then(|known| known.downcast().ok()) {
            return known;
        }
        all.retain(|_, value| value.strong_count() > 0);
        let made = Arc::new(make());
        let weak: Weak<dyn Any + Send + Sync> = Arc::downgrade(&(Arc::clone(&made) as _));
        all.insert(key, weak);
        made
    }
}

impl fmt::Debug for SharedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "SharedState({})", all.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_as_long_as_it_is_used() {
        let state = SharedState::default();
        let first = state.get("a", || 1_u32);
        assert_eq!(*state.get("a", || 2_u32), 1);
        assert_eq!(*state.get("b", || 3_u32), 3);
        assert_eq!(*state.get("a", || "another type"), "another type");
        drop(first);
        assert_eq!(*state.get("a", || 4_u32), 4);
    }
}
