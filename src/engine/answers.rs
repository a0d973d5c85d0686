//! Answers kept from earlier requests, within a bound of bytes.

use std::mem::size_of;

use quick_cache::{Weighter, sync::Cache};
use sha2::{Digest, Sha256};

use super::ImageId;
use crate::message::Scores;

/// What an answer depends on beside the version: the image, the texts and the caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AnswerKey([u8; 32]);

impl AnswerKey {
    /// The key of a request.
    pub fn new(image: &ImageId, texts: &[String], caption: Option<&str>) -> Self {
        let mut digest = Sha256::new_with_prefix(image.0);
        // Lengths, so that no two requests read the same once joined.
        let mut add = |part: Option<&str>| {
            digest.update(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            digest.update(part.unwrap_or_default());
        };
        add(caption);
        texts.iter().for_each(|text| add(Some(text)));
        Self(digest.finalize().into())
    }
}

/// Answers of one version.
#[derive(Debug)]
pub(super) struct AnswerCache(Option<Cache<AnswerKey, Box<[Scores]>, Bytes>>);

#[derive(Clone, Debug)]
struct Bytes;

/// What the cache itself keeps for each answer, about.
const OVERHEAD: usize = 64;

impl Weighter<AnswerKey, Box<[Scores]>> for Bytes {
    fn weight(&self, _: &AnswerKey, scores: &Box<[Scores]>) -> u64 {
        weight(scores.len())
    }
}

fn weight(texts: usize) -> u64 {
    (size_of::<AnswerKey>() + size_of::<Box<[Scores]>>() + OVERHEAD + texts * size_of::<Scores>()) as u64
}

impl AnswerCache {
    /// A cache of so many bytes; none for zero.
    pub(super) fn new(bytes_max: usize) -> Self {
        let make = |bytes_max: u64| Cache::with_weighter((bytes_max / weight(1)) as usize, bytes_max, Bytes);
        Self((bytes_max > 0).then(|| make(bytes_max as u64)))
    }

    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn get(&self, key: &AnswerKey) -> Option<Vec<Scores>> {
        Some(self.0.as_ref()?.get(key)?.into_vec())
    }

    pub(super) fn insert(&self, key: AnswerKey, scores: &[Scores]) {
        if let Some(cache) = &self.0 {
            cache.insert(key, scores.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn requests_that_differ_anywhere_have_different_keys() {
        let (image, other) = (ImageId([1; 32]), ImageId([2; 32]));
        let keys = [
            AnswerKey::new(&image, &texts(&["a mug"]), None),
            AnswerKey::new(&other, &texts(&["a mug"]), None),
            AnswerKey::new(&image, &texts(&["a mug"]), Some("")),
            AnswerKey::new(&image, &texts(&["a ", "mug"]), None),
            AnswerKey::new(&image, &texts(&["a mug", ""]), None),
            AnswerKey::new(&image, &texts(&[]), Some("a mug")),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{index}");
        }
        assert_eq!(keys[0], AnswerKey::new(&image, &texts(&["a mug"]), None));
    }

    #[test]
    fn a_cache_keeps_within_its_bytes_and_one_of_no_bytes_keeps_nothing() {
        let key = |number: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            AnswerKey(bytes)
        };
        let scores = [Scores { yes: 1.0, maybe: 0.0, no: 0.0 }];
        let cache = AnswerCache::new(10_000);
        for number in 0..1_000 {
            cache.insert(key(number), &scores);
        }
        let kept = (0..1_000).filter(|number| cache.get(&key(*number)).is_some()).count();
        assert!(kept > 0 && kept as u64 * weight(1) <= 10_000, "{kept}");
        let off = AnswerCache::new(0);
        off.insert(key(1), &scores);
        assert!(!off.is_on() && off.get(&key(1)).is_none());
    }
}
