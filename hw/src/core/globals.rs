//! Defaults that replace those of the classes: of versioned machine types, and of `-global`.

use std::sync::{Mutex, PoisonError};

use qapi::{Error, Result};
use qom::{Class, Input, ObjectRef, Registry};

/// One `-global driver.property=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// The class it is for, or an ancestor or interface of it.
    pub driver: String,
    /// The property.
    pub property: String,
    /// Its value as text.
    pub value: String,
}

/// The defaults of a machine; later ones win.
#[derive(Default)]
pub struct Globals {
    list: Mutex<Vec<(Origin, Global)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Compat,
    User,
}

impl Globals {
    /// Adds the defaults of a machine type; they come before the user's, whenever they are added.
    pub fn add_compat(&self, entries: &[(&str, &str, &str)]) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let at = list.iter().position(|(o, _)| *o == Origin::User).unwrap_or(list.len());
        let new = entries.iter().map(|(driver, property, value)| {
            let global =
                Global { driver: (*driver).into(), property: (*property).into(), value: (*value).into() };
            (Origin::Compat, global)
        });
        list.splice(at..at, new);
    }

    /// Adds a `-global`.
    pub fn add_user(&self, global: Global) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push((Origin::User, global));
    }

    /// The user's globals for classes that there are none of, as `DRIVER.PROPERTY`.
    pub fn of_no_class(&self, registry: &Registry) -> Vec<String> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = |g: &Global| !registry.iter().any(|class| class.is_a(&g.driver));
        list.iter()
            .filter(|(origin, global)| *origin == Origin::User && lost(global))
            .map(|(_, global)| format!("{}.{}", global.driver, global.property))
            .collect()
    }

    /// What is meant for `class`, in order.
    pub fn of_class(&self, class: &Class) -> Vec<Global> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().map(|(_, global)| global).filter(|g| class.is_a(&g.driver)).cloned().collect()
    }

    /// Sets what is meant for the class of `object`.
    ///
    /// # Errors
    /// `can't apply global DRIVER.PROPERTY=VALUE: …`. A machine type may name a property that this program does not
    /// have; that one is passed over.
    pub fn apply(&self, object: &ObjectRef) -> Result<()> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner).to_vec();
        let class = object.core().class();
        for (origin, global) in &list {
            if !class.is_a(&global.driver)
                || (*origin == Origin::Compat && class.property(&global.property).is_none())
            {
                continue;
            }
            object.set(&global.property, Input::Text(&global.value)).map_err(|e| {
                let Global { driver, property, value } = global;
                Error::new(e.class(), format!("can't apply global {driver}.{property}={value}: {}", e.desc()))
            })?;
        }
        Ok(())
    }
}
