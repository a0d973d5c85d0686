//! The stack machine that reads one pickle.

use std::{cell::RefCell, collections::HashMap, io::Read, rc::Rc};

use super::{BufRead, Pairs, PickleError, Pickled, Value, is_harmless, opcode::*};

/// A checkpoint of the largest size has two thousand tensors of two dozen operations each.
const OPERATIONS_MAX: usize = 1 << 20;
/// Lists, dictionaries and objects. A file of four kilobytes can ask for a million of them, at a hundred bytes each.
const CONTAINERS_MAX: usize = 1 << 18;
/// Bytes of all texts together.
const TEXT_BYTES_MAX: u64 = 64 << 20;
const LINE_BYTES_MAX: u64 = 1 << 16;

/// Reads one pickle, up to and with its end.
pub(in crate::weights) fn read(input: &mut impl BufRead) -> Result<Pickled, PickleError> {
    let made = Pickled { root: Value::None, lists: Vec::new(), dicts: Vec::new() };
    let mut machine =
        Machine { input, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), made, copied: 0, text_bytes: 0 };
    for _ in 0..OPERATIONS_MAX {
        let operation = machine.byte()?;
        if operation == STOP {
            machine.made.root = machine.pop()?;
            return Ok(machine.made);
        }
        machine.step(operation)?;
    }
    Err(PickleError::Broken("it has too many operations"))
}

struct Machine<'i, I> {
    input: &'i mut I,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    made: Pickled,
    /// Attributes copied so far: one small pickle could ask for the same million of them a million times.
    copied: usize,
    /// Bytes of texts read so far.
    text_bytes: u64,
}

const EMPTY_STACK: PickleError = PickleError::Broken("it takes a value where there is none");

fn paired(items: Vec<Value>) -> Vec<(Value, Value)> {
    let mut items = items.into_iter();
    let mut pairs = Vec::new();
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        pairs.push((key, value));
    }
    pairs
}

