//! Schema files to the checked model.

use super::doc::Doc;
use super::syntax::{self, Expression, Node};
use super::{Args, BUILTINS, Command, EnumValue, Event, Kind, Member, Passing, Schema, Type, TypeRef};

type Loaded<T> = Result<T, String>;

/// Loads modules given by name and text; types may be used before they are defined.
///
/// # Errors
/// `MODULE.json:LINE: what is wrong`.
pub fn load(modules: &[(&str, &str)]) -> Loaded<Schema> {
    let mut schema = Schema::default();
    for (index, (name, text)) in modules.iter().enumerate() {
        schema.modules.push((*name).to_owned());
        let place = |e: String| format!("{name}.json:{e}");
        for expression in syntax::parse(text).map_err(place)? {
            add(&mut schema, index, &expression)
                .map_err(|e| format!("{name}.json:{}: {e}", expression.line))?;
        }
    }
    // Bases of unions are named or written out; only now can the named ones be looked up.
    let whole = schema.clone();
    for ty in &mut schema.types {
        if let Kind::Union { members, .. } = &mut ty.kind
            && let [only] = members.as_slice()
            && let Some(base) = only.name.strip_prefix(NAMED_BASE)
        {
            if let Some(base) = whole.find(base) {
                ty.doc.members.extend(base.doc.members.iter().cloned());
            }
            *members = whole.members(base).into_iter().cloned().collect();
        }
    }
    check::all(&schema)?;
    Ok(schema)
}

/// Marks the placeholder member of a union whose base is a named type, until that type is known.
const NAMED_BASE: &str = "base ";

fn add(schema: &mut Schema, module: usize, expression: &Expression) -> Loaded<()> {
    let node = &expression.node;
    let Node::Object(members) = node else { return Err("expected an object".to_owned()) };
    let (meta, name) = members
        .first()
        .and_then(|(meta, name)| Some((meta.as_str(), name.text()?.to_owned())))
        .ok_or("expected a definition")?;
    let doc = Doc::parse(&expression.doc).map_err(|e| format!("{name}: {e}"))?;
    if doc.name != name {
        return Err(format!("documentation of '{}' before '{name}'", doc.name));
    }
    let features = features(node.get("features"))?;
    let kind = match meta {
        "enum" => {
            keys(node, &["enum", "data", "features", "prefix"])?;
            Kind::Enum(list(node.get("data"))?.iter().map(enum_value).collect::<Loaded<_>>()?)
        }
        "struct" => {
            keys(node, &["struct", "data", "base", "features"])?;
            let base = node.get("base").map(text).transpose()?;
            Kind::Struct { base, members: members_of(node.get("data"))? }
        }
        "union" => union(node)?,
        "alternate" => {
            keys(node, &["alternate", "data", "features"])?;
            let members = members_of(node.get("data"))?;
            Kind::Alternate(members.into_iter().map(|m| (m.name, m.ty)).collect())
        }
        "command" => {
            schema.commands.push(command(name, module, doc, features, node)?);
            return Ok(());
        }
        "event" => {
            keys(node, &["event", "data", "boxed", "features"])?;
            schema.events.push(Event { name, module, doc, args: args(node)?, features });
            return Ok(());
        }
        _ => return Err(format!("unknown definition '{meta}'")),
    };
    schema.types.push(Type { name, module, doc, features, kind });
    Ok(())
}

fn union(node: &Node) -> Loaded<Kind> {
    keys(node, &["union", "base", "discriminator", "data", "features"])?;
    let members = match node.get("base") {
        Some(Node::Text(base)) => vec![Member {
            name: format!("{NAMED_BASE}{base}"),
            optional: false,
            ty: TypeRef { name: base.clone(), array: false },
            features: Vec::new(),
        }],
        base => members_of(base)?,
    };
    let tag = text(node.get("discriminator").ok_or("a union needs 'discriminator'")?)?;
    let branches = members_of(node.get("data"))?.into_iter().map(|m| (m.name, m.ty.name)).collect();
    Ok(Kind::Union { members, tag, branches })
}

