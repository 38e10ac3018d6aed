//! The QAPI schema: what commands, events and types there are.
//!
//! Parsed from `schema/*.json` by the build script, which generates the Rust types from it, and by the tool that writes
//! the reference. Nothing of this is in the running program. Leaves out of the QAPI language: `if` conditions,
//! pragmas, includes (the files' order is fixed in [`MODULES`]).
//!
//! ```
//! let schema = qapi::schema::Schema::load()?;
//! let stop = schema.commands.iter().find(|c| c.name == "stop").expect("stop exists");
//! assert_eq!(stop.args, qapi::schema::Args::None);
//! assert_eq!(schema.modules[stop.module], "run-state");
//! # Ok::<(), String>(())
//! ```

pub mod doc;
pub mod introspect;
pub mod load;
pub mod syntax;

#[cfg(test)]
mod tests;

use doc::Doc;

/// The schema's modules in order: name, and text of the file.
pub const MODULES: &[(&str, &str)] = &[
    ("common", include_str!("../../schema/common.json")),
    ("session", include_str!("../../schema/session.json")),
    ("fds", include_str!("../../schema/fds.json")),
    ("run-state", include_str!("../../schema/run-state.json")),
    ("machine", include_str!("../../schema/machine.json")),
    ("machine-target", include_str!("../../schema/machine-target.json")),
    ("qom", include_str!("../../schema/qom.json")),
    ("qdev", include_str!("../../schema/qdev.json")),
    ("sockets", include_str!("../../schema/sockets.json")),
    ("chardev", include_str!("../../schema/chardev.json")),
    ("yank", include_str!("../../schema/yank.json")),
    ("net", include_str!("../../schema/net.json")),
    ("pci", include_str!("../../schema/pci.json")),
    ("virtio", include_str!("../../schema/virtio.json")),
    ("block", include_str!("../../schema/block.json")),
    ("tpm", include_str!("../../schema/tpm.json")),
    ("input", include_str!("../../schema/input.json")),
    ("migration", include_str!("../../schema/migration.json")),
    ("dump", include_str!("../../schema/dump.json")),
    ("command-line", include_str!("../../schema/command-line.json")),
    ("stats", include_str!("../../schema/stats.json")),
    ("inspect", include_str!("../../schema/inspect.json")),
    ("trace", include_str!("../../schema/trace.json")),
];

/// A type by name, or an array of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TypeRef {
    /// Name of the (element) type.
    pub name: String,
    /// Whether it is an array.
    pub array: bool,
}

/// A member of an object or an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name on the wire.
    pub name: String,
    /// Whether it may be absent.
    pub optional: bool,
    /// Its type.
    pub ty: TypeRef,
    /// Its features.
    pub features: Vec<String>,
}

/// A value of an enumeration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnumValue {
    /// Name on the wire.
    pub name: String,
    /// Its features.
    pub features: Vec<String>,
}

/// A defined type.
#[derive(Debug, Clone, PartialEq)]
pub struct Type {
    /// Its name.
    pub name: String,
    /// Index of its module.
    pub module: usize,
    /// Its documentation.
    pub doc: Doc,
    /// Its features.
    pub features: Vec<String>,
    /// What it is.
    pub kind: Kind,
}

/// What a type is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// One of some names.
    Enum(Vec<EnumValue>),
    /// An object; `base`'s members come first.
    Struct {
        /// Object whose members it has too.
        base: Option<String>,
        /// Its own members.
        members: Vec<Member>,
    },
    /// An object some of whose members depend on the value of one.
    Union {
        /// Members of every value, the tag among them.
        members: Vec<Member>,
        /// Name of the member that decides, an enumeration.
        tag: String,
        /// Object type with the further members, for the tag values that have any.
        branches: Vec<(String, String)>,
    },
    /// One of several types that are told apart by their JSON type.
    Alternate(Vec<(String, TypeRef)>),
}

/// Arguments of a command, data of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Args {
    /// None.
    None,
    /// These.
    Inline(Vec<Member>),
    /// The members of an object type, as one value.
    Boxed(String),
}

/// How a command's arguments reach its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// Checked and typed.
    Typed,
    /// Checked, then passed as they came (`'gen': 'checked'`, this project's extension).
    Checked,
    /// Unchecked (`'gen': false`).
    Raw,
}

/// A command.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Its name.
    pub name: String,
    /// Index of its module.
    pub module: usize,
    /// Its documentation.
    pub doc: Doc,
    /// Its arguments.
    pub args: Args,
    /// What it returns.
    pub returns: Option<TypeRef>,
    /// How the handler gets the arguments.
    pub passing: Passing,
    /// Its features.
    pub features: Vec<String>,
    /// May run out of band.
    pub allow_oob: bool,
    /// May run before the machine exists.
    pub allow_preconfig: bool,
    /// Answers on success (all do but those that end the connection).
    pub success_response: bool,
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Index of its module.
    pub module: usize,
    /// Its documentation.
    pub doc: Doc,
    /// Its data.
    pub args: Args,
    /// Its features.
    pub features: Vec<String>,
}

/// A whole schema, checked: every reference resolves, everything is documented.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Schema {
    /// The modules' names.
    pub modules: Vec<String>,
    /// Types in order.
    pub types: Vec<Type>,
    /// Commands in order.
    pub commands: Vec<Command>,
    /// Events in order.
    pub events: Vec<Event>,
}

/// The builtin types: name, name in the introspection, JSON type.
pub const BUILTINS: &[(&str, &str, &str)] = &[
    ("str", "str", "string"),
    ("number", "number", "number"),
    ("int", "int", "int"),
    ("int8", "int", "int"),
    ("int16", "int", "int"),
    ("int32", "int", "int"),
    ("int64", "int", "int"),
    ("uint8", "int", "int"),
    ("uint16", "int", "int"),
    ("uint32", "int", "int"),
    ("uint64", "int", "int"),
    ("size", "int", "int"),
    ("bool", "bool", "boolean"),
    ("null", "null", "null"),
    ("any", "any", "value"),
];

impl Schema {
    /// The project's schema.
    ///
    /// # Errors
    /// `FILE:LINE: what is wrong`.
    pub fn load() -> Result<Self, String> {
        load::load(MODULES)
    }

    /// A defined type.
    pub fn find(&self, name: &str) -> Option<&Type> {
        self.types.iter().find(|t| t.name == name)
    }

    /// All members of an object type that do not depend on a tag; those of the base first.
    pub fn members<'a>(&'a self, name: &str) -> Vec<&'a Member> {
        match self.find(name).map(|t| &t.kind) {
            Some(Kind::Struct { base, members }) => {
                let mut all = base.as_deref().map(|b| self.members(b)).unwrap_or_default();
                all.extend(members);
                all
            }
            Some(Kind::Union { members, .. }) => members.iter().collect(),
            _ => Vec::new(),
        }
    }
}
