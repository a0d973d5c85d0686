//! What weights are stored in, and what is computed with them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many bits a weight has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
}

impl Precision {
    const ALL: [Self; 2] = [Self::F32, Self::F16];

    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Its name in settings and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }
}

/// What a network computes in, whatever its weights are stored in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(into = "&'static str", try_from = "String")]
#[schemars(with = "String", extend("enum" = ["f32", "f16", "int8"]))]
pub enum Arithmetic {
    /// Weights and states of 32 bits.
    #[default]
    F32,
    /// Weights and states of 16 bits; norms and the answers' logits have 32.
    F16,
    /// States of 32 bits, and most weights of 8: a product rounds the states to 8 bits too. Our own CPU kernels have such
    /// products.
    Int8,
}

impl Arithmetic {
    const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Int8];

    /// What states are kept in between operations.
    pub fn states(self) -> Precision {
        match self {
            Self::F32 | Self::Int8 => Precision::F32,
            Self::F16 => Precision::F16,
        }
    }

    /// Its name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }
}

/// Written and read by its name, in settings, manifests and on the command line.
macro_rules! by_name {
    ($kind:ty, $expected:literal) => {
        impl From<$kind> for &'static str {
            fn from(it: $kind) -> Self {
                it.as_str()
            }
        }

        impl TryFrom<String> for $kind {
            type Error = &'static str;

            fn try_from(written: String) -> Result<Self, Self::Error> {
                written.parse()
            }
        }

        impl std::fmt::Display for $kind {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $kind {
            type Err = &'static str;

            fn from_str(written: &str) -> Result<Self, Self::Err> {
                Self::ALL.into_iter().find(|it| it.as_str() == written).ok_or($expected)
            }
        }
    };
}

by_name!(Precision, "expected `f32` or `f16`");
by_name!(Arithmetic, "expected `f32`, `f16` or `int8`");
