//! A property: name, type, default, getter, setter, description; declared once, beside the class.

use std::any::{Any, TypeId};

use qapi::{Error, Result, Value};

use crate::{Input, Object, ObjectRef};

type Getter = Box<dyn Fn(&ObjectRef) -> Result<Value> + Send + Sync>;
type Setter = Box<dyn Fn(&ObjectRef, Input<'_>) -> Result<()> + Send + Sync>;
type Target = Box<dyn Fn(&ObjectRef) -> Option<ObjectRef> + Send + Sync>;

/// A property of a class (or, for dynamic ones, of one object).
pub struct Property {
    name: &'static str,
    type_name: &'static str,
    description: Option<&'static str>,
    values: &'static [&'static str],
    default: Option<Value>,
    get: Option<Getter>,
    set: Option<Setter>,
    live: bool,
    link: bool,
    /// For an alias: the object whose property of the same name is meant.
    target: Option<(Target, TypeId)>,
}

impl Property {
    /// A property named `name` of QEMU type `type_name` (`size`, `bool`, `uint32`, `OnOffAuto`, `link<…>`).
    pub fn new(name: &'static str, type_name: &'static str) -> Self {
        Self {
            name,
            type_name,
            description: None,
            values: &[],
            default: None,
            get: None,
            set: None,
            live: false,
            link: type_name.starts_with("link<"),
            target: None,
        }
    }

    /// A property that is `name` of another object, found through `target` when used.
    ///
    /// Errors name the other object's class, as QEMU's aliases do.
    pub fn alias<T: Object>(
        of: &Property,
        target: impl Fn(&T) -> Option<ObjectRef> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: of.name,
            type_name: of.type_name,
            description: of.description,
            values: of.values,
            default: of.default.clone(),
            get: None,
            set: None,
            live: of.live,
            link: of.link,
            target: Some((Box::new(move |o| down(o).and_then(&target)), TypeId::of::<T>())),
        }
    }

    /// How the value is read.
    #[must_use]
    pub fn get<T: Object>(mut self, get: impl Fn(&T) -> Result<Value> + Send + Sync + 'static) -> Self {
        self.get = Some(Box::new(move |o| get(down(o).ok_or_else(|| foreign(o))?)));
        self
    }

    /// How the value is set; the third argument is the property's name for error texts.
    #[must_use]
    pub fn set<T: Object>(
        mut self,
        set: impl Fn(&T, Input<'_>, &str) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let name = self.name;
        self.set = Some(Box::new(move |o, v| set(down(o).ok_or_else(|| foreign(o))?, v, name)));
        self
    }

    /// As [`Property::get`] for a property of an abstract class: the closure casts by itself.
    #[must_use]
    pub fn get_any(mut self, get: impl Fn(&ObjectRef) -> Result<Value> + Send + Sync + 'static) -> Self {
        self.get = Some(Box::new(get));
        self
    }

    /// As [`Property::set`] for a property of an abstract class: the closure casts by itself.
    #[must_use]
    pub fn set_any(
        mut self,
        set: impl Fn(&ObjectRef, Input<'_>, &str) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let name = self.name;
        self.set = Some(Box::new(move |o, v| set(o, v, name)));
        self
    }

    /// The sentence that `-device X,help` shows.
    #[must_use]
    pub fn description(mut self, text: &'static str) -> Self {
        self.description = Some(text);
        self
    }

    /// The names that a value is one of, for whoever helps a person to write one.
    #[must_use]
    pub fn values(mut self, names: &'static [&'static str]) -> Self {
        self.values = names;
        self
    }

    /// The default that help and introspection show.
    #[must_use]
    pub fn default(mut self, value: impl Into<Value>) -> Self {
        self.default = Some(value.into());
        self
    }

    /// May change after the device is realized.
    #[must_use]
    pub fn live(mut self) -> Self {
        self.live = true;
        self
    }

    /// The name.
    pub fn name(&self) -> &'static str {
        self.name
    }
    /// The QEMU type name.
    pub fn type_name(&self) -> &'static str {
        self.type_name
    }
    /// The help sentence.
    pub fn help(&self) -> Option<&'static str> {
        self.description
    }
    /// The names that a value is one of; none if it is no enumeration.
    pub fn value_names(&self) -> &'static [&'static str] {
        self.values
    }
    /// The default shown by introspection.
    pub fn default_value(&self) -> Option<&Value> {
        self.default.as_ref()
    }
    /// Whether it may change after realize.
    pub fn is_live(&self) -> bool {
        self.live
    }
    /// Whether it links another object.
    pub fn is_link(&self) -> bool {
        self.link
    }
    /// Whether there is a setter (of the alias: on the target's side).
    pub fn is_writable(&self) -> bool {
        self.set.is_some() || self.target.is_some()
    }
    /// Whether it is one of those that QEMU shows in the object tree only, for programs of long ago.
    pub fn is_legacy(&self) -> bool {
        self.name.starts_with("legacy-")
    }
    /// Whether it announces a child that every object of the class is born with.
    pub fn is_child(&self) -> bool {
        self.type_name.starts_with("child<")
    }
    /// Whether it is an alias.
    pub fn is_alias(&self) -> bool {
        self.target.is_some()
    }

    pub(crate) fn read(&self, object: &ObjectRef) -> Result<Value> {
        if let Some((target, _)) = &self.target {
            return target(object).ok_or_else(|| self.missing(object))?.get(self.name);
        }
        match &self.get {
            Some(get) => get(object),
            None => Err(Error::generic(format!(
                "Property '{}.{}' is not readable",
                object.core().class().name(),
                self.name
            ))),
        }
    }

    pub(crate) fn write(&self, object: &ObjectRef, value: Input<'_>) -> Result<()> {
        if let Some((target, _)) = &self.target {
            return target(object).ok_or_else(|| self.missing(object))?.set(self.name, value);
        }
        let Some(set) = &self.set else {
            return Err(Error::generic(format!(
                "Property '{}.{}' is not writable",
                object.core().class().name(),
                self.name
            )));
        };
        object.may_set(self)?;
        set(object, value)
    }

    fn missing(&self, object: &ObjectRef) -> Error {
        Error::generic(format!("Property '{}.{}' not found", object.core().class().name(), self.name))
    }
}

fn down<T: Object>(object: &ObjectRef) -> Option<&T> {
    (object.as_ref() as &dyn Any).downcast_ref::<T>()
}

/// A class registered with closures of another struct than its instances: a programming error that tests of
/// the registry find, reported instead of a panic.
fn foreign(object: &ObjectRef) -> Error {
    Error::generic(format!("class '{}' has a property of a foreign type", object.core().class().name()))
}
