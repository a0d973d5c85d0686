//! What depends on a shape alone, kept within a bound of bytes.

use std::hash::Hash;

use quick_cache::{Weighter, unsync::Cache};

/// Values by shape. A value larger than the bound is not kept.
pub(super) struct ShapeCache<K, V> {
    cache: Cache<K, Sized<V>, Bytes>,
}

#[derive(Clone)]
struct Sized<V> {
    value: V,
    bytes: u64,
}

#[derive(Clone)]
struct Bytes;

impl<K, V> Weighter<K, Sized<V>> for Bytes {
    fn weight(&self, _: &K, sized: &Sized<V>) -> u64 {
        sized.bytes
    }
}

/// A guess at how many shapes there are, which sizes the cache's tables and bounds nothing.
const SHAPES: usize = 32;

impl<K: Eq + Hash, V: Clone> ShapeCache<K, V> {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { cache: Cache::with_weighter(SHAPES, bytes_max as u64, Bytes) }
    }

    /// Bytes of all values.
    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }

    /// The value for a shape, made where it is not there. `make` also says how many bytes it holds.
    pub(super) fn get_or_make(&mut self, key: K, make: impl FnOnce() -> (V, usize)) -> V {
        if let Some(sized) = self.cache.get(&key) {
            return sized.value.clone();
        }
        let (value, bytes) = make();
        self.cache.insert(key, Sized { value: value.clone(), bytes: bytes as u64 });
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_kept_within_the_bound_and_not_made_again() {
        let mut cache = ShapeCache::new(100);
        assert_eq!(cache.get_or_make(1, || (10, 30)), 10);
        assert_eq!(cache.get_or_make(1, || unreachable!("1 is kept")), 10);
        for key in 2..50 {
            assert_eq!(cache.get_or_make(key, || (key * 10, 30)), key * 10);
            assert!(cache.bytes() <= 100);
        }
        assert_eq!(cache.get_or_make(99, || (990, 101)), 990);
        assert!(cache.bytes() <= 100, "what is larger than the bound is not kept");
    }
}
