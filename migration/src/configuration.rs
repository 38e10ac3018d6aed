//! The section that comes first, and the one that tells what the machine was doing.

use std::fmt::Write as _;

use vmstate::{CapabilityNames, Described, Encoder, LoadError, Result, Text, VmState as _, vmstate};

use qapi::Enum as _;
use qapi::types::MigrationCapability as Capability;

use crate::capabilities;

vmstate! {
    /// Which machine it is.
    pub struct Configuration: "configuration", version 1 {
        /// Its type.
        name: Text,
    }
    subsections {
        /// What changes the form of the stream.
        capabilities: Capabilities,
        /// With the capability `validate-uuid`.
        uuid: Uuid,
    }
}

vmstate! {
    /// Capabilities that both sides must have, or neither.
    pub struct Capabilities: "configuration/capabilities", version 1 {
        /// Their names.
        capabilities: CapabilityNames,
    }
}

vmstate! {
    /// Which one of its kind.
    pub struct Uuid: "configuration/uuid", version 1 {
        /// Its bytes as they are written.
        uuid: [u8; 16],
    }
}

vmstate! {
    /// What it was doing.
    pub struct GlobalState: "globalstate", version 1 {
        /// The state as `query-status` names it.
        runstate: Text,
    }
}

/// What this module declares.
pub(crate) fn declared() -> Vec<vmstate::StateShape> {
    vec![Configuration::declared(), GlobalState::declared()]
}

impl Configuration {
    /// Of a machine type.
    pub fn of(name: String, uuid: [u8; 16], on: &capabilities::Capabilities) -> Self {
        let names = forming(on);
        let capabilities =
            (!names.is_empty()).then_some(Capabilities { capabilities: CapabilityNames(names) });
        let uuid = on.has(Capability::ValidateUuid).then_some(Uuid { uuid });
        Self { name: Text(name), capabilities, uuid }
    }

    /// As it is in the stream.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        self.put_fields(&mut out);
        out.into_bytes()
    }

    /// The description of a stream: of this and of its sections.
    pub fn describe(&self, devices: &[Described]) -> String {
        let mut out = Encoder::new();
        self.put_fields(&mut out);
        let own = Described::device((Self::NAME, 0), (Self::NAME, Self::VERSION), out.finish().1);
        let mut text = format!("{{\"configuration\":{own},\"page_size\":4096,\"devices\":[");
        for (at, device) in devices.iter().enumerate() {
            // A string takes all.
            let _ = write!(text, "{}{device}", if at > 0 { "," } else { "" });
        }
        text.push_str("]}");
        text
    }

    /// Whether what this says can be taken in by a machine of the type `name` with `uuid`, and capabilities that are on.
    ///
    /// # Errors
    /// It is another machine.
    pub fn check(&self, name: &str, uuid: [u8; 16], on: &capabilities::Capabilities) -> Result<()> {
        let Self { name: Text(theirs), capabilities, uuid: their_uuid } = self;
        if theirs != name {
            return Err(LoadError::invalid(format!(
                "Machine type received is '{theirs}' and local is '{name}'"
            )));
        }
        let theirs = capabilities.as_ref().map_or(&[][..], |c| &c.capabilities.0);
        let ours = forming(on);
        for (from, to, text) in [
            (theirs, &*ours, "is off, but received capability is on"),
            (&*ours, theirs, "is on, but received capability is off"),
        ] {
            if let Some(name) = from.iter().find(|name| !to.contains(name)) {
                return Err(LoadError::invalid(format!("Capability {name} {text}")));
            }
        }
        match their_uuid {
            Some(Uuid { uuid: theirs }) if *theirs != uuid => {
                let (theirs, ours) = (text(theirs), text(&uuid));
                Err(LoadError::invalid(format!("UUID received is {theirs} and local is {ours}")))
            }
            _ => Ok(()),
        }
    }
}

/// Names of the capabilities that are on and change the form of the stream.
fn forming(on: &capabilities::Capabilities) -> Vec<String> {
    let forming = [Capability::XIgnoreShared, Capability::MappedRam];
    forming.iter().filter(|c| on.has(**c)).map(|c| c.as_str().to_owned()).collect()
}

fn text(uuid: &[u8; 16]) -> String {
    let hex = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    [&uuid[..4], &uuid[4..6], &uuid[6..8], &uuid[8..10], &uuid[10..]].map(hex).join("-")
}
