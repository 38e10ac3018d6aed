//! Sections of a stream: the state of one device, how it is had and how it is taken back.

use std::sync::Arc;

use crate::decoder::Decoder;
use crate::encoder::Encoder;
use crate::error::Result;
use crate::shape::StateShape;
use crate::{LoadError, VmState};

/// When a section comes, among those of all devices. Of equals, in the order in which the devices are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Before memory is sent: what decides where memory may go.
    Early,
    /// Clocks, processors and interrupt controllers, which lines of devices lead to.
    Processor,
    /// What decides where other devices are: bridges.
    Bus,
    /// All else.
    Device,
}

/// What a device says of itself when the machine is moved.
pub enum Saved {
    /// It has no state, or all it has is its parent's.
    Nothing,
    /// Its state.
    Sections(Vec<Section>),
    /// It cannot be moved; a sentence says why.
    Blocked(String),
}

impl Saved {
    /// One section.
    pub fn one(section: Section) -> Self {
        Self::Sections(vec![section])
    }
}

impl std::fmt::Debug for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("Nothing"),
            Self::Sections(all) => f.debug_tuple("Sections").field(all).finish(),
            Self::Blocked(why) => f.debug_tuple("Blocked").field(why).finish(),
        }
    }
}

/// Takes over state that was read. Called on the main loop's thread.
pub type Apply = Box<dyn FnOnce() -> Result<()> + Send>;
type Read = Box<dyn Fn(&mut Decoder<'_>, u32) -> Result<Apply> + Send + Sync>;
type Save = Box<dyn Fn(&mut Encoder) + Send + Sync>;

/// The state of one device, of which there may be several.
///
/// State is saved and taken over while no guest code runs and no device is at work, on the main loop's thread; taken over by a machine
/// that was just built and reset. It is read from the stream on another thread, since a stream may stall.
pub struct Section {
    name: &'static str,
    version: u32,
    priority: Priority,
    shape: fn() -> StateShape,
    save: Save,
    read: Read,
}

impl std::fmt::Debug for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Section").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Section {
    /// State `S`: `save` tells it, `load` takes it over, or says what it cannot be here.
    pub fn new<S: VmState + Send + 'static>(
        save: impl Fn() -> S + Send + Sync + 'static,
        load: impl Fn(S) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let load = Arc::new(load);
        Self::begun(save, move |state| {
            let load = Arc::clone(&load);
            Ok(Box::new(move || load(state)))
        })
    }

    /// State `S` of which something begins before it is taken over: as soon as it was read, on the thread that reads, `begin` gets it and
    /// gives what takes it over.
    pub fn begun<S: VmState + Send + 'static>(
        save: impl Fn() -> S + Send + Sync + 'static,
        begin: impl Fn(S) -> Result<Apply> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: S::NAME,
            version: S::VERSION,
            priority: Priority::Device,
            shape: S::declared,
            save: Box::new(move |out| save().put_fields(out)),
            read: Box::new(move |input, version| begin(S::get_versioned(input, version)?)),
        }
    }

    /// State whose length depends on the device, so that no declaration has all of it: `save` and `read` go field by field. `read`
    /// looks at nothing of the device that may change, and gives what takes the state over.
    pub fn custom(
        shape: fn() -> StateShape,
        save: impl Fn(&mut Encoder) + Send + Sync + 'static,
        read: impl Fn(&mut Decoder<'_>, u32) -> Result<Apply> + Send + Sync + 'static,
    ) -> Self {
        let StateShape { name, version, .. } = shape();
        Self { name, version, priority: Priority::Device, shape, save: Box::new(save), read: Box::new(read) }
    }

    /// The same at another time.
    #[must_use]
    pub fn at(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The state's name, which in a stream stands behind the device's path.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The version that is saved.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// When it comes.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// What is declared.
    pub fn shape(&self) -> StateShape {
        (self.shape)()
    }

    /// Writes the state of now.
    pub fn save(&self, out: &mut Encoder) {
        (self.save)(out);
    }

    /// Reads what another one of its kind saved as `version`.
    ///
    /// # Errors
    /// It ended, or is none.
    pub fn read(&self, input: &mut Decoder<'_>, version: u32) -> Result<Apply> {
        (self.read)(input, version)
    }

    /// Reads it and takes it over at once.
    ///
    /// # Errors
    /// It ended, is none, or cannot be here.
    pub fn load(&self, input: &mut Decoder<'_>, version: u32) -> Result<()> {
        self.read(input, version)?()
    }
}

/// Writes a struct that is a field.
pub fn put_struct<S: VmState>(state: &S, name: &'static str, index: Option<usize>, out: &mut Encoder) {
    out.structure(name, (S::NAME, S::VERSION), index, |out| state.put_fields(out));
}

/// Whether `version` of `S` can be loaded.
///
/// # Errors
/// It cannot.
pub fn check_version<S: VmState>(version: u32) -> Result<()> {
    if version > S::VERSION {
        let (name, own) = (S::NAME, S::VERSION);
        return Err(LoadError::invalid(format!(
            "{name}: incoming version_id {version} is too new for local version_id {own}"
        )));
    }
    if version < S::OLDEST {
        let (name, oldest) = (S::NAME, S::OLDEST);
        return Err(LoadError::invalid(format!(
            "{name}: incoming version_id {version} is too old for local minimum version_id {oldest}"
        )));
    }
    Ok(())
}