fn command(name: String, module: usize, doc: Doc, features: Vec<String>, node: &Node) -> Loaded<Command> {
    let known = [
        "command",
        "data",
        "returns",
        "boxed",
        "gen",
        "features",
        "allow-oob",
        "allow-preconfig",
        "success-response",
    ];
    keys(node, &known)?;
    let passing = match node.get("gen") {
        None | Some(Node::Flag(true)) => Passing::Typed,
        Some(Node::Flag(false)) => Passing::Raw,
        Some(Node::Text(word)) if word == "checked" => Passing::Checked,
        Some(_) => return Err("'gen' is true, false or 'checked'".to_owned()),
    };
    Ok(Command {
        name,
        module,
        doc,
        args: args(node)?,
        returns: node.get("returns").map(type_ref).transpose()?,
        passing,
        features,
        allow_oob: flag(node, "allow-oob", false)?,
        allow_preconfig: flag(node, "allow-preconfig", false)?,
        success_response: flag(node, "success-response", true)?,
    })
}

fn args(node: &Node) -> Loaded<Args> {
    let boxed = flag(node, "boxed", false)?;
    match node.get("data") {
        None => Ok(Args::None),
        Some(Node::Text(name)) if boxed => Ok(Args::Boxed(name.clone())),
        Some(Node::Text(_)) => Err("a named type as 'data' needs 'boxed'".to_owned()),
        data if !boxed => Ok(Args::Inline(members_of(data)?)),
        Some(_) => Err("'boxed' needs a named type as 'data'".to_owned()),
    }
}

fn members_of(node: Option<&Node>) -> Loaded<Vec<Member>> {
    let Some(Node::Object(members)) = node else { return Err("expected an object of members".to_owned()) };
    members
        .iter()
        .map(|(name, node)| {
            let (name, optional) = name.strip_prefix('*').map_or((name.as_str(), false), |n| (n, true));
            let ty = node.get("type").unwrap_or(node);
            Ok(Member {
                name: name.to_owned(),
                optional,
                ty: type_ref(ty)?,
                features: features(node.get("features"))?,
            })
        })
        .collect()
}

fn enum_value(node: &Node) -> Loaded<EnumValue> {
    let name = node.get("name").unwrap_or(node);
    Ok(EnumValue { name: text(name)?, features: features(node.get("features"))? })
}

fn type_ref(node: &Node) -> Loaded<TypeRef> {
    match node {
        Node::Text(name) => Ok(TypeRef { name: name.clone(), array: false }),
        Node::List(list) => match list.as_slice() {
            [Node::Text(name)] => Ok(TypeRef { name: name.clone(), array: true }),
            _ => Err("an array type is ['TYPE']".to_owned()),
        },
        _ => Err("expected a type".to_owned()),
    }
}

fn features(node: Option<&Node>) -> Loaded<Vec<String>> {
    node.map_or(Ok(Vec::new()), |node| list(Some(node))?.iter().map(text).collect())
}

fn list(node: Option<&Node>) -> Loaded<&[Node]> {
    match node {
        Some(Node::List(list)) => Ok(list),
        _ => Err("expected a list".to_owned()),
    }
}

fn text(node: &Node) -> Loaded<String> {
    node.text().map(str::to_owned).ok_or_else(|| "expected a string".to_owned())
}

fn flag(node: &Node, key: &str, default: bool) -> Loaded<bool> {
    match node.get(key) {
        None => Ok(default),
        Some(Node::Flag(flag)) => Ok(*flag),
        Some(_) => Err(format!("'{key}' is true or false")),
    }
}

fn keys(node: &Node, known: &[&str]) -> Loaded<()> {
    let Node::Object(members) = node else { return Ok(()) };
    match members.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        Some((key, _)) => Err(format!("unknown key '{key}'")),
        None => Ok(()),
    }
}

/// Checks that need the whole schema.
mod check {
    use super::{Args, BUILTINS, Doc, Kind, Loaded, Member, Schema, TypeRef};

    pub(super) fn all(schema: &Schema) -> Loaded<()> {
        names(schema)?;
        for ty in &schema.types {
            let check = || {
                let mut features: Vec<&str> = ty.features.iter().map(String::as_str).collect();
                match &ty.kind {
                    Kind::Enum(values) => {
                        features.extend(values.iter().flat_map(|v| &v.features).map(String::as_str))
                    }
                    Kind::Struct { members, .. } | Kind::Union { members, .. } => {
                        features.extend(members.iter().flat_map(|m| &m.features).map(String::as_str));
                    }
                    Kind::Alternate(_) => {}
                }
                kind(schema, &ty.kind, &ty.doc)?;
                documented(&ty.doc, &features)
            };
            check().map_err(|e| format!("{}: {e}", ty.name))?;
        }
        for command in &schema.commands {
            let check = || {
                args(schema, &command.args, &command.doc, &command.features)?;
                command.returns.as_ref().map_or(Ok(()), |ty| resolves(schema, ty))
            };
            check().map_err(|e| format!("{}: {e}", command.name))?;
        }
        for event in &schema.events {
            args(schema, &event.args, &event.doc, &event.features)
                .map_err(|e| format!("{}: {e}", event.name))?;
        }
        Ok(())
    }

