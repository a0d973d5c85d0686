//! Reads what `torch.save` writes: tensors through the `pytorch-reader` crate, everything else through
//! our own pickle reader, which refuses what that crate would pass over.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufReader, Read, Seek},
    path::Path,
};

use half::{bf16, f16, slice::HalfFloatSliceExt};
use pytorch_reader::{DType, PytorchReader};
use zip::ZipArchive;

use super::{
    Stored, TensorError, Values, Weights, WeightsError, malformed,
    pickle::{self, PickleError, Pickled},
    unreadable,
};

const ZIP_MAGIC: [u8; 4] = *b"PK\x03\x04";
/// A pickle holds names, shapes and settings; this is room for a hundred thousand tensors.
const PICKLE_BYTES_MAX: u64 = 64 << 20;
/// Of the older format: the number that its first pickle holds, as every protocol from 2 on writes it.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// How far into the file that number is looked for.
const LEGACY_MAGIC_WITHIN: usize = 64;
/// Magic number, protocol version, system description, and then what was saved.
const LEGACY_PICKLES_BEFORE: usize = 3;
/// Where an archive of PyTorch's first year says that it is one. Its pickles lie where only the crate
/// looks, so it is refused.
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");
/// Where training programs put the parameters when they save more than these.
const NESTED_UNDER: [&str; 3] = ["model", "state_dict", "module"];

/// Opens a file. Every pickle in it is looked through before anything else is read.
pub(super) fn open(path: &Path) -> Result<Weights, WeightsError> {
    let pickled = saved(path)?;
    let key =
        NESTED_UNDER.into_iter().find(|key| pickled.root().get(key).is_some_and(|value| value.fields().is_some()));
    let reader = match key {
        Some(key) => PytorchReader::with_top_level_key(path, key),
        None => PytorchReader::new(path),
    };
    let tensors = reader.map_err(|error| malformed(path, error))?.into_tensors().into_iter();
    let tensors = tensors.map(|(name, tensor)| {
        let shape = tensor.shape().to_vec();
        (name, Stored { shape, values: Values::Torch(tensor) })
    });
    Ok(Weights { tensors: tensors.collect(), extras: Some(pickled) })
}

/// The saved object, tensors left out.
fn saved(path: &Path) -> Result<Pickled, WeightsError> {
    let refused = |error: PickleError| match error {
        PickleError::Global(global) => WeightsError::UnknownName { path: path.to_owned(), global },
        error => malformed(path, error),
    };
    let mut file = File::open(path).map_err(|error| unreadable(path, error))?;
    let mut head = Vec::new();
    let (tar_at, tar) = TAR_MAGIC;
    (&mut file).take((tar_at + tar.len()) as u64).read_to_end(&mut head).map_err(|error| unreadable(path, error))?;
    file.rewind().map_err(|error| unreadable(path, error))?;
    if head.starts_with(&ZIP_MAGIC) {
        return pickle::read(&mut from_archive(path, file)?.as_slice()).map_err(refused);
    }
    let beginning = &head[..head.len().min(LEGACY_MAGIC_WITHIN)];
    let is_legacy = beginning.windows(LEGACY_MAGIC.len()).any(|bytes| bytes == LEGACY_MAGIC);
    if !is_legacy || head.get(tar_at..) == Some(tar) {
        return Err(malformed(path, "it is neither of the two formats that PyTorch has written since 2017"));
    }
    let mut pickles = BufReader::new(file.take(PICKLE_BYTES_MAX));
    for _ in 0..LEGACY_PICKLES_BEFORE {
        pickle::read(&mut pickles).map_err(refused)?;
    }
    let saved = pickle::read(&mut pickles).map_err(refused)?;
    // The list of storages, which lies between what was saved and their bytes.
    pickle::read(&mut pickles).map_err(refused)?;
    Ok(saved)
}

/// The pickle of an archive, whose entries must stay inside it.
fn from_archive(path: &Path, file: File) -> Result<Vec<u8>, WeightsError> {
    let mut archive = ZipArchive::new(file).map_err(|error| malformed(path, error))?;
    let names: Result<Vec<String>, _> = archive.file_names().map(|name| name.map(Cow::into_owned)).collect();
    let names = names.map_err(|error| malformed(path, error))?;
    let outside =
        |name: &String| name.starts_with('/') || name.contains('\\') || name.split('/').any(|part| part == "..");
    if let Some(entry) = names.iter().find(|name| outside(name)) {
        return Err(WeightsError::Path { path: path.to_owned(), entry: entry.clone() });
    }
    let mut pickles = names.iter().filter(|name| name.rsplit('/').next() == Some("data.pkl"));
    let (Some(name), None) = (pickles.next(), pickles.next()) else {
        return Err(malformed(path, "it is an archive without exactly one data.pkl, so not one of PyTorch"));
    };
    let entry = archive.by_name(name).map_err(|error| malformed(path, error))?;
    let mut bytes = Vec::new();
    entry.take(PICKLE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| malformed(path, error))?;
    if bytes.len() as u64 > PICKLE_BYTES_MAX {
        Err(malformed(path, format!("its pickle has more than {PICKLE_BYTES_MAX} bytes")))
    } else {
        Ok(bytes)
    }
}

pub(super) fn floats(tensor: &pytorch_reader::Tensor) -> Result<Vec<f32>, TensorError> {
    let dtype = tensor.dtype();
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(TensorError::Type(format!("{dtype:?}")));
    }
    let bytes = tensor.read().map_err(|error| TensorError::Unreadable(error.to_string()))?;
    let mut values = vec![0.0; tensor.num_elements()];
    match dtype {
        DType::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(&bytes).convert_to_f32_slice(&mut values),
        DType::BF16 => bytemuck::pod_collect_to_vec::<u8, bf16>(&bytes).convert_to_f32_slice(&mut values),
        _ => bytemuck::cast_slice_mut(&mut values).copy_from_slice(&bytes),
    }
    Ok(values)
}
