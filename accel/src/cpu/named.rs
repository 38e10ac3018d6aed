//! The named models: what QEMU 10.0.2 says of each, from the table `models.txt` beside this file.

use std::sync::LazyLock;

use super::features::feature;
use super::words::{COUNT, Words};

/// The table; its head says what is in it.
const TABLE: &str = include_str!("models.txt");

/// A named model or a second name of one.
#[derive(Debug)]
pub struct Named {
    /// Its name in `-cpu`.
    pub name: &'static str,
    /// Its class.
    pub class_name: &'static str,
    /// The model that the name stands for, if it is a second name.
    pub alias_of: Option<&'static str>,
    /// Twelve characters.
    pub vendor: [u8; 12],
    /// Family, model and stepping.
    pub numbers: [u32; 3],
    /// Highest basic leaf, unless features need a higher one.
    pub min_level: u32,
    /// Highest extended leaf, unless features need a higher one.
    pub min_xlevel: u32,
    /// What it calls itself.
    pub model_id: &'static str,
    /// What sets it apart from the versions before it.
    pub note: &'static str,
    /// Its own features, those included that only count with another one (`vmx-…` with `vmx`).
    pub features: Words,
}

/// Two names are two models, also where one stands for the other.
impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Named {}

static NAMED_MODELS: LazyLock<Vec<Named>> = LazyLock::new(|| {
    let mut list: Vec<Named> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        list.extend(read(line, &list));
    }
    // A second name has everything of its model, which may come later than it.
    for at in 0..list.len() {
        let Some(model) = list[at].alias_of.and_then(|name| list.iter().find(|model| model.name == name))
        else {
            continue;
        };
        let Named { name, class_name, alias_of, .. } = list[at];
        list[at] = Named { name, class_name, alias_of, ..*model };
    }
    list
});

fn read(line: &'static str, before: &[Named]) -> Option<Named> {
    let mut fields = line.split(';');
    let name = fields.next()?;
    // Once a name, for as long as the program runs, as classes are.
    let class_name: &'static str = Box::leak(format!("{name}-x86_64-cpu").into_boxed_str());
    let second = fields.next()?;
    let empty = Named {
        name,
        class_name,
        alias_of: None,
        vendor: [0; 12],
        numbers: [0; 3],
        min_level: 0,
        min_xlevel: 0,
        model_id: "",
        note: "",
        features: [0; COUNT],
    };
    let Some(numbers) = fields.next() else { return Some(Named { alias_of: Some(second), ..empty }) };
    let mut numbers = numbers.split(',').map(|number| number.parse().ok());
    let numbers = [numbers.next()??, numbers.next()??, numbers.next()??];
    let hex = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (min_level, min_xlevel) = (hex(fields.next()?)?, hex(fields.next()?)?);
    let (model_id, note) = (fields.next()?, fields.next()?);
    let mut words = [0; COUNT];
    for word in fields.next()?.split_whitespace() {
        match word.split_at(1) {
            ("=", model) => words = before.iter().find(|named| named.name == model)?.features,
            ("-", lost) => feature(lost)?.switch(&mut words, false),
            ("+", more) => feature(more)?.switch(&mut words, true),
            _ => feature(word)?.switch(&mut words, true),
        }
    }
    let vendor = second.as_bytes().try_into().ok()?;
    Some(Named { vendor, numbers, min_level, min_xlevel, model_id, note, features: words, ..empty })
}

/// All of them, in the order of `query-cpu-definitions`.
pub(super) fn named_models() -> &'static [Named] {
    &NAMED_MODELS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_a_model() {
        let lines: Vec<&str> = TABLE.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(named_models().len(), lines.len());
        for (model, line) in named_models().iter().zip(lines) {
            assert_eq!(line.split(';').next(), Some(model.name));
            assert!(model.features.iter().any(|word| *word != 0), "{line}");
            assert!(model.numbers[0] != 0 && model.vendor != [0; 12], "{line}");
        }
    }

    #[test]
    fn versions_differ_as_their_notes_say() {
        let model = |name: &str| named_models().iter().find(|model| model.name == name).unwrap();
        let has = |name: &str, what: &str| feature(what).unwrap().is_in(&model(name).features);
        assert_eq!(model("Haswell-noTSX").alias_of, Some("Haswell-v2"));
        assert_eq!(
            ["Haswell-v1", "Haswell-v2", "Haswell-noTSX"].map(|n| has(n, "rtm")),
            [true, false, false]
        );
        assert_eq!(model("Denverton-v2").note, "[no MPX, no MONITOR]");
        assert!(has("Skylake-Server-v4", "vmx-eptp-switching") && !has("Skylake-Server-v4", "vmx"));
        assert_eq!((model("EPYC-Milan").numbers, &model("EPYC-Milan").vendor), ([25, 1, 1], b"AuthenticAMD"));
    }
}