    fn names(schema: &Schema) -> Loaded<()> {
        let mut names: Vec<&str> = BUILTINS.iter().map(|b| b.0).collect();
        names.extend(schema.types.iter().map(|t| t.name.as_str()));
        names.extend(schema.commands.iter().map(|c| c.name.as_str()));
        names.extend(schema.events.iter().map(|e| e.name.as_str()));
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("'{}' is defined twice", pair[0])),
            None => Ok(()),
        }
    }

    fn kind(schema: &Schema, kind: &Kind, doc: &Doc) -> Loaded<()> {
        match kind {
            Kind::Enum(values) => values.iter().try_for_each(|v| described(doc, &v.name)),
            Kind::Struct { base, members } => {
                if let Some(base) = base {
                    object(schema, base)?;
                }
                all_members(schema, members, doc)
            }
            Kind::Union { members, tag, branches } => {
                let ty = members
                    .iter()
                    .find(|m| m.name == *tag && !m.optional && !m.ty.array)
                    .ok_or_else(|| format!("the base has no member '{tag}'"))?;
                let Some(Kind::Enum(values)) = schema.find(&ty.ty.name).map(|t| &t.kind) else {
                    return Err(format!("'{tag}' is not an enumeration"));
                };
                all_members(schema, members, doc)?;
                branches.iter().try_for_each(|(case, ty)| {
                    if !values.iter().any(|v| v.name == *case) {
                        return Err(format!("'{case}' is no value of the tag"));
                    }
                    object(schema, ty)
                })
            }
            Kind::Alternate(types) => types.iter().try_for_each(|(name, ty)| {
                described(doc, name)?;
                resolves(schema, ty)
            }),
        }
    }

    fn args(schema: &Schema, args: &Args, doc: &Doc, features: &[String]) -> Loaded<()> {
        let mut features: Vec<&str> = features.iter().map(String::as_str).collect();
        match args {
            Args::None => {}
            Args::Inline(members) => {
                all_members(schema, members, doc)?;
                features.extend(members.iter().flat_map(|m| &m.features).map(String::as_str));
            }
            Args::Boxed(name) => object(schema, name)?,
        }
        documented(doc, &features)
    }

    fn all_members(schema: &Schema, members: &[Member], doc: &Doc) -> Loaded<()> {
        for member in members {
            resolves(schema, &member.ty)?;
            described(doc, &member.name)?;
        }
        // A text about a member that is not there is a typing error.
        match doc.members.iter().find(|(name, _)| !members.iter().any(|m| m.name == *name)) {
            Some((name, _)) => Err(format!("documents '{name}', which is not a member")),
            None => Ok(()),
        }
    }

    fn described(doc: &Doc, member: &str) -> Loaded<()> {
        match doc.member(member) {
            Some(text) if !text.is_empty() => Ok(()),
            _ => Err(format!("'{member}' is not documented")),
        }
    }

    /// The block describes just these features.
    fn documented(doc: &Doc, features: &[&str]) -> Loaded<()> {
        if let Some(feature) = features.iter().find(|f| doc.feature(f).is_none()) {
            return Err(format!("feature '{feature}' is not documented"));
        }
        match doc.features.iter().find(|(name, _)| !features.contains(&name.as_str())) {
            Some((name, _)) => Err(format!("documents feature '{name}', which is not there")),
            None => Ok(()),
        }
    }

    fn resolves(schema: &Schema, ty: &TypeRef) -> Loaded<()> {
        if BUILTINS.iter().any(|b| b.0 == ty.name) || schema.find(&ty.name).is_some() {
            Ok(())
        } else {
            Err(format!("unknown type '{}'", ty.name))
        }
    }

    fn object(schema: &Schema, name: &str) -> Loaded<()> {
        match schema.find(name).map(|t| &t.kind) {
            Some(Kind::Struct { .. } | Kind::Union { .. }) => Ok(()),
            _ => Err(format!("'{name}' is not an object type")),
        }
    }
}
