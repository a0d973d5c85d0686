//! What the encoder reads of images, kept within a bound of bytes: several texts about one picture, or one picture sent
//! twice, cost its ResNet once.

use burn::tensor::Tensor;
use quick_cache::{Weighter, unsync::Cache};

use super::ImageId;

/// Image tokens `[1, patches, d_model]` by image.
pub(super) struct ImageCache(Option<Cache<ImageId, Tensor<3>, Bytes>>);

#[derive(Clone)]
struct Bytes;

impl Weighter<ImageId, Tensor<3>> for Bytes {
    fn weight(&self, _: &ImageId, tokens: &Tensor<3>) -> u64 {
        (tokens.shape().num_elements() * tokens.dtype().size()) as u64
    }
}

/// Sizes the cache's tables; a picture takes about this much.
const BYTES_EACH: usize = 2 << 20;

impl ImageCache {
    /// A cache of so many bytes; none for zero.
    pub(super) fn new(bytes_max: usize) -> Self {
        let make = || Cache::with_weighter(bytes_max / BYTES_EACH + 1, bytes_max as u64, Bytes);
        Self((bytes_max > 0).then(make))
    }

    /// Bytes of what is kept.
    pub(super) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, Cache::weight)
    }

    pub(super) fn get(&self, image: &ImageId) -> Option<Tensor<3>> {
        self.0.as_ref()?.get(image).cloned()
    }

    /// Keeps the tokens of new images, `[images or more, patches, d_model]`.
    pub(super) fn keep(&mut self, fresh: Option<Tensor<3>>, ids: &[ImageId]) {
        let (Some(cache), Some(fresh)) = (&mut self.0, fresh) else { return };
        for (at, id) in ids.iter().enumerate() {
            let part = fresh.clone().slice_dim(0, at..at + 1);
            // A slice would keep the whole batch alive, which the cache's bound knows nothing of; a sum is a copy.
            cache.insert(*id, if fresh.dims()[0] > 1 { part + 0.0 } else { part });
        }
    }

    /// The tokens of all images of a pass, `[images, patches, d_model]`: those that were `known`, and in the place of
    /// the others the `new` ones of `fresh`, in order. Padding behind these is left out.
    pub(super) fn complete(known: Vec<Option<Tensor<3>>>, fresh: Option<Tensor<3>>, new: usize) -> Tensor<3> {
        let all_new = known.iter().all(Option::is_none);
        match fresh {
            Some(fresh) if all_new => fresh.slice_dim(0, 0..new),
            fresh => {
                let part = |at: usize| fresh.as_ref().map(|fresh| fresh.clone().slice_dim(0, at..at + 1));
                let mut parts = (0..new).filter_map(part);
                Tensor::cat(known.into_iter().filter_map(|tokens| tokens.or_else(|| parts.next())).collect(), 0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn tokens(images: usize, first: f32) -> Tensor<3> {
        let values = (0..images).map(|image| Tensor::<3>::full([1, 4, 8], first + image as f32, &Device::flex()));
        Tensor::cat(values.collect(), 0)
    }

    #[test]
    fn known_and_fresh_images_come_in_the_order_of_the_pass() {
        let id = |number: u8| ImageId([number; 32]);
        let mut cache = ImageCache::new(1 << 20);
        let all = ImageCache::complete(vec![None, None], Some(tokens(4, 1.0)), 2);
        assert_eq!(all.dims(), [2, 4, 8], "padding is left out");
        cache.keep(Some(tokens(4, 1.0)), &[id(1), id(2)]);
        let known = [id(3), id(2), id(4), id(1)].iter().map(|id| cache.get(id)).collect();
        let mixed = ImageCache::complete(known, Some(tokens(2, 3.0)), 2);
        cache.keep(Some(tokens(2, 3.0)), &[id(3), id(4)]);
        let first: Vec<f32> = mixed.slice_dim(2, 0..1).slice_dim(1, 0..1).flatten::<1>(0, 2).try_into_vec_as().unwrap();
        assert_eq!(first, [3.0, 2.0, 4.0, 1.0]);
        assert_eq!(cache.bytes(), 4 * 4 * 8 * 4);
    }

    #[test]
    fn a_cache_of_no_bytes_keeps_nothing() {
        let mut cache = ImageCache::new(0);
        cache.keep(Some(tokens(1, 1.0)), &[ImageId([1; 32])]);
        assert!(cache.get(&ImageId([1; 32])).is_none());
    }
}
