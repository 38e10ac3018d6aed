//! Pieces of AML (ACPI 6.5 §20.2) that own their bytes, so that they can be made in one place and used in another; what
//! encodes them is the crate `acpi_tables`. What the crate has no type for is encoded here.

use acpi_tables::aml::{self, Path};
use acpi_tables::{Aml, AmlSink};

const LNOT: u8 = 0x92;
const INDEX: u8 = 0x88;
const DWORD: u8 = 0x0c;
const IRQ_DESCRIPTOR: u8 = 0x22;
const EXTENDED_INTERRUPT: u8 = 0x89;

/// Encoded AML.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Code(pub(super) Vec<u8>);

impl Aml for Code {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn encode(piece: &dyn Aml) -> Code {
    let mut bytes = Vec::new();
    piece.to_aml_bytes(&mut bytes);
    Code(bytes)
}

fn refs(list: &[Code]) -> Vec<&dyn Aml> {
    list.iter().map(|code| code as &dyn Aml).collect()
}

/// Pieces one after the other.
pub(super) fn all(list: impl IntoIterator<Item = Code>) -> Code {
    Code(list.into_iter().flat_map(|code| code.0).collect())
}

pub(super) fn device(name: &str, body: &[Code]) -> Code {
    encode(&aml::Device::new(Path::new(name), refs(body)))
}

pub(super) fn scope(name: &str, body: &[Code]) -> Code {
    encode(&aml::Scope::new(Path::new(name), refs(body)))
}

/// A method that runs in one thread at a time, since it makes named objects or waits.
pub(super) fn method(name: &str, args: u8, body: &[Code]) -> Code {
    encode(&aml::Method::new(Path::new(name), args, true, refs(body)))
}

/// A method that may run in several threads at once.
pub(super) fn reentrant(name: &str, args: u8, body: &[Code]) -> Code {
    encode(&aml::Method::new(Path::new(name), args, false, refs(body)))
}

pub(super) fn named(name: &str, value: &Code) -> Code {
    encode(&aml::Name::new(Path::new(name), value))
}

/// The object of that name.
pub(super) fn path(name: &str) -> Code {
    encode(&Path::new(name))
}

pub(super) fn int(value: impl Into<u64>) -> Code {
    encode(&value.into())
}

/// A number that takes four bytes whatever it is, so that another can be put in its place.
pub(super) fn dword(value: u32) -> Code {
    all([Code(vec![DWORD]), Code(value.to_le_bytes().to_vec())])
}

pub(super) fn text(value: &str) -> Code {
    encode(&value.to_owned())
}

/// The encoded form of an id of three letters and four digits.
pub(super) fn eisa(id: &str) -> Code {
    encode(&aml::EISAName::new(id))
}

pub(super) fn uuid(text: &str) -> Code {
    encode(&aml::Uuid::new(text))
}

pub(super) fn arg(number: u8) -> Code {
    encode(&aml::Arg(number))
}

pub(super) fn local(number: u8) -> Code {
    encode(&aml::Local(number))
}

/// Bytes.
pub(super) fn buffer(bytes: &[u8]) -> Code {
    encode(&aml::BufferData::new(bytes.to_vec()))
}

/// A package of at most 255 elements.
pub(super) fn package(elements: &[Code]) -> Code {
    encode(&aml::Package::new(refs(elements)))
}

/// An element of a package, to read or to write.
pub(super) fn element(package: &Code, index: &Code) -> Code {
    // It is stored nowhere.
    all([Code(vec![INDEX]), package.clone(), index.clone(), int(0u8)])
}

pub(super) fn store(value: &Code, target: &Code) -> Code {
    encode(&aml::Store::new(target, value))
}

pub(super) fn call(name: &str, args: &[Code]) -> Code {
    encode(&aml::MethodCall::new(Path::new(name), refs(args)))
}

pub(super) fn ret(value: &Code) -> Code {
    encode(&aml::Return::new(value))
}

pub(super) fn when(condition: &Code, body: &[Code]) -> Code {
    encode(&aml::If::new(condition, refs(body)))
}

pub(super) fn otherwise(body: &[Code]) -> Code {
    encode(&aml::Else::new(refs(body)))
}

pub(super) fn while_true(condition: &Code, body: &[Code]) -> Code {
    encode(&aml::While::new(condition, refs(body)))
}

pub(super) fn equal(a: &Code, b: &Code) -> Code {
    encode(&aml::Equal::new(a, b))
}

pub(super) fn less(a: &Code, b: &Code) -> Code {
    encode(&aml::LessThan::new(a, b))
}

pub(super) fn not(a: &Code) -> Code {
    all([Code(vec![LNOT]), a.clone()])
}

/// `a & b` as a value.
pub(super) fn and(a: &Code, b: &Code) -> Code {
    and_to(a, b, &int(0u8))
}

/// `target = a & b`.
pub(super) fn and_to(a: &Code, b: &Code, target: &Code) -> Code {
    encode(&aml::And::new(target, a, b))
}

/// `target = a | b`.
pub(super) fn or_to(a: &Code, b: &Code, target: &Code) -> Code {
    encode(&aml::Or::new(target, a, b))
}

/// `target = a + b`.
pub(super) fn add_to(a: &Code, b: &Code, target: &Code) -> Code {
    encode(&aml::Add::new(target, a, b))
}

/// `target = a - b`.
pub(super) fn subtract_to(a: &Code, b: &Code, target: &Code) -> Code {
    encode(&aml::Subtract::new(target, a, b))
}

/// `target = a << b`.
pub(super) fn shift_to(a: &Code, b: &Code, target: &Code) -> Code {
    encode(&aml::ShiftLeft::new(target, a, b))
}

pub(super) fn notify(object: &Code, value: &Code) -> Code {
    encode(&aml::Notify::new(object, value))
}

pub(super) fn mutex(name: &str) -> Code {
    encode(&aml::Mutex::new(Path::new(name), 0))
}

/// `body` with the mutex held. It must not return.
pub(super) fn locked(name: &str, body: &[Code]) -> Code {
    // Waits for ever.
    let acquire = encode(&aml::Acquire::new(Path::new(name), 0xffff));
    let release = encode(&aml::Release::new(Path::new(name)));
    all([acquire, all(body.iter().cloned()), release])
}

/// A field of 32 bits of a buffer, at a byte offset.
pub(super) fn dword_field(buffer: &Code, offset: u8, name: &str) -> Code {
    encode(&aml::CreateDWordField::new(&Path::new(name), buffer, &offset))
}

/// A field of 64 bits of a buffer, at a byte offset.
pub(super) fn qword_field(buffer: &Code, offset: u8, name: &str) -> Code {
    encode(&aml::CreateQWordField::new(&Path::new(name), buffer, &offset))
}

/// What an operation region is part of.
pub(super) use acpi_tables::aml::OpRegionSpace as Space;

pub(super) fn region(name: &str, space: Space, base: u64, length: u64) -> Code {
    encode(&aml::OpRegion::new(Path::new(name), space, &base, &length))
}

/// Parts of a region: (name, bits), the name empty for what is left out. `bits` is how wide accesses are.
pub(super) fn field(region: &str, access: Access, parts: &[(&str, usize)]) -> Code {
    let entry = |(name, bits): &(&str, usize)| match <[u8; 4]>::try_from(name.as_bytes()) {
        Ok(name) => aml::FieldEntry::Named(name, *bits),
        Err(_) => aml::FieldEntry::Reserved(*bits),
    };
    let (width, update) = match access {
        Access::Byte => (aml::FieldAccessType::Byte, aml::FieldUpdateRule::Preserve),
        Access::Flags => (aml::FieldAccessType::Byte, aml::FieldUpdateRule::WriteAsZeroes),
        Access::Word32 => (aml::FieldAccessType::DWord, aml::FieldUpdateRule::WriteAsZeroes),
    };
    let entries = parts.iter().map(entry).collect();
    encode(&aml::Field::new(Path::new(region), width, aml::FieldLockRule::NoLock, update, entries))
}

/// How the parts of a field are accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Bytes.
    Byte,
    /// Bytes whose other bits are written as 0.
    Flags,
    /// Words of 32 bits, each whole.
    Word32,
}

