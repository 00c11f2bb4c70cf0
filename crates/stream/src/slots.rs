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

/// Places that are allocated at once.
const CHUNK: usize = 64;

/// Values at stable keys, constant time throughout: a table that grows moves no value, because no
/// session should wait until thousands of others have been copied.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    /// All chunks but the last are full.
    chunks: Vec<Vec<Place<T>>>,
    free: Vec<u32>,
    /// Generation of places that are made from now on.
    first: u32,
    /// Values.
    len: usize,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), first: 0, len: 0 }
    }
}

impl<T> Slots<T> {
    /// Adds the value that `make` builds for its key, unless it fails.
    pub(crate) fn try_insert_with<E>(
        &mut self,
        make: impl FnOnce(Key) -> Result<T, E>,
    ) -> Result<Key, E> {
        let index = self.free.last().map_or(self.len, |index| *index as usize);
        let generation = self.place(index).map_or(self.first, |place| place.generation);
        let key = Key::new(index as u32, generation);
        let value = Some(make(key)?);
        self.len += 1;
        if self.free.pop().is_some() {
            if let Some(place) = self.place_mut(index) {
                place.value = value;
            }
            return Ok(key);
        }
        if index.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        if let Some(last) = self.chunks.last_mut() {
            last.push(Place { generation, value });
        }
        Ok(key)
    }

    fn place(&self, index: usize) -> Option<&Place<T>> {
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    fn place_mut(&mut self, index: usize) -> Option<&mut Place<T>> {
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }

    /// Adds the value that `make` builds for its key.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        match self.try_insert_with(|key| Ok::<_, std::convert::Infallible>(make(key))) {
            Ok(key) => key,
        }
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let place = self.place(key.index())?;
        if place.generation == key.generation() { place.value.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.place_mut(key.index())?;
        if place.generation == key.generation() { place.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.place_mut(key.index())?;
        if place.generation != key.generation() {
            return None;
        }
        let value = place.value.take()?;
        place.generation = (place.generation + 1) & ((1 << GENERATION_BITS) - 1);
        self.free.push(key.index() as u32);
        self.len -= 1;
        Some(value)
    }

    /// Gives the memory of an empty table back. Stale keys keep pointing nowhere.
    pub(crate) fn shrink(&mut self) {
        if self.len > 0 {
            return;
        }
        let generations = self.chunks.iter().flatten().map(|place| place.generation);
        self.first = generations.fold(self.first, u32::max);
        (self.chunks, self.free) = (Vec::new(), Vec::new());
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Keys of all values.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let places = self.chunks.iter().flatten().enumerate();
        places
            .filter(|(_, place)| place.value.is_some())
            .map(|(index, place)| Key::new(index as u32, place.generation))
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

    #[test]
    fn stale_keys_find_nothing_in_a_table_that_has_shrunk() {
        let mut slots = Slots::default();
        let keys: Vec<Key> = (0..CHUNK + 1).map(|n| slots.insert_with(|_| n)).collect();
        slots.shrink();
        assert_eq!(slots.len(), keys.len());
        for key in &keys {
            slots.remove(*key);
        }
        slots.shrink();
        assert!(slots.chunks.is_empty());
        let again: Vec<Key> = (0..CHUNK + 1).map(|n| slots.insert_with(|_| n)).collect();
        assert!(keys.iter().all(|key| slots.get(*key).is_none()));
        assert!(again.iter().enumerate().all(|(n, key)| slots.get(*key) == Some(&n)));
    }

    #[test]
    fn places_of_many_chunks() {
        let mut slots = Slots::default();
        let keys: Vec<Key> = (0..3 * CHUNK + 1).map(|n| slots.insert_with(|_| n)).collect();
        assert_eq!((slots.len(), slots.keys()), (keys.len(), keys.clone()));
        for (n, key) in keys.iter().enumerate().filter(|(n, _)| n % 3 == 0) {
            assert_eq!(slots.remove(*key), Some(n));
        }
        let left = keys.iter().enumerate().filter(|(n, _)| n % 3 != 0);
        assert!(left.clone().all(|(n, key)| slots.get(*key) == Some(&n)));
        assert_eq!(slots.len(), left.clone().count());
        let freed = keys.len() - slots.len();
        let places: Vec<usize> = (0..freed).map(|_| slots.insert_with(|_| 0).index()).collect();
        assert!(places.iter().all(|place| place % 3 == 0), "freed places are used first");
        assert_eq!(slots.insert_with(|_| 0).index(), keys.len());
    }
}