impl<I: BufRead> Machine<'_, I> {
    fn step(&mut self, operation: u8) -> Result<(), PickleError> {
        match operation {
            PROTO => drop(self.bytes(1)?),
            FRAME => drop(self.bytes(8)?),
            MARK => self.marks.push(self.stack.len()),
            POP => drop(self.pop()?),
            POP_MARK => drop(self.above_mark()?),
            DUP => self.stack.push(self.stack.last().cloned().ok_or(EMPTY_STACK)?),
            PERSID => {
                self.line()?;
                self.stack.push(Value::Opaque);
            }
            BINPERSID => {
                self.pop()?;
                self.stack.push(Value::Opaque);
            }
            GLOBAL | STACK_GLOBAL | REDUCE | NEWOBJ | NEWOBJ_EX | INST | OBJ | BUILD => self.build(operation)?,
            PUT | BINPUT | LONG_BINPUT | MEMOIZE | GET | BINGET | LONG_BINGET => self.remember(operation)?,
            APPEND | APPENDS | ADDITEMS | SETITEM | SETITEMS => self.fill(operation)?,
            _ => {
                let value = self.value(operation)?;
                self.stack.push(value);
            }
        }
        Ok(())
    }

    /// Operations that leave one new value.
    fn value(&mut self, operation: u8) -> Result<Value, PickleError> {
        Ok(match operation {
            NONE => Value::None,
            NEWTRUE => Value::Bool(true),
            NEWFALSE => Value::Bool(false),
            BININT => Value::Int(i32::from_le_bytes(self.array()?).into()),
            BININT1 => Value::Int(self.byte()?.into()),
            BININT2 => Value::Int(u16::from_le_bytes(self.array()?).into()),
            BINFLOAT => Value::Float(f64::from_be_bytes(self.array()?)),
            LONG1 => {
                let length = self.byte()?.into();
                self.long(length)?
            }
            LONG4 => {
                let length = self.length4()?;
                self.long(length)?
            }
            INT => match self.line()?.as_str() {
                "00" => Value::Bool(false),
                "01" => Value::Bool(true),
                number => number.parse().map_or(Value::Opaque, Value::Int),
            },
            LONG => self.line()?.trim_end_matches('L').parse().map_or(Value::Opaque, Value::Int),
            FLOAT => self.line()?.parse().map_or(Value::Opaque, Value::Float),
            STRING => Value::Text(self.line()?.trim_matches(['\'', '"']).into()),
            UNICODE => Value::Text(self.line()?.into()),
            SHORT_BINSTRING | SHORT_BINUNICODE => {
                let length = self.byte()?.into();
                self.text(length)?
            }
            BINSTRING | BINUNICODE => {
                let length = self.length4()?;
                self.text(length)?
            }
            BINUNICODE8 => {
                let length = u64::from_le_bytes(self.array()?);
                self.text(length)?
            }
            SHORT_BINBYTES => {
                let length = self.byte()?.into();
                self.skip(length)?
            }
            BINBYTES => {
                let length = self.length4()?;
                self.skip(length)?
            }
            BINBYTES8 | BYTEARRAY8 => {
                let length = u64::from_le_bytes(self.array()?);
                self.skip(length)?
            }
            EMPTY_LIST | EMPTY_TUPLE | EMPTY_SET => self.list(Vec::new())?,
            EMPTY_DICT => Value::Dict(self.dict(Vec::new())?),
            LIST | TUPLE | FROZENSET => {
                let items = self.above_mark()?;
                self.list(items)?
            }
            DICT => {
                let items = self.above_mark()?;
                Value::Dict(self.dict(items)?)
            }
            TUPLE1 | TUPLE2 | TUPLE3 => {
                let items = self.top(usize::from(operation - TUPLE1) + 1)?;
                self.list(items)?
            }
            other => return Err(PickleError::Operation(other)),
        })
    }

    /// Operations that name a function or class, or would call it.
    fn build(&mut self, operation: u8) -> Result<(), PickleError> {
        let value = match operation {
            GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                global(&module, &name)?
            }
            STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(module), Some(name)) = (module.text(), name.text()) else {
                    return Err(PickleError::Broken("a name is no text"));
                };
                global(module, name)?
            }
            INST => {
                let (module, name) = (self.line()?, self.line()?);
                self.above_mark()?;
                self.object(&global(&module, &name)?)?
            }
            OBJ => {
                let items = self.above_mark()?;
                self.object(items.first().ok_or(EMPTY_STACK)?)?
            }
            NEWOBJ_EX => {
                let class = self.top(3)?;
                self.object(&class[0])?
            }
            NEWOBJ | REDUCE => {
                let class = self.top(2)?;
                self.object(&class[0])?
            }
            _ => {
                let state = self.pop()?;
                return self.give_attributes(&state);
            }
        };
        self.stack.push(value);
        Ok(())
    }

    /// An object's state is its attributes, or a pair of these and those kept in slots.
    fn give_attributes(&mut self, state: &Value) -> Result<(), PickleError> {
        let states = match state {
            Value::List(parts) => parts.borrow().iter().take(2).cloned().collect(),
            state => vec![state.clone()],
        };
        let Some(Value::Object(_, attributes)) = self.stack.last() else { return Ok(()) };
        for state in states {
            let Some(given) = state.fields().filter(|given| !Rc::ptr_eq(given, attributes)) else { continue };
            self.copied += given.borrow().len();
            if self.copied > OPERATIONS_MAX {
                return Err(PickleError::Broken("its objects have too many attributes"));
            }
            attributes.borrow_mut().extend(given.borrow().iter().cloned());
        }
        Ok(())
    }

    fn remember(&mut self, operation: u8) -> Result<(), PickleError> {
        let index = match operation {
            MEMOIZE => self.memo.len() as u64,
            PUT | GET => self.line()?.parse().map_err(|_| PickleError::Broken("a place in the memo is no number"))?,
            BINPUT | BINGET => self.byte()?.into(),
            _ => self.length4()?,
        };
        if matches!(operation, GET | BINGET | LONG_BINGET) {
            let value = self.memo.get(&index).cloned();
            self.stack.push(value.ok_or(PickleError::Broken("it reads a place of the memo that is empty"))?);
        } else {
            let value = self.stack.last().cloned().ok_or(EMPTY_STACK)?;
            self.memo.insert(index, value);
        }
        Ok(())
    }

    fn fill(&mut self, operation: u8) -> Result<(), PickleError> {
        let items = match operation {
            APPEND => self.top(1)?,
            SETITEM => self.top(2)?,
            _ => self.above_mark()?,
        };
        match self.stack.last().ok_or(EMPTY_STACK)? {
            Value::List(list) => list.borrow_mut().extend(items),
            // An ordered dictionary is made by a call and filled like a plain one.
            Value::Dict(dict) | Value::Object(_, dict) => {
                dict.borrow_mut().extend(paired(items));
            }
            _ => {}
        }
        Ok(())
    }

    fn list(&mut self, items: Vec<Value>) -> Result<Value, PickleError> {
        self.check_containers()?;
        let list = Rc::new(RefCell::new(items));
        self.made.lists.push(list.clone());
        Ok(Value::List(list))
    }

    fn dict(&mut self, items: Vec<Value>) -> Result<Pairs, PickleError> {
        self.check_containers()?;
        let dict = Rc::new(RefCell::new(paired(items)));
        self.made.dicts.push(dict.clone());
        Ok(dict)
    }

    fn check_containers(&self) -> Result<(), PickleError> {
        if self.made.lists.len() + self.made.dicts.len() < CONTAINERS_MAX {
            Ok(())
        } else {
            Err(PickleError::Broken("it has too many lists and dictionaries"))
        }
    }

    /// What stands for the result of a call.
    fn object(&mut self, class: &Value) -> Result<Value, PickleError> {
        match class {
            Value::Global(name) => Ok(Value::Object(name.clone(), self.dict(Vec::new())?)),
            _ => Ok(Value::Opaque),
        }
    }

    fn pop(&mut self) -> Result<Value, PickleError> {
        self.stack.pop().ok_or(EMPTY_STACK)
    }

    fn top(&mut self, count: usize) -> Result<Vec<Value>, PickleError> {
        let at = self.stack.len().checked_sub(count).ok_or(EMPTY_STACK)?;
        Ok(self.stack.split_off(at))
    }

    fn above_mark(&mut self) -> Result<Vec<Value>, PickleError> {
        let mark = self.marks.pop().ok_or(PickleError::Broken("it goes back to a mark that is not there"))?;
        if mark > self.stack.len() {
            return Err(EMPTY_STACK);
        }
        Ok(self.stack.split_off(mark))
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn length4(&mut self) -> Result<u64, PickleError> {
        Ok(u32::from_le_bytes(self.array()?).into())
    }

    /// Grows with what is there, so that a length that is only claimed costs nothing.
    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, PickleError> {
        self.text_bytes = self.text_bytes.saturating_add(length);
        if self.text_bytes > TEXT_BYTES_MAX {
            return Err(PickleError::Broken("its texts are too long"));
        }
        let mut bytes = Vec::new();
        self.input.take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == length {
            Ok(bytes)
        } else {
            Err(PickleError::Early(std::io::ErrorKind::UnexpectedEof.into()))
        }
    }

    fn skip(&mut self, length: u64) -> Result<Value, PickleError> {
        let skipped = std::io::copy(&mut self.input.take(length), &mut std::io::sink())?;
        if skipped == length {
            Ok(Value::Opaque)
        } else {
            Err(PickleError::Early(std::io::ErrorKind::UnexpectedEof.into()))
        }
    }

    fn text(&mut self, length: u64) -> Result<Value, PickleError> {
        Ok(Value::Text(String::from_utf8_lossy(&self.bytes(length)?).into()))
    }

    fn long(&mut self, length: u64) -> Result<Value, PickleError> {
        let bytes = self.bytes(length)?;
        if bytes.len() > 8 {
            return Ok(Value::Opaque);
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut whole = [if negative { 0xff } else { 0 }; 8];
        whole[..bytes.len()].copy_from_slice(&bytes);
        Ok(Value::Int(i64::from_le_bytes(whole)))
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let mut line = Vec::new();
        self.input.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        match line.pop() {
            Some(b'\n') => Ok(String::from_utf8_lossy(&line).into_owned()),
            _ => Err(PickleError::Broken("a line has no end")),
        }
    }
}

fn global(module: &str, name: &str) -> Result<Value, PickleError> {
    if is_harmless(module, name) {
        Ok(Value::Global(format!("{module}.{name}").into()))
    } else {
        Err(PickleError::Global(format!("{module}.{name}")))
    }
}
