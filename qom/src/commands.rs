//! The commands of `schema/qom.json`, which are the tree's.

use qapi::commands::QomCommands;
use qapi::types::{HumanReadableText, ObjectOptions, ObjectPropertyInfo, ObjectTypeInfo};
use qapi::visit::Path;
use qapi::{Dict, Error, ErrorClass, FromValue, Result, Value, json};

use crate::help;
use crate::options::{self, Pairs};
use crate::{Class, Input, Property, Resolve, Tree};

/// Properties that every device has and that say nothing about its model.
const COMMON_TO_DEVICES: [&str; 5] = ["type", "realized", "hotpluggable", "hotplugged", "parent_bus"];

impl QomCommands for Tree {
    fn qom_list(&self, path: String) -> Result<Vec<ObjectPropertyInfo>> {
        let object = match self.resolve(&path) {
            Resolve::Found(object) => object,
            Resolve::Ambiguous => return Err(Error::generic(format!("Path '{path}' is ambiguous"))),
            Resolve::Missing => return Err(Error::device_not_found(&path)),
        };
        let mut list = vec![entry("type", "string")];
        let core = object.core();
        let own = core.class().properties().into_iter().filter(|p| !p.is_child());
        list.extend(own.map(|p| entry(p.name(), p.type_name())));
        list.extend(core.dynamic_properties().iter().map(|p| entry(p.name(), p.type_name())));
        for (name, child) in core.children() {
            list.push(entry(&name, &format!("child<{}>", child.core().class().name())));
        }
        Ok(list)
    }

    fn qom_get(&self, path: String, property: String) -> Result<Value> {
        self.resolve(&path).found(&path)?.get(&property)
    }

    fn qom_set(&self, path: String, property: String, value: Value) -> Result<()> {
        self.resolve(&path).found(&path)?.set(&property, Input::Json(&value))
    }

    fn qom_list_types(
        &self,
        implements: Option<String>,
        abstract_: Option<bool>,
    ) -> Result<Vec<ObjectTypeInfo>> {
        let registry = self.registry();
        let wanted = |c: &Class| {
            implements.as_deref().is_none_or(|i| c.is_a(i)) && (abstract_ != Some(false) || !c.is_abstract())
        };
        let info = |c: &Class| ObjectTypeInfo {
            name: c.name().to_owned(),
            abstract_: c.is_abstract().then_some(true),
            parent: Some(c.parent().map_or("object", |p| p.name()).to_owned()),
        };
        Ok(registry.iter().filter(|c| wanted(c)).map(|c| info(c)).collect())
    }

    fn qom_list_properties(&self, typename: String) -> Result<Vec<ObjectPropertyInfo>> {
        let registry = self.registry();
        let class = registry
            .lookup(&typename)
            .ok_or_else(|| Error::new(ErrorClass::DeviceNotFound, format!("Class '{typename}' not found")))?;
        let mut list = vec![entry("type", "string")];
        list.extend(class.properties().into_iter().map(described));
        Ok(list)
    }

    fn device_list_properties(&self, typename: String) -> Result<Vec<ObjectPropertyInfo>> {
        let registry = self.registry();
        let class = registry.lookup(&typename).ok_or_else(|| Error::device_not_found(&typename))?;
        if class.is_abstract() || !class.is_a("device") {
            return Err(Error::generic("Parameter 'typename' expects a non-abstract device type"));
        }
        let hidden = |p: &Property| COMMON_TO_DEVICES.contains(&p.name()) || p.is_legacy();
        let own = class.properties().into_iter().filter(|p| !hidden(p));
        Ok(own.map(described).collect())
    }

    fn object_add(&self, arguments: Dict) -> Result<()> {
        self.add_object(arguments)
    }

    fn object_del(&self, id: String) -> Result<()> {
        self.delete_user_object(&id)
    }

    fn x_pliant_list_property_values(&self, typename: String, property: String) -> Result<Vec<String>> {
        let registry = self.registry();
        let class = registry
            .lookup(&typename)
            .ok_or_else(|| Error::new(ErrorClass::DeviceNotFound, format!("Class '{typename}' not found")))?;
        let properties = class.properties();
        let found = properties.iter().find(|p| p.name() == property);
        let found =
            found.ok_or_else(|| Error::generic(format!("Property '{typename}.{property}' not found")))?;
        Ok(found.value_names().iter().map(|name| (*name).to_owned()).collect())
    }

    fn x_pliant_qom_set_text(&self, path: String, property: String, value: String) -> Result<()> {
        self.resolve(&path).found(&path)?.set(&property, Input::Text(&value))
    }

    fn x_pliant_object_add_text(&self, options: String) -> Result<HumanReadableText> {
        if options.starts_with('{') {
            let Value::Dict(arguments) = json::parse(&options)? else {
                return Err(Error::generic("Invalid parameter type for 'object', expected: object"));
            };
            self.add_object(self.check_object(arguments)?)?;
            return Ok(String::new().into());
        }
        let parsed = options::keyval(&options, Some("qom-type"))?;
        if parsed.help {
            let kind = options::value(&parsed.pairs, "qom-type");
            // Of a type that cannot be made there is only the list, as in QEMU.
            let help = help::object_help(&self.registry(), kind);
            return Ok(help.unwrap_or_else(|_| help::object_list(&self.registry())).into());
        }
        self.add_object(self.object_from_pairs(&parsed.pairs, Dialect::Monitor)?)?;
        Ok(String::new().into())
    }
}

