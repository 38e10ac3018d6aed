//! Sections as bytes, before they are in the stream.

use vmstate::{Described, Encoder, VmState as _};

use crate::configuration::GlobalState;
use crate::machine::Placed;

/// A section as bytes.
pub(super) struct Saved {
    /// Path and name, instance, version.
    pub(super) head: (String, u32, u32),
    pub(super) bytes: Vec<u8>,
    pub(super) description: Described,
}

impl Saved {
    pub(super) fn of(placed: &Placed) -> Self {
        let mut state = Encoder::new();
        placed.section.save(&mut state);
        let version = placed.section.version();
        Self::new((&placed.id, placed.instance), (placed.section.name(), version), state)
    }

    fn new(id: (&str, u32), name: (&'static str, u32), state: Encoder) -> Self {
        let (bytes, layout) = state.finish();
        let description = Described::device(id, name, layout);
        Self { head: (id.0.to_owned(), id.1, name.1), bytes, description }
    }
}

impl GlobalState {
    pub(super) fn into_saved(self) -> Saved {
        let mut state = Encoder::new();
        self.put_fields(&mut state);
        Saved::new((Self::NAME, 0), (Self::NAME, Self::VERSION), state)
    }
}
