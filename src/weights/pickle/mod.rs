//! A pickle reader that calls nothing.
//!
//! A pickle is a program for a stack machine that builds values, and may ask for any function of Python
//! to be called on the way. Here such a call only leaves the name of what was asked for and its state;
//! and where the name is none that checkpoints need, the whole file is refused.

mod machine;
mod opcode;

use std::{cell::RefCell, io::BufRead, rc::Rc};

pub(super) use machine::read;

/// A pickle that is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum PickleError {
    /// It asks for something that checkpoints have no use for.
    #[error("its pickle asks for `{0}`")]
    Global(String),
    /// It is not a pickle, or not all of one.
    #[error("its pickle is broken: {0}")]
    Broken(&'static str),
    /// It has an operation that PyTorch does not write.
    #[error("its pickle has the operation {0:#04x}, which PyTorch does not write")]
    Operation(u8),
    /// It ends early.
    #[error("its pickle ends early: {0}")]
    Early(#[from] std::io::Error),
}

/// What a pickle holds, tensors left out. Containers are shared, as the pickle's memo shares them.
#[derive(Clone, Debug)]
pub enum Value {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A string.
    Text(Rc<str>),
    /// A list, tuple or set.
    List(Items),
    /// A dictionary.
    Dict(Pairs),
    /// A function or class, by its full name.
    Global(Rc<str>),
    /// An object: its class, and the attributes it was given.
    Object(Rc<str>, Pairs),
    /// Bytes, a tensor, or the result of a call: nothing that a configuration needs.
    Opaque,
}

/// The items of a list.
pub(super) type Items = Rc<RefCell<Vec<Value>>>;

/// Keys and values in the order they were written.
pub(super) type Pairs = Rc<RefCell<Vec<(Value, Value)>>>;

/// All that one pickle made.
#[derive(Debug)]
pub(super) struct Pickled {
    root: Value,
    lists: Vec<Items>,
    dicts: Vec<Pairs>,
}

impl Pickled {
    /// What was saved.
    pub(super) fn root(&self) -> &Value {
        &self.root
    }
}

/// Emptied one by one: dropping a million lists inside each other, which a few kilobytes can describe,
/// would need a million stack frames. It also breaks circles.
impl Drop for Pickled {
    fn drop(&mut self) {
        self.lists.iter().for_each(|list| list.borrow_mut().clear());
        self.dicts.iter().for_each(|dict| dict.borrow_mut().clear());
    }
}

impl Value {
    /// The value of a dictionary's key, or of an object's attribute; the last one written counts.
    pub fn get(&self, key: &str) -> Option<Self> {
        let pairs = self.fields()?.borrow();
        pairs.iter().rev().find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value.clone())
    }

    /// The pairs of a dictionary, or the attributes of an object.
    pub fn fields(&self) -> Option<&Pairs> {
        match self {
            Self::Dict(pairs) | Self::Object(_, pairs) => Some(pairs),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number, whole or not.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Int(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// A truth value.
    pub fn truth(&self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(*truth),
            _ => None,
        }
    }
}

/// What a checkpoint may name, in full; an entry that ends in a dot is a module that holds nothing but
/// classes of settings and counters. Everything that tensors and training runs need; nothing that reads,
/// writes or runs.
const HARMLESS: [&str; 66] = [
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.Counter",
    "collections.deque",
    "argparse.Namespace",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "_codecs.encode",
    "datetime.datetime",
    "datetime.date",
    "datetime.timedelta",
    "datetime.timezone",
    "decimal.Decimal",
    "fractions.Fraction",
    "uuid.UUID",
    "types.SimpleNamespace",
    "pathlib.Path",
    "pathlib.PurePath",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "pathlib.PureWindowsPath",
    // Python 3.13 pickles paths under this name.
    "pathlib._local.Path",
    "pathlib._local.PurePath",
    "pathlib._local.PosixPath",
    "pathlib._local.PurePosixPath",
    "pathlib._local.WindowsPath",
    "pathlib._local.PureWindowsPath",
    "typing.Any",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.bool_",
    "numpy.float",
    "numpy.int",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_device_tensor_from_numpy",
    "torch._utils._rebuild_wrapper_subclass",
    "torch.serialization._get_layout",
    "torch.memory_format",
    "torch.layout",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._tensor._rebuild_from_type_v2",
    "torch.nn.parameter.Parameter",
    "torch.storage.UntypedStorage",
    "torch.storage.TypedStorage",
    "torch.Tensor",
    "torch.Size",
    "torch.device",
    "torch.strided",
    "torch.contiguous_format",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.",
    "fairseq.dataclass.configs.",
    "fairseq.dataclass.constants.",
    "fairseq.logging.meters.",
];
/// Built-in types; anything else that is built in, such as `eval`, is not.
const BUILT_IN: [&str; 17] = [
    "range",
    "xrange",
    "slice",
    "set",
    "frozenset",
    "dict",
    "list",
    "tuple",
    "int",
    "long",
    "float",
    "complex",
    "str",
    "bool",
    "bytes",
    "bytearray",
    "object",
];
/// The end of a class of typed storage, and the element types of tensors.
const TORCH_STORAGE: &str = "Storage";
const TORCH_TYPES: [&str; 12] =
    ["float", "float16", "float32", "float64", "half", "bfloat16", "double", "int8", "int16", "int32", "int64", "bool"];

fn is_harmless(module: &str, name: &str) -> bool {
    // Behind a dot, a name could reach whatever a harmless module has imported.
    if name.contains('.') {
        return false;
    }
    if matches!(module, "builtins" | "__builtin__") {
        return BUILT_IN.contains(&name);
    }
    if module == "torch" && (name.ends_with(TORCH_STORAGE) || TORCH_TYPES.contains(&name)) {
        return true;
    }
    let full = format!("{module}.{name}");
    HARMLESS.iter().any(|entry| match entry.strip_suffix('.') {
        Some(_) => full.starts_with(entry),
        None => full == *entry || (matches!(*entry, "numpy.float" | "numpy.int") && is_sized(&full, entry)),
    })
}

/// Whether a name is a type with its size in bits behind it, such as `numpy.float64`.
fn is_sized(full: &str, stem: &str) -> bool {
    full.strip_prefix(stem).is_some_and(|bits| bits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by Python's own `pickle.dumps` with the protocol given, as the test's names say.
    fn python(bytes: &[u8]) -> Result<Pickled, PickleError> {
        read(&mut &*bytes)
    }

    #[test]
    fn a_small_file_that_asks_for_millions_of_values_is_refused_early() {
        let many = [b"}".repeat(4 << 20), b".".to_vec()].concat();
        let held = allocation_counter::measure(|| assert!(python(&many).is_err()));
        assert!(held.bytes_max < 100 << 20, "{} bytes", held.bytes_max);
        let text = [&b"X\xff\xff\xff\x7f"[..], &[b'a'; 100]].concat();
        assert!(python(&text).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn two_hundred_thousand_lists_inside_each_other_cost_no_stack() {
        let mut nested = b"]".to_vec();
        nested.extend(std::iter::repeat_n(b'\x85', 200_000));
        nested.push(b'.');
        assert!(python(&nested).is_ok());
        nested.pop();
        assert!(python(&nested).is_err());
    }

    #[test]
    fn names_that_could_run_something_are_refused_and_those_of_checkpoints_are_not() {
        let dangerous = [
            ("posix", "system"),
            ("os", "system"),
            ("builtins", "eval"),
            ("__builtin__", "exec"),
            ("builtins", "getattr"),
            ("subprocess", "Popen"),
            ("torch", "load"),
            ("torch.hub", "load"),
            ("torch.utils.cpp_extension", "load"),
            ("numpy", "load"),
            ("numpy", "intp.x"),
            ("fairseq.tasks", "setup_task"),
            ("collections", "OrderedDict.__reduce__"),
            ("torch", "os.system.Storage"),
            ("omegaconf", "OmegaConf.load"),
            ("datetime", "sys.modules"),
            ("fairseq.dataclass.utils", "eval_str_list"),
        ];
        for (module, name) in dangerous {
            assert!(!is_harmless(module, name), "{module}.{name}");
        }
        let needed = [
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "FloatStorage"),
            ("torch", "BFloat16Storage"),
            ("torch", "float32"),
            ("argparse", "Namespace"),
            ("numpy", "float64"),
            ("numpy.core.multiarray", "scalar"),
            ("fairseq.dataclass.constants", "DDP_BACKEND_CHOICES"),
            ("omegaconf.dictconfig", "DictConfig"),
            ("__builtin__", "set"),
        ];
        for (module, name) in needed {
            assert!(is_harmless(module, name), "{module}.{name}");
        }
    }

    #[test]
    fn a_call_is_not_made_but_refused_by_name() {
        // pickle.dumps of an object whose __reduce__ gives (os.system, ("touch hacked",)), protocol 2.
        let hostile = b"\x80\x02cposix\nsystem\nq\x00X\x0c\x00\x00\x00touch hackedq\x01\x85q\x02Rq\x03.";
        assert!(matches!(python(hostile), Err(PickleError::Global(name)) if name == "posix.system"));
        // The same with protocol 4, where the name comes over the stack.
        let hostile = b"\x80\x04\x95\x27\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x0ctouch hacked\x94\x85\x94R\x94.";
        assert!(matches!(python(hostile), Err(PickleError::Global(name)) if name == "posix.system"));
    }

    #[test]
    fn a_namespace_gives_its_attributes() {
        // pickle.dumps(argparse.Namespace(arch="ofa", layers=6, scale=2.0, flag=True, none=None), 2)
        let namespace = b"\x80\x02cargparse\nNamespace\nq\x00)\x81q\x01}q\x02(X\x04\x00\x00\x00archq\x03X\x03\x00\x00\x00ofaq\x04X\x06\x00\x00\x00layersq\x05K\x06X\x05\x00\x00\x00scaleq\x06G@\x00\x00\x00\x00\x00\x00\x00X\x04\x00\x00\x00flagq\x07\x88X\x04\x00\x00\x00noneq\x08Nub.";
        let pickled = python(namespace).unwrap();
        let value = pickled.root();
        assert_eq!(value.get("arch").unwrap().text(), Some("ofa"));
        assert_eq!(value.get("layers").unwrap().number(), Some(6.0));
        assert_eq!(value.get("scale").unwrap().number(), Some(2.0));
        assert_eq!(value.get("flag").unwrap().truth(), Some(true));
        assert!(matches!(value.get("none"), Some(Value::None)));
        assert!(value.get("missing").is_none());
    }

    #[test]
    fn a_container_filled_after_it_was_stored_is_seen_filled() {
        // a = []; pickle.dumps({"a": a, "b": a}, 0) with the list filled through its second name.
        let shared = b"(dp0\nVa\np1\n(lp2\nsVb\np3\ng2\nI7\nas.";
        let pickled = python(shared).unwrap();
        let value = pickled.root();
        let Some(Value::List(list)) = value.get("a") else { panic!("{value:?}") };
        assert_eq!(list.borrow()[0].number(), Some(7.0));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_away(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            read(&mut bytes.as_slice()).ok();
        }

        #[test]
        fn no_cut_and_no_changed_byte_does_either(at in 0usize..140, byte in proptest::num::u8::ANY) {
            let whole = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01K\x02eX\x01\x00\x00\x00bq\x03ccollections\nOrderedDict\nq\x04)Rq\x05X\x01\x00\x00\x00cq\x06cargparse\nNamespace\nq\x07)\x81q\x08}q\x09X\x01\x00\x00\x00dq\x0aK\x03sbu.";
            let mut changed = whole.to_vec();
            let at = at.min(changed.len() - 1);
            changed[at] = byte;
            read(&mut changed.as_slice()).ok();
            proptest::prop_assert!(read(&mut &whole[..at]).is_err());
        }
    }
}
