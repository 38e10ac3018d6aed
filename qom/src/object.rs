//! Objects: what every one of them carries, and how properties of one are read and set.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use qapi::{Error, Result, Value};

use crate::{Class, Input, Property};

/// A shared object.
pub type ObjectRef = Arc<dyn Object>;

/// What makes a struct an object. [`object!`](crate::object) writes the usual implementation.
pub trait Object: Any + Send + Sync {
    /// The part every object has.
    fn core(&self) -> &ObjectCore;

    /// Asked before a property is set; a realized device refuses properties that are not live.
    fn may_set(&self, _property: &Property) -> Result<()> {
        Ok(())
    }
}

/// Implements [`Object`] for a struct whose field holds the [`ObjectCore`].
#[macro_export]
macro_rules! object {
    ($type:ty, $($field:tt).+) => {
        impl $crate::Object for $type {
            fn core(&self) -> &$crate::ObjectCore {
                &self.$($field).+
            }
        }
    };
}

/// Class of an object and its place in the tree.
pub struct ObjectCore {
    class: Arc<Class>,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    parent: Option<Weak<dyn Object>>,
    name: String,
    children: BTreeMap<String, ObjectRef>,
    dynamic: Vec<Arc<Property>>,
}

impl ObjectCore {
    /// The core of a new object of `class`.
    pub fn new(class: &Arc<Class>) -> Self {
        Self { class: Arc::clone(class), place: Mutex::default() }
    }

    /// The class.
    pub fn class(&self) -> &Arc<Class> {
        &self.class
    }

    /// The last component of the path; empty while the object has no parent.
    pub fn name(&self) -> String {
        self.place().name.clone()
    }

    /// The parent, while there is one.
    pub fn parent(&self) -> Option<ObjectRef> {
        self.place().parent.as_ref().and_then(Weak::upgrade)
    }

    /// Children by name.
    pub fn children(&self) -> Vec<(String, ObjectRef)> {
        self.place().children.iter().map(|(k, v)| (k.clone(), Arc::clone(v))).collect()
    }

    /// One child.
    pub fn child(&self, name: &str) -> Option<ObjectRef> {
        self.place().children.get(name).cloned()
    }

    /// Gives this one object a property its class does not have.
    pub fn add_property(&self, property: Property) {
        self.place().dynamic.push(Arc::new(property));
    }

    /// Properties of this one object.
    pub fn dynamic_properties(&self) -> Vec<Arc<Property>> {
        self.place().dynamic.clone()
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        // The place is only ever changed by whole assignments, so a panic elsewhere cannot leave it torn.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `object` as a trait its class registered with [`TypeInfo::cast`](crate::TypeInfo::cast).
pub fn cast<I: ?Sized + 'static>(object: &ObjectRef) -> Option<Arc<I>> {
    object.core().class().cast(Arc::clone(object))
}

impl dyn Object {
    /// The object as the struct it is.
    pub fn downcast<T: Object>(self: &Arc<Self>) -> Option<Arc<T>> {
        let any: Arc<dyn Any + Send + Sync> = Arc::<Self>::clone(self);
        any.downcast().ok()
    }

    /// Absolute path, `/machine/peripheral/vm0`; empty for an object outside a tree.
    pub fn path(self: &Arc<Self>) -> String {
        let mut parts = Vec::new();
        let mut at = Arc::<Self>::clone(self);
        while let Some(parent) = at.core().parent() {
            parts.push(at.core().name());
            at = parent;
        }
        if parts.is_empty() && !at.core().class().is_a("container") {
            return String::new();
        }
        parts.reverse();
        format!("/{}", parts.join("/"))
    }

    /// Makes `child` a child named `name`. A name ending in `[*]` takes the first free number.
    ///
    /// # Errors
    /// `attempt to add duplicate property …` when the name is taken.
    pub fn add_child(self: &Arc<Self>, name: &str, child: ObjectRef) -> Result<String> {
        let mut place = self.core().place();
        let name = match name.strip_suffix("[*]") {
            Some(stem) => (0u32..)
                .map(|i| format!("{stem}[{i}]"))
                .find(|n| !place.children.contains_key(n))
                .unwrap_or_else(|| name.to_owned()),
            None => name.to_owned(),
        };
        if place.children.contains_key(&name) {
            let class = self.core().class().name();
            return Err(Error::generic(format!(
                "attempt to add duplicate property '{name}' to object (type '{class}')"
            )));
        }
        {
            let mut own = child.core().place();
            own.parent = Some(Arc::downgrade(self));
            own.name.clone_from(&name);
        }
        place.children.insert(name.clone(), child);
        Ok(name)
    }

    /// Takes the child `name` out of the tree.
    pub fn remove_child(self: &Arc<Self>, name: &str) -> Option<ObjectRef> {
        let child = self.core().place().children.remove(name)?;
        child.core().place().parent = None;
        Some(child)
    }

    /// Value of a property. A child reads as its path.
    ///
    /// # Errors
    /// `Property 'type.name' not found`, or what the getter says.
    pub fn get(self: &Arc<Self>, name: &str) -> Result<Value> {
        if name == "type" {
            return Ok(self.core().class().name().into());
        }
        if let Some(p) = self.core().class().property(name) {
            return p.read(self);
        }
        if let Some(child) = self.core().child(name) {
            return Ok(child.path().into());
        }
        match self.dynamic(name) {
            Some(p) => p.read(self),
            None => Err(self.no_property(name)),
        }
    }

    /// Sets a property.
    ///
    /// # Errors
    /// `Property 'type.name' not found`, `… is not writable`, or what the setter says; nothing has changed then.
    pub fn set(self: &Arc<Self>, name: &str, value: Input<'_>) -> Result<()> {
        if let Some(p) = self.core().class().property(name) {
            return p.write(self, value);
        }
        if name == "type" || self.core().child(name).is_some() {
            let class = self.core().class().name();
            return Err(Error::generic(format!("Property '{class}.{name}' is not writable")));
        }
        match self.dynamic(name) {
            Some(p) => p.write(self, value),
            None => Err(self.no_property(name)),
        }
    }

    fn dynamic(&self, name: &str) -> Option<Arc<Property>> {
        self.core().place().dynamic.iter().find(|p| p.name() == name).cloned()
    }

    fn no_property(&self, name: &str) -> Error {
        Error::generic(format!("Property '{}.{name}' not found", self.core().class().name()))
    }
}
