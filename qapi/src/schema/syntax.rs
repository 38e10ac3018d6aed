//! The QAPI language's surface: JSON with single quotes and `#` comments, and `##` documentation blocks.
//!
//! A file is a sequence of objects, each preceded by its documentation block. Leaves out double quotes and numbers,
//! which the language does not have.

/// A node of a schema file.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `'text'`
    Text(String),
    /// `true` or `false`
    Flag(bool),
    /// `[ ... ]`
    List(Vec<Node>),
    /// `{ ... }`, members in order.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Member `key` of an object.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Self::Object(members) => members.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

/// One object of a schema file.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    /// Line it starts on, from 1.
    pub line: usize,
    /// Lines of the documentation block before it, without `# `.
    pub doc: Vec<String>,
    /// The object.
    pub node: Node,
}

/// Splits a schema file.
///
/// # Errors
/// `LINE: what is wrong`.
pub fn parse(text: &str) -> Result<Vec<Expression>, String> {
    let mut reader = Reader { rest: text, line: 1, doc: None };
    let mut out = Vec::new();
    loop {
        reader.space()?;
        if reader.rest.is_empty() {
            break;
        }
        let line = reader.line;
        let doc = reader.doc.take().unwrap_or_default();
        let node = reader.node(0)?;
        if !matches!(node, Node::Object(_)) {
            return Err(format!("{line}: expected an object"));
        }
        out.push(Expression { line, doc, node });
    }
    match reader.doc {
        Some(_) => Err(format!("{}: documentation of nothing", reader.line)),
        None => Ok(out),
    }
}

/// Deepest nesting in a schema file.
const MAX_DEPTH: usize = 32;

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    /// The documentation block that waits for its object.
    doc: Option<Vec<String>>,
}

impl Reader<'_> {
    fn error<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("{}: {what}", self.line))
    }

    fn skip(&mut self, bytes: usize) {
        let (gone, rest) = self.rest.split_at(bytes);
        self.line += gone.matches('\n').count();
        self.rest = rest;
    }

    /// Skips blanks and comments; keeps documentation.
    fn space(&mut self) -> Result<(), String> {
        loop {
            self.skip(self.rest.len() - self.rest.trim_start().len());
            if !self.rest.starts_with('#') {
                return Ok(());
            }
            let first = self.take_line();
            if first.trim_end() == "##" {
                let block = self.doc_block()?;
                if self.doc.replace(block).is_some() {
                    return self.error("two documentation blocks in a row");
                }
            }
        }
    }

    fn take_line(&mut self) -> String {
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        let line = self.rest[..end].to_owned();
        self.skip((end + 1).min(self.rest.len()));
        line
    }

    fn doc_block(&mut self) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        loop {
            if !self.rest.starts_with('#') {
                return self.error("documentation block without ## at its end");
            }
            let line = self.take_line();
            let line = line.trim_end();
            if line == "##" {
                return Ok(lines);
            }
            let text = &line[1..];
            lines.push(text.strip_prefix(' ').unwrap_or(text).to_owned());
        }
    }

    fn eat(&mut self, token: char) -> Result<bool, String> {
        self.space()?;
        let found = self.rest.starts_with(token);
        if found {
            self.skip(token.len_utf8());
        }
        Ok(found)
    }

    fn node(&mut self, depth: usize) -> Result<Node, String> {
        if depth > MAX_DEPTH {
            return self.error("nested too deep");
        }
        if self.eat('{')? {
            return self.object(depth);
        }
        if self.eat('[')? {
            let mut list = Vec::new();
            if self.eat(']')? {
                return Ok(Node::List(list));
            }
            loop {
                list.push(self.node(depth + 1)?);
                if self.eat(']')? {
                    return Ok(Node::List(list));
                }
                if !self.eat(',')? {
                    return self.error("expected ',' or ']'");
                }
            }
        }
        for (word, flag) in [("true", true), ("false", false)] {
            if self.rest.starts_with(word) {
                self.skip(word.len());
                return Ok(Node::Flag(flag));
            }
        }
        self.text().map(Node::Text)
    }

    fn object(&mut self, depth: usize) -> Result<Node, String> {
        let mut members: Vec<(String, Node)> = Vec::new();
        if self.eat('}')? {
            return Ok(Node::Object(members));
        }
        loop {
            self.space()?;
            let key = self.text()?;
            if members.iter().any(|(k, _)| *k == key) {
                return self.error(&format!("'{key}' twice"));
            }
            if !self.eat(':')? {
                return self.error("expected ':'");
            }
            members.push((key, self.node(depth + 1)?));
            if self.eat('}')? {
                return Ok(Node::Object(members));
            }
            if !self.eat(',')? {
                return self.error("expected ',' or '}'");
            }
        }
    }

    fn text(&mut self) -> Result<String, String> {
        if !self.eat('\'')? {
            return self.error("expected a value");
        }
        let Some(end) = self.rest.find(['\'', '\n', '\\']).filter(|&i| self.rest[i..].starts_with('\''))
        else {
            return self.error("string without end");
        };
        let text = self.rest[..end].to_owned();
        self.skip(end + 1);
        Ok(text)
    }
}