impl Tree {
    /// `object-add` with arguments that have been checked against the schema.
    ///
    /// # Errors
    /// What the object's properties say.
    pub fn add_object(&self, mut arguments: Dict) -> Result<()> {
        let text = |v: Option<Value>| v.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, id) = (text(arguments.remove("qom-type")), text(arguments.remove("id")));
        self.create_user_object(&kind, &id, arguments.iter().map(|(k, v)| (k, Input::Json(v))))?;
        Ok(())
    }

    /// Checks what JSON `-object` gave against the schema.
    ///
    /// # Errors
    /// Those of `object-add` for its arguments.
    pub fn check_object(&self, arguments: Dict) -> Result<Dict> {
        ObjectOptions::from_value(arguments.clone().into(), &Path::ROOT)?;
        Ok(arguments)
    }

    /// Turns the pairs of an `-object` list into what `object-add` takes, every value in the type its property has,
    /// and checks the whole against the schema.
    ///
    /// # Errors
    /// QEMU's for lists: `Parameter 'qom-type' is missing`, `Invalid parameter 'foo'`, and what the dialect says.
    pub fn object_from_text(&self, pairs: &Pairs) -> Result<Dict> {
        self.object_from_pairs(pairs, Dialect::CommandLine)
    }

    fn object_from_pairs(&self, pairs: &Pairs, dialect: Dialect) -> Result<Dict> {
        let get = |key: &str| options::value(pairs, key);
        let missing = |key: &str| Error::generic(format!("Parameter '{key}' is missing"));
        let kind = get("qom-type").ok_or_else(|| missing("qom-type"))?;
        let registry = self.registry();
        let class = registry
            .lookup(kind)
            .filter(|c| c.is_a("user-creatable") && !c.is_abstract())
            .ok_or_else(|| Error::generic(format!("Parameter 'qom-type' does not accept value '{kind}'")))?;
        let mut dict = Dict::new();
        let mut lists: Vec<(String, Vec<Value>)> = Vec::new();
        for (key, value) in pairs {
            if key == "qom-type" || key == "id" {
                dict.insert(key.as_str(), value.as_str());
                continue;
            }
            // `host-nodes.0=1` is how keyval writes one element of a list.
            let (name, element) = key.split_once('.').map_or((key.as_str(), false), |(n, _)| (n, true));
            let value = match (class.property(name), dialect) {
                (Some(property), _) => typed(property, value, element, dialect)?,
                (None, Dialect::CommandLine) => return Err(options::invalid_parameter(key)),
                // The schema's check finds it, after what is missing.
                (None, Dialect::Monitor) => Value::from(value.as_str()),
            };
            match (element, value) {
                (true, Value::List(mut one)) => match lists.iter_mut().find(|(n, _)| n == name) {
                    Some((_, list)) => list.append(&mut one),
                    None => lists.push((name.to_owned(), one)),
                },
                (true, _) => return Err(options::invalid_parameter(key)),
                (false, value) => {
                    dict.insert(name, value);
                }
            }
        }
        for (name, list) in lists {
            dict.insert(name, list);
        }
        if get("id").is_none() {
            return Err(missing("id"));
        }
        ObjectOptions::from_value(dict.clone().into(), &Path::ROOT)?;
        Ok(dict)
    }
}

/// Who wrote an option list: the errors' words differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    CommandLine,
    Monitor,
}

/// A text as a value of the property's type. What is no switch, number or list stays a string. `element` says that it is
/// one element of a list.
fn typed(property: &Property, text: &str, element: bool, dialect: Dialect) -> Result<Value> {
    let name = property.name();
    let input = match dialect {
        Dialect::CommandLine => Input::Keyval(text),
        Dialect::Monitor => Input::Option(text),
    };
    Ok(match (name, property.type_name()) {
        ("host-nodes", _) if !element && dialect == Dialect::Monitor => {
            return Err(Error::generic(format!("Invalid parameter type for '{name}', expected: array")));
        }
        ("host-nodes", _) => input.to_u16_list(name)?.into_iter().map(Value::from).collect::<Vec<_>>().into(),
        (_, "bool") => input.to_bool(name)?.into(),
        ("size" | "align" | "offset" | "hugetlbsize", _) | (_, "size") => input.to_size(name)?.into(),
        (_, "int" | "uint32" | "uint64" | "uint16") => input.to_u64(name)?.into(),
        _ => Value::from(text),
    })
}

fn entry(name: &str, type_name: &str) -> ObjectPropertyInfo {
    ObjectPropertyInfo {
        name: name.to_owned(),
        type_: type_name.to_owned(),
        description: None,
        default_value: None,
    }
}

fn described(p: &Property) -> ObjectPropertyInfo {
    ObjectPropertyInfo {
        name: p.name().to_owned(),
        type_: p.type_name().to_owned(),
        description: p.help().map(str::to_owned),
        default_value: p.default_value().cloned(),
    }
}
