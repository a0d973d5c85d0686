//! How units are divided: by hash, so that the same unit gets the same variant on every machine and every day.
//!
//! * [`m3v1`]: the scheme of this program. The others are there for teams that share assignments with another
//!   platform; each is that platform's own, defects included.
//! * [`unleash`], [`optimizely`], [`flagd`].
//! * `division`: one experiment's, checked.

pub mod flagd;
pub mod m3v1;
pub mod optimizely;
pub mod unleash;

mod division;

use serde::{Deserialize, Serialize};

pub(super) use division::{Division, Placement};

/// An assignment scheme.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Scheme {
    /// This program's own.
    #[default]
    M3v1,
    /// Unleash's gradual rollout and variants.
    Unleash,
    /// Optimizely's traffic allocation.
    Optimizely,
    /// The `fractional` operation of flagd and OpenFeature, version 2.
    Flagd,
}

impl Scheme {
    const ALL: [(&'static str, Self); 4] =
        [("m3v1", Self::M3v1), ("unleash", Self::Unleash), ("optimizely", Self::Optimizely), ("flagd", Self::Flagd)];

    /// The scheme as settings and verdicts spell it.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl From<Scheme> for &'static str {
    fn from(scheme: Scheme) -> Self {
        Scheme::ALL.iter().find(|(_, candidate)| *candidate == scheme).map_or("", |(name, _)| name)
    }
}

impl TryFrom<String> for Scheme {
    type Error = String;

    fn try_from(written: String) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(name, _)| *name == written);
        found.map(|(_, scheme)| *scheme).ok_or_else(|| {
            format!("there is no scheme `{written}`: there are {}", Self::ALL.map(|(name, _)| name).join(", "))
        })
    }
}

/// How scheme `m3v1` picks among variants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Method {
    /// Variants lie side by side on one scale. Integers only.
    #[default]
    Cumulative,
    /// Each variant draws a score for each unit, and the highest wins: units move only to variants whose weight grew by a larger factor
    /// than that of their own, which is the least there can be where one weight changes, or a variant comes or goes.
    Rendezvous,
}

impl Method {
    /// The method as settings and verdicts spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cumulative => "cumulative",
            Self::Rendezvous => "rendezvous",
        }
    }
}

impl From<Method> for &'static str {
    fn from(method: Method) -> Self {
        method.as_str()
    }
}

impl TryFrom<String> for Method {
    type Error = String;

    fn try_from(written: String) -> Result<Self, String> {
        let found = [Self::Cumulative, Self::Rendezvous].into_iter().find(|method| method.as_str() == written);
        found.ok_or_else(|| format!("there is no assignment `{written}`: there are cumulative, rendezvous"))
    }
}

/// A hash, and where it falls on a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The hash.
    pub hash: u32,
    /// Its place, from zero.
    pub place: u64,
    /// The length of the scale.
    pub of: u64,
}

impl Spot {
    /// `(hash * length) >> 32`: an even spread over the scale, without modulo bias.
    pub fn spread(hash: u32, of: u64) -> Self {
        Self { hash, place: ((u128::from(hash) * u128::from(of)) >> 32) as u64, of }
    }
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "hash {:#010x}, place {} of {}", self.hash, self.place, self.of)
    }
}

/// `murmur3_x86_32` of the pieces one after the other, so that nothing is joined on the heap.
fn murmur3<const N: usize>(pieces: [&str; N], seed: u32) -> u32 {
    use std::io::Read;

    /// Reads the pieces one after the other.
    struct Pieces<'p, const N: usize>([&'p [u8]; N]);

    impl<const N: usize> Read for Pieces<'_, N> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let piece = self.0.iter_mut().find(|piece| !piece.is_empty());
            piece.map_or(Ok(0), |piece| piece.read(buffer))
        }
    }

    // Reading from memory cannot fail; zero would be a valid hash, so nothing depends on this arm.
    murmur3::murmur3_32(&mut Pieces(pieces.map(str::as_bytes)), seed).unwrap_or_default()
}

/// The index of the first cumulative weight above a place.
fn first_above(place: u64, weights: impl IntoIterator<Item = u64>) -> Option<usize> {
    let mut cumulative = 0;
    weights.into_iter().position(|weight| {
        cumulative += weight;
        place < cumulative
    })
}

#[cfg(test)]
pub(super) mod chance;
#[cfg(test)]
mod tests;
