//! Documentation blocks: a name, a text, a text for each member and feature, tagged sections.

/// A documentation block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doc {
    /// What it documents.
    pub name: String,
    /// The text, paragraphs separated by an empty line.
    pub text: String,
    /// Members, values or arguments and their texts.
    pub members: Vec<(String, String)>,
    /// Features and their texts.
    pub features: Vec<(String, String)>,
    /// `Returns:`, `Errors:`, `Since:` and their texts.
    pub sections: Vec<(String, String)>,
}

const TAGS: [&str; 3] = ["Returns", "Errors", "Since"];

impl Doc {
    /// Text of a member.
    pub fn member(&self, name: &str) -> Option<&str> {
        self.members.iter().find(|(n, _)| n == name).map(|(_, text)| text.as_str())
    }

    /// Text of a feature.
    pub fn feature(&self, name: &str) -> Option<&str> {
        self.features.iter().find(|(n, _)| n == name).map(|(_, text)| text.as_str())
    }

    /// Text of a section.
    pub fn section(&self, tag: &str) -> Option<&str> {
        self.sections.iter().find(|(t, _)| t == tag).map(|(_, text)| text.as_str())
    }

    /// Parses the lines of a block.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(lines: &[String]) -> Result<Self, String> {
        let mut lines = lines.iter().map(String::as_str).skip_while(|l| l.is_empty());
        let first = lines.next().unwrap_or_default();
        let name = first
            .strip_prefix('@')
            .and_then(|l| l.strip_suffix(':'))
            .ok_or_else(|| format!("documentation must start with '@NAME:', not '{first}'"))?;
        let mut doc = Self { name: name.to_owned(), ..Self::default() };
        let mut in_features = false;
        let mut part = Part::Text;
        for line in lines {
            if line == "Features:" {
                in_features = true;
                part = Part::Skip;
            } else if let Some((name, text)) = line.strip_prefix('@').and_then(|l| l.split_once(':')) {
                let list = if in_features { &mut doc.features } else { &mut doc.members };
                list.push((name.to_owned(), text.trim().to_owned()));
                part = if in_features { Part::Feature } else { Part::Member };
            } else if let Some((tag, text)) = line.split_once(':').filter(|(tag, _)| TAGS.contains(tag)) {
                doc.sections.push((tag.to_owned(), text.trim().to_owned()));
                part = Part::Section;
            } else {
                doc.add(&part, line)?;
            }
        }
        doc.trim();
        if doc.text.is_empty() {
            return Err(format!("'{}' has no text", doc.name));
        }
        Ok(doc)
    }

    fn add(&mut self, part: &Part, line: &str) -> Result<(), String> {
        let last = |list: &'_ mut Vec<(String, String)>| list.pop();
        let list = match part {
            Part::Text => {
                self.text.push_str(line.trim_end());
                self.text.push('\n');
                return Ok(());
            }
            Part::Skip if line.is_empty() => return Ok(()),
            Part::Skip => return Err(format!("unexpected text '{line}' after 'Features:'")),
            Part::Member => &mut self.members,
            Part::Feature => &mut self.features,
            Part::Section => &mut self.sections,
        };
        if !line.is_empty()
            && let Some((name, mut text)) = last(list)
        {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(line.trim());
            list.push((name, text));
        }
        Ok(())
    }

    fn trim(&mut self) {
        self.text = self.text.trim().to_owned();
    }
}

/// What a line without a tag belongs to.
enum Part {
    Text,
    Skip,
    Member,
    Feature,
    Section,
}
