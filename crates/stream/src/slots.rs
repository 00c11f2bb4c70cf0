//! A table with stable keys: what the tags of the event loop point to.

/// Bits of a key that count how often its place was used, so that stale tags point nowhere.
const GENERATION_BITS: u32 = 24;

/// Key of a [`Slots`] entry; fits the lower 56 bits of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(u64);

impl Key {
    pub(crate) const fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << (32 + GENERATION_BITS)) - 1))
    }

    const fn new(index: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | index as u64)
    }

    const fn index(self) -> usize {
        self.0 as u32 as usize
    }

    const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Values at stable keys, constant time throughout.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Adds the value that `make` builds for its key, unless it fails.
    pub(crate) fn try_insert_with<E>(
        &mut self,
        make: impl FnOnce(Key) -> Result<T, E>,
    ) -> Result<Key, E> {
        let index = self.free.last().copied().unwrap_or(self.places.len() as u32);
        let generation = self.places.get(index as usize).map_or(0, |place| place.0);
        let key = Key::new(index, generation);
        let value = make(key)?;
        if self.free.pop().is_none() {
            self.places.push((0, None));
        }
        if let Some(place) = self.places.get_mut(index as usize) {
            place.1 = Some(value);
        }
        Ok(key)
    }

    /// Adds the value that `make` builds for its key.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        match self.try_insert_with(|key| Ok::<_, std::convert::Infallible>(make(key))) {
            Ok(key) => key,
        }
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let (generation, value) = self.places.get(key.index())?;
        if *generation == key.generation() { value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (generation, value) = self.places.get_mut(key.index())?;
        if *generation == key.generation() { value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let (generation, value) = self.places.get_mut(key.index())?;
        if *generation != key.generation() {
            return None;
        }
        let value = value.take()?;
        *generation = (*generation + 1) & ((1 << GENERATION_BITS) - 1);
        self.free.push(key.index() as u32);
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Keys of all values.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let places = self.places.iter().enumerate();
        places
            .filter(|(_, (_, value))| value.is_some())
            .map(|(index, (generation, _))| Key::new(index as u32, *generation))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_keys_find_nothing() {
        let mut slots = Slots::default();
        let first = slots.insert_with(|_| 'a');
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert_with(|_| 'b');
        assert_eq!(first.index(), second.index());
        assert_eq!((slots.get(first), slots.get(second)), (None, Some(&'b')));
        assert_eq!(Key::from_bits(7 << 56 | second.to_bits()), second);
        assert_eq!((slots.len(), slots.keys()), (1, vec![second]));
    }
}
