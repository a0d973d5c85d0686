//! Opens devices by name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use burn::tensor::{DType, Device as BurnDevice, DeviceKind, wgpu::WgpuInitError};

use crate::{message::Device, ofa::has_integer_products, weights::Arithmetic};

/// A device that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The machine has no such adapter.
    #[error(
        "device `{device}`: this machine has no such adapter ({reason}); set `device = \"flex\"` to run on the CPU"
    )]
    NoAdapter {
        /// The device asked for.
        device: Device,
        /// What the driver says.
        reason: String,
    },
    /// The device does not compute in this precision.
    #[error("device `{device}` does not compute in `{precision}`: {reason}; set `precision = \"f32\"`")]
    Precision {
        /// The device asked for.
        device: Device,
        /// What it does not compute in.
        precision: Arithmetic,
        /// Why not.
        reason: &'static str,
    },
    /// The adapter is there and does not open.
    #[error("device `{device}` does not open: {reason}; set `device = \"flex\"` to run on the CPU")]
    Unusable {
        /// The device asked for.
        device: Device,
        /// What the driver says.
        reason: String,
    },
}

type Opened = Arc<OnceLock<Result<BurnDevice, DeviceError>>>;

/// wgpu lets a selector be initialized once per process, so what was opened is kept and cloned. Each has
/// a lock of its own: a driver that takes seconds keeps nobody waiting who wants another device.
static OPENED: Mutex<Option<HashMap<Device, Opened>>> = Mutex::new(None);

/// Opens a device, or gives back the one that is open already.
///
/// # Errors
/// When the machine has none such, or it does not open.
pub fn open(device: Device) -> Result<BurnDevice, DeviceError> {
    let slot = slot(device);
    let opened = slot.get_or_init(|| match device {
        Device::Flex => Ok(BurnDevice::flex()),
        #[expect(deprecated, reason = "burn drops ndarray after 0.22; people asked for it, and the pin keeps it")]
        Device::NdArray => Ok(BurnDevice::ndarray()),
        Device::Wgpu(index) => open_wgpu(device, index),
    });
    opened.clone()
}

fn slot(device: Device) -> Opened {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    opened.get_or_insert_default().entry(device).or_default().clone()
}

/// Opens the first GPU, where the machine has one. A driver in software, which would be slower than the CPU itself, is none, and is
/// not opened only to find that out: what burn starts for a wgpu device looks for work thousands of times a second, for as long as the process
/// lives.
#[cfg(feature = "train")]
pub fn open_gpu() -> Option<Device> {
    // Without one, drivers need not be asked: some complain on standard error where nobody is logged in.
    const NODES: [&str; 3] = ["/dev/dri", "/dev/nvidiactl", "/dev/dxg"];
    if cfg!(target_os = "linux") && !NODES.iter().any(|node| std::path::Path::new(node).exists()) {
        return None;
    }
    let device = Device::Wgpu(Some(0));
    let opened = open_first(device, hardware(0))?;
    slot(device).set(opened).ok();
    open(device).is_ok().then_some(device)
}

/// Adapters are counted within their kind; a number means the first kind that has it, the stronger
/// kinds first.
fn open_wgpu(device: Device, index: Option<usize>) -> Result<BurnDevice, DeviceError> {
    let kinds = match index {
        None => vec![DeviceKind::DefaultDevice],
        Some(0) => [&hardware(0)[..], &[DeviceKind::Cpu]].concat(),
        Some(n) => hardware(n).to_vec(),
    };
    let missing = DeviceError::NoAdapter { device, reason: "no adapter of any kind has this number".to_owned() };
    open_first(device, kinds).unwrap_or(Err(missing))
}

fn hardware(number: usize) -> [DeviceKind; 3] {
    [DeviceKind::DiscreteGpu(number), DeviceKind::IntegratedGpu(number), DeviceKind::VirtualGpu(number)]
}

/// The first adapter of these kinds that the machine has, whatever comes of opening it.
fn open_first(device: Device, kinds: impl IntoIterator<Item = DeviceKind>) -> Option<Result<BurnDevice, DeviceError>> {
    let mut tried = kinds.into_iter().map(|kind| open_adapter(device, kind));
    tried.find(|opened| !matches!(opened, Err(DeviceError::NoAdapter { .. })))
}

fn open_adapter(device: Device, kind: DeviceKind) -> Result<BurnDevice, DeviceError> {
    // The driver may panic rather than return; a model version must not take the process with it.
    let opened = std::panic::catch_unwind(|| {
        let opened = BurnDevice::wgpu_options().device_kind(kind).init()?;
        let synced = opened.sync().map_err(|error| error.to_string());
        Ok((opened, synced))
    });
    let unusable = |reason: String| DeviceError::Unusable { device, reason };
    match opened {
        Ok(Ok((opened, synced))) => synced.map(|()| opened).map_err(unusable),
        Ok(Err(error @ WgpuInitError::AdapterUnavailable { .. })) => {
            Err(DeviceError::NoAdapter { device, reason: error.to_string() })
        }
        Ok(Err(error)) => Err(unusable(error.to_string())),
        Err(_) => Err(unusable("its driver panicked".to_owned())),
    }
}

/// Text is padded to a multiple of this many tokens: a new length costs a GPU a kernel, a CPU the position biases of
/// every layer. Seven positions more are less than one in a hundred beside the patches of an image.
pub(super) fn token_multiple(device: Device) -> usize {
    match device {
        Device::Wgpu(_) => 16,
        Device::Flex | Device::NdArray => 8,
    }
}

/// Cores of this machine.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whether a device computes in a precision. On the CPU half precision would only be slower.
pub(super) fn supports(device: Device, opened: &BurnDevice, precision: Arithmetic) -> Result<(), DeviceError> {
    let reason = match (precision, device) {
        (Arithmetic::F32, _) => return Ok(()),
        (Arithmetic::F16, Device::Wgpu(_)) if opened.supports_dtype(DType::F16) => return Ok(()),
        (Arithmetic::F16, Device::Wgpu(_)) => "this adapter has no half precision",
        (Arithmetic::F16, _) => "only wgpu does",
        (Arithmetic::Int8, Device::Flex) if has_integer_products() => return Ok(()),
        (Arithmetic::Int8, Device::Flex) => "this CPU has no dot products of 8-bit numbers, such as AVX-512 VNNI",
        (Arithmetic::Int8, _) => "only flex does",
    };
    Err(DeviceError::Precision { device, precision, reason })
}

/// The device by its own name; `threads` are those of a pass on the CPU.
pub(super) fn adapter(device: Device, opened: &BurnDevice, threads: usize) -> String {
    match opened.identity() {
        Some(identity) => identity.name,
        None => format!("CPU, {threads} threads, {device}"),
    }
}
