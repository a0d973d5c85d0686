//! Where a model version runs, and when it is loaded.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A compute device, spelled `wgpu`, `wgpu:1`, `flex` or `ndarray`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(into = "String", try_from = "String")]
#[schemars(with = "String", extend("pattern" = r"^(wgpu(:\d+)?|flex|ndarray)$"))]
pub enum Device {
    /// A GPU through wgpu; the index counts adapters of one kind, none means the best one.
    Wgpu(Option<usize>),
    /// The CPU through burn-flex, the default.
    Flex,
    /// The CPU through burn-ndarray.
    NdArray,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wgpu(None) => f.write_str("wgpu"),
            Self::Wgpu(Some(index)) => write!(f, "wgpu:{index}"),
            Self::Flex => f.write_str("flex"),
            Self::NdArray => f.write_str("ndarray"),
        }
    }
}

/// A device name that is none of the known ones.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown device `{0}`: write `wgpu`, `wgpu:1` (an adapter by number), `flex` or `ndarray`")]
pub struct UnknownDevice(String);

impl FromStr for Device {
    type Err = UnknownDevice;

    fn from_str(name: &str) -> Result<Self, UnknownDevice> {
        match name {
            "wgpu" => Ok(Self::Wgpu(None)),
            "flex" => Ok(Self::Flex),
            "ndarray" => Ok(Self::NdArray),
            _ => name
                .strip_prefix("wgpu:")
                .and_then(|index| index.parse().ok())
                .map(|index| Self::Wgpu(Some(index)))
                .ok_or_else(|| UnknownDevice(name.to_owned())),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = UnknownDevice;

    fn try_from(name: String) -> Result<Self, UnknownDevice> {
        name.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

/// When a version is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Load {
    /// Before the first request is taken that a configuration could send to it; let go some time after no configuration
    /// names it any more.
    Start,
    /// When the first request for it comes, which waits for it; no other version does while its queue
    /// holds what arrives.
    FirstUse,
    /// Whether a route names it or not, so that switching to it is immediate.
    Always,
}

impl TryFrom<String> for Load {
    type Error = &'static str;

    fn try_from(written: String) -> Result<Self, Self::Error> {
        match written.as_str() {
            "start" => Ok(Self::Start),
            "first_use" => Ok(Self::FirstUse),
            "always" => Ok(Self::Always),
            _ => Err("expected \"start\", \"first_use\" or \"always\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_reads_back_from_what_it_prints() {
        for device in [Device::Wgpu(None), Device::Wgpu(Some(1)), Device::Flex, Device::NdArray] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "cuda", "wgpu:", "wgpu:-1", "Flex"] {
            assert!(name.parse::<Device>().is_err(), "{name}");
        }
    }
}
