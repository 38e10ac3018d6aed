//! The tree of one virtual machine and how paths name objects in it.

use std::sync::{Arc, RwLock};

use qapi::{Error, ErrorClass, Result};

use crate::{Input, ObjectCore, ObjectRef, Registry, TypeInfo, cast, object};

/// What a class implements to be made by `-object` and `object-add`.
pub trait UserCreatable: Send + Sync {
    /// Called once all properties are set; the object joins the tree only if it succeeds.
    fn complete(&self) -> Result<()>;
    /// Whether nobody uses it, so that `object-del` may take it away.
    fn can_be_deleted(&self) -> bool {
        true
    }
}

struct Container {
    core: ObjectCore,
}
object!(Container, core);

/// How a path resolved.
pub enum Resolve {
    /// To one object.
    Found(ObjectRef),
    /// A partial path that fits more than one.
    Ambiguous,
    /// To nothing.
    Missing,
}

impl Resolve {
    /// The object, or `Device 'path' not found` as `qom-get` and `qom-set` say in both bad cases.
    pub fn found(self, path: &str) -> Result<ObjectRef> {
        match self {
            Self::Found(object) => Ok(object),
            _ => Err(Error::device_not_found(path)),
        }
    }
}

/// The object tree: `/machine`, `/objects`, `/chardevs`, and the registry of classes.
pub struct Tree {
    registry: RwLock<Arc<Registry>>,
    root: ObjectRef,
}

impl Tree {
    /// Registers the classes this crate has itself.
    pub fn register(registry: &mut Registry) {
        registry.register(
            TypeInfo::new("container").instance(|class| Arc::new(Container { core: ObjectCore::new(class) })),
        );
    }

    /// A tree with the empty containers `/objects`, `/chardevs` and `/backend` (which QEMU has for consoles); a machine joins later as `/machine`.
    ///
    /// # Panics
    /// When [`Tree::register`] was not called on `registry`.
    pub fn new(registry: Registry) -> Self {
        let registry = Arc::new(registry);
        let root = registry.create("container").expect("Tree::register was called");
        let tree = Self { registry: RwLock::new(registry), root };
        tree.container("/objects");
        tree.container("/chardevs");
        tree.container("/backend");
        tree
    }

    /// The classes.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The root, `/`.
    pub fn root(&self) -> &ObjectRef {
        &self.root
    }

    /// The object at absolute `path`, made of containers where it does not exist yet.
    pub fn container(&self, path: &str) -> ObjectRef {
        let registry = self.registry();
        let mut at = Arc::clone(&self.root);
        for part in path.split('/').filter(|p| !p.is_empty()) {
            at = match at.core().child(part) {
                Some(child) => child,
                None => {
                    let new = registry.create("container").expect("Tree::register was called");
                    // A race for the same name leaves the winner in the tree; both are empty containers.
                    match at.add_child(part, Arc::clone(&new)) {
                        Ok(_) => new,
                        Err(_) => at.core().child(part).unwrap_or(new),
                    }
                }
            };
        }
        at
    }

    /// The object at absolute `path`, if there is one. Links are followed by their getter's path.
    pub fn absolute(&self, path: &str) -> Option<ObjectRef> {
        self.walk(Arc::clone(&self.root), path, 0)
    }

    fn walk(&self, mut at: ObjectRef, path: &str, depth: u32) -> Option<ObjectRef> {
        for part in path.split('/').filter(|p| !p.is_empty()) {
            at = match at.core().child(part) {
                Some(child) => child,
                None => {
                    // A link property: its value is a path. Bounded, because links may form a ring.
                    if depth > 8 || !at.core().class().property(part)?.is_link() {
                        return None;
                    }
                    let target = at.get(part).ok()?;
                    let target = target.as_str().filter(|t| t.starts_with('/'))?.to_owned();
                    self.walk(Arc::clone(&self.root), &target, depth + 1)?
                }
            };
        }
        Some(at)
    }

    /// Resolves `path` as QEMU does: absolute with a leading `/`, else partial, fitting anywhere in the tree,
    /// where an exact direct fit nearer to the root wins over nothing but must be the only one.
    pub fn resolve(&self, path: &str) -> Resolve {
        if path.starts_with('/') {
            return self.absolute(path).map_or(Resolve::Missing, Resolve::Found);
        }
        let parts: Vec<&str> = path.split('/').collect();
        if parts.iter().any(|p| p.is_empty()) {
            return Resolve::Missing;
        }
        let mut found: Option<ObjectRef> = None;
        let mut ambiguous = false;
        self.visit(&self.root, &mut |object| {
            let mut at = Arc::clone(object);
            for part in &parts {
                match at.core().child(part) {
                    Some(child) => at = child,
                    None => return,
                }
            }
            match &found {
                Some(known) if !Arc::ptr_eq(known, &at) => ambiguous = true,
                _ => found = Some(at),
            }
        });
        match (found, ambiguous) {
            (_, true) => Resolve::Ambiguous,
            (Some(object), false) => Resolve::Found(object),
            (None, false) => Resolve::Missing,
        }
    }

    /// Calls `visit` for `from` and everything below it.
    pub fn visit(&self, from: &ObjectRef, visit: &mut dyn FnMut(&ObjectRef)) {
        visit(from);
        for (_, child) in from.core().children() {
            self.visit(&child, visit);
        }
    }

    /// Makes a user-creatable object: class, id, properties in order, then [`UserCreatable::complete`].
    ///
    /// # Errors
    /// QEMU's; the object is gone then.
    pub fn create_user_object<'v>(
        &self,
        type_name: &str,
        id: &str,
        properties: impl IntoIterator<Item = (&'v str, Input<'v>)>,
    ) -> Result<ObjectRef> {
        let registry = self.registry();
        let class =
            registry.lookup(type_name).filter(|c| c.is_a("user-creatable") && !c.is_abstract()).ok_or_else(
                || Error::generic(format!("Parameter 'qom-type' does not accept value '{type_name}'")),
            )?;
        valid_id(id)?;
        let object = class.create()?;
        for (name, value) in properties {
            object.set(name, value)?;
        }
        let objects = self.container("/objects");
        // Before completing: a duplicate must not cost the effort, nor may completing see a foreign name.
        objects.add_child(id, Arc::clone(&object))?;
        let completed = cast::<dyn UserCreatable>(&object).map_or(Ok(()), |u| u.complete());
        if let Err(e) = completed {
            objects.remove_child(id);
            return Err(e);
        }
        Ok(object)
    }

    /// Takes `/objects/id` away.
    ///
    /// # Errors
    /// `object 'id' not found`, `object 'id' is in use, can not be deleted`.
    pub fn delete_user_object(&self, id: &str) -> Result<()> {
        let objects = self.container("/objects");
        let object = objects
            .core()
            .child(id)
            .ok_or_else(|| Error::new(ErrorClass::GenericError, format!("object '{id}' not found")))?;
        if cast::<dyn UserCreatable>(&object).is_some_and(|u| !u.can_be_deleted()) {
            return Err(Error::generic(format!("object '{id}' is in use, can not be deleted")));
        }
        objects.remove_child(id);
        Ok(())
    }
}

/// Checks an id: letters, digits, `-`, `.`, `_`, starting with a letter.
pub fn valid_id(id: &str) -> Result<()> {
    let mut bytes = id.bytes();
    let good = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if good {
        return Ok(());
    }
    Err(Error::generic("Parameter 'id' expects an identifier")
        .with_hint("Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."))
}
