//! What a field can be.

use crate::decoder::Decoder;
use crate::encoder::Encoder;
use crate::error::{LoadError, Result};
use crate::shape::Shape;

/// Elements of a list at most; also bytes of a [`Text`] and words of [`Bits`].
pub const MAX_ELEMENTS: u32 = 1 << 20;

/// Bytes of a list that are read at once.
const STEP: usize = 64 << 10;

/// A value in a stream.
pub trait Field: Sized {
    /// Writes it under `name`.
    fn put(&self, name: &'static str, out: &mut Encoder);

    /// Reads one.
    ///
    /// # Errors
    /// The stream ended, or what comes cannot be such a value.
    fn get(input: &mut Decoder<'_>) -> Result<Self>;

    /// What it is.
    fn shape() -> Shape;

    /// Writes several under one name.
    fn put_all(all: &[Self], name: &'static str, out: &mut Encoder);

    /// Reads `count`; what has not arrived takes no memory.
    ///
    /// # Errors
    /// As [`Field::get`].
    fn get_all(input: &mut Decoder<'_>, count: usize) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(Self::get(input)?);
        }
        Ok(all)
    }
}

macro_rules! numbers {
    ($($type:ident $kind:literal)*) => {$(
        impl Field for $type {
            fn put(&self, name: &'static str, out: &mut Encoder) {
                out.scalar(name, $kind, None, |bytes| bytes.extend_from_slice(&self.to_be_bytes()));
            }

            fn get(input: &mut Decoder<'_>) -> Result<Self> {
                input.array().map($type::from_be_bytes)
            }

            fn shape() -> Shape {
                Shape::Scalar($kind, size_of::<$type>())
            }

            fn put_all(all: &[Self], name: &'static str, out: &mut Encoder) {
                out.scalar(name, $kind, Some(all.len()), |bytes| {
                    all.iter().for_each(|value| bytes.extend_from_slice(&value.to_be_bytes()));
                });
            }

            fn get_all(input: &mut Decoder<'_>, count: usize) -> Result<Vec<Self>> {
                const SIZE: usize = size_of::<$type>();
                let mut all = Vec::new();
                while all.len() < count {
                    let bytes = u8::get_all(input, STEP.min((count - all.len()) * SIZE))?;
                    all.extend(bytes.as_chunks::<SIZE>().0.iter().map(|value| $type::from_be_bytes(*value)));
                }
                Ok(all)
            }
        }
    )*};
}

numbers! {
    i8 "int8" i16 "int16" u16 "uint16" i32 "int32" u32 "uint32" i64 "int64" u64 "uint64"
}

impl Field for u8 {
    fn put(&self, name: &'static str, out: &mut Encoder) {
        out.scalar(name, "uint8", None, |bytes| bytes.push(*self));
    }

    fn get(input: &mut Decoder<'_>) -> Result<Self> {
        input.array().map(u8::from_be_bytes)
    }

    fn shape() -> Shape {
        Shape::Scalar("uint8", 1)
    }

    /// Bytes are one value, a buffer.
    fn put_all(all: &[Self], name: &'static str, out: &mut Encoder) {
        if !all.is_empty() {
            out.scalar(name, "buffer", None, |bytes| bytes.extend_from_slice(all));
        }
    }

    fn get_all(input: &mut Decoder<'_>, count: usize) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        while all.len() < count {
            let from = all.len();
            all.resize(count.min(from + STEP), 0);
            input.bytes(&mut all[from..])?;
        }
        Ok(all)
    }
}

impl Field for bool {
    fn put(&self, name: &'static str, out: &mut Encoder) {
        out.scalar(name, "bool", None, |bytes| bytes.push((*self).into()));
    }

    fn get(input: &mut Decoder<'_>) -> Result<Self> {
        Ok(input.array::<1>()? != [0])
    }

    fn shape() -> Shape {
        Shape::Scalar("bool", 1)
    }

    fn put_all(all: &[Self], name: &'static str, out: &mut Encoder) {
        out.scalar(name, "bool", Some(all.len()), |bytes| bytes.extend(all.iter().map(|&b| u8::from(b))));
    }
}

impl<T: Field, const N: usize> Field for [T; N] {
    fn put(&self, name: &'static str, out: &mut Encoder) {
        T::put_all(self, name, out);
    }

    fn get(input: &mut Decoder<'_>) -> Result<Self> {
        let all = T::get_all(input, N)?;
        all.try_into().map_err(|_| LoadError::invalid("an array of another length"))
    }

    fn shape() -> Shape {
        Shape::Array(Box::new(T::shape()), N)
    }

