//! Values by key, where a key belongs to one value only.

/// A table of values. A key is never used again, so that a late event of a value that is gone is not
/// taken for one of its successor.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<SlabPlace<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct SlabPlace<T> {
    /// How many values had this place before.
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Adds the value that `make` returns for its key, which is never `u64::MAX`.
    ///
    /// # Panics
    ///
    /// Panics if there are more than four billion.
    pub(super) fn insert(&mut self, make: impl FnOnce(u64) -> T) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.places.len()).ok().filter(|index| *index < u32::MAX);
            self.places.push(SlabPlace { generation: 0, value: None });
            index.expect("there is no memory for so many")
        });
        let place = &mut self.places[index as usize];
        let key = u64::from(place.generation) << 32 | u64::from(index);
        place.value = Some(make(key));
        key
    }

    fn place(&mut self, key: u64) -> Option<(&mut SlabPlace<T>, u32)> {
        let index = u32::try_from(key & u64::from(u32::MAX)).ok()?;
        let place = self.places.get_mut(index as usize)?;
        (u64::from(place.generation) == key >> 32).then_some((place, index))
    }

    pub(super) fn get(&mut self, key: u64) -> Option<&mut T> {
        self.place(key)?.0.value.as_mut()
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<T> {
        let (place, index) = self.place(key)?;
        let value = place.value.take()?;
        // A place is given up after four billion values, rather than used again.
        if let Some(next) = place.generation.checked_add(1) {
            place.generation = next;
            self.free.push(index);
        }
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|place| place.value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_one_value_only() {
        let mut slab = Slab::default();
        let [first, second] = [1, 2].map(|value| slab.insert(|_| value));
        assert_eq!(slab.remove(first), Some(1));
        assert_eq!(slab.remove(first), None, "it was removed twice");
        let third = slab.insert(|key| key);
        assert!(slab.get(first).is_none(), "the key of one is the key of another");
        assert_eq!(slab.get(second), Some(&mut 2));
        assert_eq!(slab.get(third), Some(&mut { third }));
        assert_eq!((slab.places.len(), slab.iter().count()), (2, 2));
        assert!(slab.get(u64::MAX).is_none());
    }

    #[test]
    fn a_place_whose_keys_are_used_up_is_given_up() {
        let mut slab = Slab::default();
        let first = slab.insert(|_| ());
        slab.places[0].generation = u32::MAX;
        let last = u64::from(u32::MAX) << 32;
        assert!(slab.get(first).is_none());
        assert!(slab.remove(last).is_some() && slab.remove(last).is_none());
        assert_eq!(slab.insert(|_| ()), 1);
    }
}
