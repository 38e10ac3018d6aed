//! Classes and the one registry of them. `-device`, `device_add`, `-object`, `qom-list-types`, help texts and
//! the defaults of versioned machine types all read it.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use qapi::{Error, Result};

use crate::{Object, ObjectRef, Property};

type Instance = Box<dyn Fn(&Arc<Class>) -> ObjectRef + Send + Sync>;
type Cast = Box<dyn Fn(ObjectRef) -> Option<Box<dyn Any>> + Send + Sync>;

/// A class under construction; see the crate's example.
pub struct TypeInfo {
    name: &'static str,
    parent: Option<&'static str>,
    description: Option<&'static str>,
    instance: Option<Instance>,
    interfaces: Vec<&'static str>,
    properties: Vec<Property>,
    casts: HashMap<TypeId, Cast>,
    extensions: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl TypeInfo {
    /// A class named `name`, child of `object`, abstract until [`TypeInfo::instance`] is called.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            parent: None,
            description: None,
            instance: None,
            interfaces: Vec::new(),
            properties: Vec::new(),
            casts: HashMap::new(),
            extensions: HashMap::new(),
        }
    }

    /// The parent class; it must be registered before.
    #[must_use]
    pub fn parent(mut self, name: &'static str) -> Self {
        self.parent = Some(name);
        self
    }

    /// The sentence that `-device help` shows.
    #[must_use]
    pub fn description(mut self, text: &'static str) -> Self {
        self.description = Some(text);
        self
    }

    /// Makes the class concrete. The closure may capture what its objects need.
    #[must_use]
    pub fn instance<T: Object>(
        mut self,
        make: impl Fn(&Arc<Class>) -> Arc<T> + Send + Sync + 'static,
    ) -> Self {
        self.instance = Some(Box::new(move |class| make(class)));
        self
    }

    /// Names an interface for `qom-list-types implements=…` (as `user-creatable`).
    #[must_use]
    pub fn interface(mut self, name: &'static str) -> Self {
        self.interfaces.push(name);
        self
    }

    /// Adds a property.
    #[must_use]
    pub fn property(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    /// Adds properties.
    #[must_use]
    pub fn properties(mut self, properties: impl IntoIterator<Item = Property>) -> Self {
        self.properties.extend(properties);
        self
    }

    /// Lets [`cast`](crate::cast) turn objects of struct `T` into `Arc<I>`, `I` being a trait object.
    #[must_use]
    pub fn cast<T: Object, I: ?Sized + 'static>(mut self, up: fn(Arc<T>) -> Arc<I>) -> Self {
        let cast = move |object: ObjectRef| {
            let any: Arc<dyn Any + Send + Sync> = object;
            any.downcast::<T>().ok().map(|t| Box::new(up(t)) as Box<dyn Any>)
        };
        self.casts.insert(TypeId::of::<I>(), Box::new(cast));
        self
    }

    /// Attaches a value that a higher floor looks up with [`Class::extension`] (as the device class of `hw`).
    #[must_use]
    pub fn extension<E: Any + Send + Sync>(mut self, value: E) -> Self {
        self.extensions.insert(TypeId::of::<E>(), Box::new(value));
        self
    }
}

/// A registered class.
pub struct Class {
    info: TypeInfo,
    parent: Option<Arc<Class>>,
    /// Numbers of own properties by name, once somebody looked for one among many.
    by_name: OnceLock<HashMap<&'static str, usize>>,
}

/// So many properties are looked through faster than looked up.
const FEW: usize = 32;

impl Class {
    /// The type name.
    pub fn name(&self) -> &'static str {
        self.info.name
    }
    /// The parent class.
    pub fn parent(&self) -> Option<&Arc<Class>> {
        self.parent.as_ref()
    }
    /// The help sentence, own or inherited.
    pub fn description(&self) -> Option<&'static str> {
        self.info.description
    }
    /// Whether there can be no objects of just this class.
    pub fn is_abstract(&self) -> bool {
        self.info.instance.is_none()
    }
    /// The class and its ancestors, nearest first.
    pub fn lineage(&self) -> impl Iterator<Item = &Class> {
        std::iter::successors(Some(self), |c| c.parent.as_deref())
    }
    /// Whether it is, descends from, or implements `name`.
    pub fn is_a(&self, name: &str) -> bool {
        name == "object" || self.lineage().any(|c| c.info.name == name || c.info.interfaces.contains(&name))
    }
    /// A property by name, own or inherited.
    pub fn property(&self, name: &str) -> Option<&Property> {
        self.lineage().find_map(|c| c.own_property(name))
    }
    fn own_property(&self, name: &str) -> Option<&Property> {
        let own = &self.info.properties;
        if own.len() <= FEW {
            return own.iter().find(|p| p.name() == name);
        }
        let by_name = self.by_name.get_or_init(|| {
            // The first of a name counts, as above.
            own.iter().enumerate().rev().map(|(at, property)| (property.name(), at)).collect()
        });
        by_name.get(name).map(|at| &own[*at])
    }
    /// Properties in order of declaration, own ones before inherited ones; overridden ones once.
    pub fn properties(&self) -> Vec<&Property> {
        let mut seen = HashSet::new();
        self.lineage().flat_map(|c| &c.info.properties).filter(|p| seen.insert(p.name())).collect()
    }
    /// Properties this class declares itself.
    pub fn own_properties(&self) -> &[Property] {
        &self.info.properties
    }
    /// The extension of type `E`, own or inherited.
    pub fn extension<E: Any + Send + Sync>(&self) -> Option<&E> {
        self.lineage().find_map(|c| c.info.extensions.get(&TypeId::of::<E>())?.downcast_ref())
    }
    pub(crate) fn cast<I: ?Sized + 'static>(&self, object: ObjectRef) -> Option<Arc<I>> {
        let id = TypeId::of::<I>();
        self.lineage().find_map(|c| {
            let made = c.info.casts.get(&id)?(Arc::clone(&object))?;
            made.downcast::<Arc<I>>().ok().map(|b| *b)
        })
    }
    /// A new object with every property at its initial value.
    pub fn create(self: &Arc<Self>) -> Result<ObjectRef> {
        match &self.info.instance {
            Some(make) => Ok(make(self)),
            None => Err(Error::generic(format!("class '{}' is abstract", self.info.name))),
        }
    }
}

/// All classes of one virtual machine.
#[derive(Default)]
pub struct Registry {
    classes: BTreeMap<&'static str, Arc<Class>>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a class.
    ///
    /// # Panics
    /// When the name is taken or the parent is missing: both are mistakes in the program, found by its first start.
    pub fn register(&mut self, info: TypeInfo) {
        let parent = info.parent.map(|p| {
            self.classes.get(p).cloned().unwrap_or_else(|| panic!("parent class {p} of {}", info.name))
        });
        let name = info.name;
        let old = self.classes.insert(name, Arc::new(Class { info, parent, by_name: OnceLock::new() }));
        assert!(old.is_none(), "class {name} registered twice");
    }

    /// A class by name.
    pub fn lookup(&self, name: &str) -> Option<&Arc<Class>> {
        self.classes.get(name)
    }

    /// A new object of class `name`.
    pub fn create(&self, name: &str) -> Result<ObjectRef> {
        self.lookup(name)
            .ok_or_else(|| Error::generic(format!("unknown type '{name}'")))
            .and_then(|class| class.create())
    }

    /// All classes by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Class>> {
        self.classes.values()
    }
}