    fn put_all(all: &[Self], name: &'static str, out: &mut Encoder) {
        all.iter().for_each(|one| one.put(name, out));
    }
}

/// Reads how many elements follow.
fn count(input: &mut Decoder<'_>) -> Result<usize> {
    match input.u32()? {
        count if count > MAX_ELEMENTS => Err(LoadError::invalid(format!("{count} elements are too many"))),
        count => Ok(count as usize),
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, name: &'static str, out: &mut Encoder) {
        // A device has far fewer; a longer list would not load.
        let len = u32::try_from(self.len()).unwrap_or(u32::MAX);
        out.scalar(name, "uint32", None, |bytes| bytes.extend_from_slice(&len.to_be_bytes()));
        T::put_all(self, name, out);
    }

    fn get(input: &mut Decoder<'_>) -> Result<Self> {
        let count = count(input)?;
        T::get_all(input, count)
    }

    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }

    fn put_all(all: &[Self], name: &'static str, out: &mut Encoder) {
        all.iter().for_each(|one| one.put(name, out));
    }
}

impl<T: Field> Field for Box<T> {
    fn put(&self, name: &'static str, out: &mut Encoder) {
        T::put(self, name, out);
    }

    fn get(input: &mut Decoder<'_>) -> Result<Self> {
        T::get(input).map(Self::new)
    }

    fn shape() -> Shape {
        T::shape()
    }

    fn put_all(all: &[Self], name: &'static str, out: &mut Encoder) {
        all.iter().for_each(|one| one.put(name, out));
    }
}

/// A value that may be absent: a `bool`, then the value if there is one.
impl<T: Field> Field for Option<T> {
    fn put(&self, name: &'static str, out: &mut Encoder) {
        self.is_some().put(name, out);
        if let Some(value) = self {
            value.put(name, out);
        }
    }

    fn get(input: &mut Decoder<'_>) -> Result<Self> {
        if bool::get(input)? { T::get(input).map(Some) } else { Ok(None) }
    }

    fn shape() -> Shape {
        Shape::Optional(Box::new(T::shape()))
    }

    fn put_all(all: &[Self], name: &'static str, out: &mut Encoder) {
        all.iter().for_each(|one| one.put(name, out));
    }
}

/// Text: its length, then UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(pub String);

impl Field for Text {
    fn put(&self, name: &'static str, out: &mut Encoder) {
        self.0.as_bytes().to_vec().put(name, out);
    }

    fn get(input: &mut Decoder<'_>) -> Result<Self> {
        let text = String::from_utf8(Vec::get(input)?);
        text.map(Self).map_err(|_| LoadError::invalid("a text that is none"))
    }

    fn shape() -> Shape {
        <Vec<u8>>::shape()
    }

    fn put_all(all: &[Self], name: &'static str, out: &mut Encoder) {
        all.iter().for_each(|one| one.put(name, out));
    }
}

/// A bitmap in words of 64, bit 0 first, without the words' number: both ends know how long it is, and say so with
/// [`Bits::get_words`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits(pub Vec<u64>);

impl Bits {
    /// Writes it.
    pub fn put(&self, name: &'static str, out: &mut Encoder) {
        if !self.0.is_empty() {
            out.scalar(name, "bitmap", None, |bytes| {
                self.0.iter().for_each(|word| bytes.extend_from_slice(&word.to_be_bytes()));
            });
        }
    }

    /// Reads `words` of it; those that have not arrived take no memory.
    ///
    /// # Errors
    /// The stream ended.
    pub fn get_words(input: &mut Decoder<'_>, words: usize) -> Result<Self> {
        u64::get_all(input, words).map(Self)
    }
}

/// Names of capabilities, in the form in which programs that take streams apart know them: their number under `caps_count`, then each
/// behind its length in a byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapabilityNames(pub Vec<String>);

impl Field for CapabilityNames {
    fn put(&self, name: &'static str, out: &mut Encoder) {
        (self.0.len() as u32).put("caps_count", out);
        for text in &self.0 {
            let len = text.len().min(u8::MAX.into());
            out.scalar(name, "capability", None, |bytes| {
                bytes.push(len as u8);
                bytes.extend_from_slice(&text.as_bytes()[..len]);
            });
        }
    }

    fn get(input: &mut Decoder<'_>) -> Result<Self> {
        let mut names = Vec::new();
        for _ in 0..count(input)? {
            let [len] = input.array()?;
            let text = String::from_utf8(u8::get_all(input, len.into())?);
            names.push(text.map_err(|_| LoadError::invalid("a capability that is none"))?);
        }
        Ok(Self(names))
    }

    fn shape() -> Shape {
        Shape::List(Box::new(Shape::List(Box::new(u8::shape()))))
    }

    fn put_all(all: &[Self], name: &'static str, out: &mut Encoder) {
        all.iter().for_each(|one| one.put(name, out));
    }
}