pub(super) fn resources(list: &[Code]) -> Code {
    encode(&aml::ResourceTemplate::new(refs(list)))
}

/// `length` ports from `base`, decoded at 16 bits.
pub(super) fn ports(base: u16, length: u8) -> Code {
    encode(&aml::IO::new(base, base, 1, length))
}

/// An ISA interrupt (below 16): edge, active high.
pub(super) fn isa_interrupt(irq: u8) -> Code {
    let [low, high] = (1u16 << (irq & 15)).to_le_bytes();
    Code(vec![IRQ_DESCRIPTOR, low, high])
}

/// Interrupts a link device can be set to, or one: level, active high, shared.
pub(super) fn link_interrupts(numbers: &[u32]) -> Code {
    const CONSUMER: u8 = 1 << 0;
    const SHARED: u8 = 1 << 3;
    let length = 2 + 4 * numbers.len() as u16;
    let mut bytes = vec![EXTENDED_INTERRUPT];
    bytes.extend(length.to_le_bytes());
    bytes.extend([CONSUMER | SHARED, numbers.len() as u8]);
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    Code(bytes)
}

/// An interrupt of one device: edge, active high, not shared.
pub(super) fn edge_interrupt(number: u32) -> Code {
    encode(&aml::Interrupt::new(true, true, false, false, number))
}

/// An interrupt of its own, level, active high.
pub(super) fn level_interrupt(number: u32) -> Code {
    encode(&aml::Interrupt::new(true, false, false, false, number))
}

/// Memory that a device is at.
pub(super) fn fixed_memory(base: u32, length: u32) -> Code {
    encode(&aml::Memory32Fixed::new(true, base, length))
}

/// Bus numbers that a bridge hands on.
pub(super) fn bus_numbers(first: u16, last: u16) -> Code {
    encode(&aml::AddressSpace::new_bus_number(first, last))
}

/// Ports that a bridge hands on.
pub(super) fn port_window(first: u16, last: u16) -> Code {
    encode(&aml::AddressSpace::new_io(first, last, None))
}

/// Memory below 4 GiB that a bridge hands on.
pub(super) fn window32(first: u32, last: u32) -> Code {
    use aml::AddressSpaceCacheable::NotCacheable;
    encode(&aml::AddressSpace::new_memory(NotCacheable, true, first, last, None))
}

/// Memory anywhere that a bridge hands on, or that a memory device has.
pub(super) fn window64(first: u64, last: u64) -> Code {
    use aml::AddressSpaceCacheable::Cacheable;
    encode(&aml::AddressSpace::new_memory(Cacheable, true, first, last, None))
}
