//! Writes a safetensors file one tensor after the other, so that only one is in memory.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use half::{f16, slice::HalfFloatSliceExt};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use sha2::{Digest, Sha256};

use super::Precision;

/// A safetensors file being written.
pub struct Writer {
    file: BufWriter<File>,
    path: PathBuf,
    hash: Sha256,
    bytes: u64,
    precision: Precision,
}

impl Writer {
    /// Starts a file that will hold these tensors, given by name and shape, in this order.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create<'t>(
        path: &Path,
        precision: Precision,
        tensors: impl Iterator<Item = (&'t str, &'t [usize])>,
    ) -> io::Result<Self> {
        let dtype = match precision {
            Precision::F32 => Dtype::F32,
            Precision::F16 => Dtype::F16,
        };
        let mut end = 0;
        let infos = tensors.map(|(name, shape)| {
            let begin = end;
            end += shape.iter().product::<usize>() * precision.bytes();
            (name.to_owned(), TensorInfo { dtype, shape: shape.to_vec(), data_offsets: (begin, end) })
        });
        let header = Metadata::new(None, infos.collect()).map_err(io::Error::other)?;
        let mut header = serde_json::to_vec(&header)?;
        // The format wants the values to begin at a multiple of eight.
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut writer = Self {
            file: BufWriter::new(File::create_new(path)?),
            path: path.to_owned(),
            hash: Sha256::new(),
            bytes: 0,
            precision,
        };
        writer.put(&(header.len() as u64).to_le_bytes())?;
        writer.put(&header)?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the next tensor's values. Gives back whether each of them could be represented.
    ///
    /// # Errors
    /// When the file does not take them.
    pub fn write(&mut self, values: &[f32]) -> io::Result<bool> {
        match self.precision {
            Precision::F32 => self.put(bytemuck::cast_slice(values)).map(|()| true),
            Precision::F16 => {
                let mut halves = vec![f16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                self.put(bytemuck::cast_slice(&halves))?;
                Ok(halves.iter().all(|value| value.is_finite()))
            }
        }
    }

    /// Ends the file on the disk; gives back its bytes and its SHA-256 in hexadecimal.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn finish(mut self) -> io::Result<(u64, String)> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        Ok((self.bytes, hex::encode(self.hash.finalize())))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}
