//! Reads safetensors files by position, straight into the memory the values stay in.
//!
//! The file is not mapped: a mapped version whose file somebody overwrites would change its answers
//! behind the digest, and one whose file is cut short would take the process with it.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt, path::Path, sync::Arc};

use half::{bf16, f16, slice::HalfFloatSliceExt};
use safetensors::{Dtype, tensor::Metadata};

use super::{Stored, TensorError, Values, WeightsError, malformed, unreadable};

/// Where the values of one tensor lie.
#[derive(Clone, Debug)]
pub(super) struct Span {
    file: Arc<File>,
    offset: u64,
    dtype: Dtype,
}

const LENGTH_BYTES: u64 = 8;
/// The format's own bound.
const HEADER_BYTES_MAX: u64 = 100_000_000;

pub(super) fn read(path: &Path, file: &Arc<File>) -> Result<BTreeMap<String, Stored>, WeightsError> {
    let bytes = file.metadata().map_err(|error| unreadable(path, error))?.len();
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact_at(&mut length, 0).map_err(|_| malformed(path, "it is too short for a safetensors file"))?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX.min(bytes.saturating_sub(LENGTH_BYTES)) {
        return Err(malformed(path, format!("its header claims {length} bytes, the file has {bytes}")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact_at(&mut header, LENGTH_BYTES).map_err(|error| unreadable(path, error))?;
    let header: Metadata =
        serde_json::from_slice(&header).map_err(|error| malformed(path, format!("its header is broken: {error}")))?;
    let data = LENGTH_BYTES + length;
    let expected = data + header.data_len() as u64;
    if bytes != expected {
        return Err(malformed(path, format!("it has {bytes} bytes, its header describes {expected}")));
    }
    let stored = header.tensors().into_iter().map(|(name, info)| {
        let span = Span { file: file.clone(), offset: data + info.data_offsets.0 as u64, dtype: info.dtype };
        (name, Stored { shape: info.shape.clone(), values: Values::Safetensors(span) })
    });
    Ok(stored.collect())
}

impl Span {
    pub(super) fn floats(&self, len: usize) -> Result<Vec<f32>, TensorError> {
        let mut values = vec![0.0; len];
        match self.dtype {
            Dtype::F32 => self.read(bytemuck::cast_slice_mut(&mut values))?,
            Dtype::F16 => {
                let mut halves = vec![f16::ZERO; len];
                self.read(bytemuck::cast_slice_mut(&mut halves))?;
                halves.convert_to_f32_slice(&mut values);
            }
            Dtype::BF16 => {
                let mut halves = vec![bf16::ZERO; len];
                self.read(bytemuck::cast_slice_mut(&mut halves))?;
                halves.convert_to_f32_slice(&mut values);
            }
            other => return Err(TensorError::Type(format!("{other:?}"))),
        }
        Ok(values)
    }

    fn read(&self, bytes: &mut [u8]) -> Result<(), TensorError> {
        self.file.read_exact_at(bytes, self.offset).map_err(|error| TensorError::Unreadable(error.to_string()))
    }
}

// The format is little-endian, and values are read in place.
#[cfg(target_endian = "big")]
compile_error!("big-endian machines are not supported");
