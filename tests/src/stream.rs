//! Takes a migration stream apart with nothing but the description at its end, as the programs do that come with QEMU.
//!
//! ```text
//! magic, version, configuration, parts…, end mark, description
//! ```
//!
//! What the description says of a section's fields must add up to the section's bytes, and every section must be described, once.
//! Streams of one channel and files with pages at places of their own are understood.

use std::ops::Range;

use serde_json::Value;

const PAGE: u64 = 4096;

/// A part of a stream: a section, a part of one, a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The section's name, or `command`.
    pub name: String,
    /// From its kind to the end of its footer.
    pub range: Range<usize>,
}

/// A stream that was taken apart.
#[derive(Debug)]
pub struct Stream {
    /// Capabilities that change its form.
    pub capabilities: Vec<String>,
    /// Where the configuration is.
    pub configuration: Range<usize>,
    /// In order.
    pub parts: Vec<Part>,
    /// Where the end mark is.
    pub end: usize,
    /// The description.
    pub description: Value,
}

impl Stream {
    /// Takes `bytes` apart, all of them.
    ///
    /// # Errors
    /// A sentence on what does not agree, and where.
    pub fn take_apart(bytes: &[u8]) -> Result<Self, String> {
        let (mark, description) = description(bytes)?;
        let mut cursor = Cursor { bytes, at: 0 };
        cursor.expect(&0x5145_564d_u32.to_be_bytes(), "magic")?;
        cursor.expect(&3u32.to_be_bytes(), "version")?;
        let begin = cursor.at;
        cursor.expect(&[7], "configuration")?;
        let mut capabilities = Vec::new();
        cursor.fields(&description["configuration"], &mut capabilities)?;
        let configuration = begin..cursor.at;
        let mut reader = Reader { cursor, description: &description, capabilities, described: Vec::new() };
        let mut parts = Vec::new();
        while let Some(part) = reader.part()? {
            parts.push(part);
        }
        let Reader { cursor, capabilities, described, .. } = reader;
        let all = description["devices"].as_array().map_or(0, Vec::len);
        if described.len() != all {
            return Err(format!("{} sections, but {all} are described", described.len()));
        }
        let end = cursor.at - 1;
        if end != mark {
            return Err(format!("an end mark at {end:#x}, and another before the description"));
        }
        Ok(Self { capabilities, configuration, parts, end, description })
    }
}

/// Where the end mark before the description is, and the description.
fn description(bytes: &[u8]) -> Result<(usize, Value), String> {
    // End mark, mark, length; what is in the text has no character below a space.
    let from = bytes.len().saturating_sub(10 << 20);
    let fits = |at: &usize| {
        let head = &bytes[*at..*at + 7];
        let len = u32::from_be_bytes([head[2], head[3], head[4], head[5]]) as usize;
        head[..2] == [0, 6] && head[6] == b'{' && len == bytes.len() - at - 6
    };
    let at = (from..bytes.len().saturating_sub(7)).rev().find(fits).ok_or("no description at the end")?;
    let text = serde_json::from_slice(&bytes[at + 6..]);
    Ok((at, text.map_err(|error| format!("the description: {error}"))?))
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("{len} bytes at {:#x} are behind the end", self.at))?;
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }

    fn number(&mut self, len: usize) -> Result<u64, String> {
        Ok(self.take(len)?.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    fn text(&mut self) -> Result<String, String> {
        let len = self.number(1)? as usize;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| format!("no text at {:#x}", self.at))
    }

    fn expect(&mut self, bytes: &[u8], what: &str) -> Result<(), String> {
        let at = self.at;
        if self.take(bytes.len())? == bytes { Ok(()) } else { Err(format!("no {what} at {at:#x}")) }
    }

    /// Fields and subsections that a description names; texts of capabilities are collected.
    fn fields(&mut self, state: &Value, capabilities: &mut Vec<String>) -> Result<(), String> {
        let name = state["vmsd_name"].as_str().ok_or("a state without a name")?;
        for field in state["fields"].as_array().ok_or_else(|| format!("{name} has no fields"))? {
            let count = field["array_len"].as_u64().unwrap_or(1);
            for _ in 0..count {
                self.field(field, capabilities).map_err(|error| format!("{name}: {error}"))?;
            }
        }
        for subsection in state["subsections"].as_array().into_iter().flatten() {
            let own = subsection["vmsd_name"].as_str().unwrap_or_default();
            self.expect(&[5], &format!("subsection {own}"))?;
            if self.text()? != own || Some(self.number(4)?) != subsection["version"].as_u64() {
                return Err(format!("another subsection than {own} before {:#x}", self.at));
            }
            self.fields(subsection, capabilities)?;
        }
        Ok(())
    }

    fn field(&mut self, field: &Value, capabilities: &mut Vec<String>) -> Result<(), String> {
        let (name, kind) = (&field["name"], field["type"].as_str().unwrap_or_default());
        let begin = self.at;
        let size = field["size"].as_u64().ok_or_else(|| format!("{name} has no size"))? as usize;
        let right = match kind {
            "struct" => {
                self.fields(&field["struct"], capabilities)?;
                true
            }
            "capability" => {
                capabilities.push(self.text()?);
                true
            }
            "bool" => self.number(1)? <= 1,
            "int8" | "uint8" => self.take(1).is_ok(),
            "int16" | "uint16" => self.take(2).is_ok(),
            "int32" | "uint32" => self.take(4).is_ok(),
            "int64" | "uint64" => self.take(8).is_ok(),
            "buffer" => size > 0 && self.take(size).is_ok(),
            "bitmap" => size > 0 && size.is_multiple_of(8) && self.take(size).is_ok(),
            _ => false,
        };
        if right && self.at - begin == size {
            return Ok(());
        }
        Err(format!("{name}, {kind} of {size} bytes, has {} at {begin:#x}", self.at - begin))
    }
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    description: &'a Value,
    capabilities: Vec<String>,
    /// Sections of devices so far.
    described: Vec<(String, u64)>,
}

impl Reader<'_> {
    fn has(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|name| name == capability)
    }

    /// The next part; none at the end mark.
    fn part(&mut self) -> Result<Option<Part>, String> {
        let begin = self.cursor.at;
        let kind = self.cursor.number(1)?;
        let name = match kind {
            0 => return Ok(None),
            8 => {
                self.cursor.take(2)?;
                let len = self.cursor.number(2)? as usize;
                self.cursor.take(len)?;
                return Ok(Some(Part { name: "command".into(), range: begin..self.cursor.at }));
            }
            1..=4 => {
                let number = self.cursor.number(4)?;
                let name = match kind {
                    1 | 4 => self.begin()?,
                    _ => {
                        self.memory()?;
                        "ram".to_owned()
                    }
                };
                self.cursor.expect(&[0x7e], &format!("footer of {name}"))?;
                if self.cursor.number(4)? != number {
                    return Err(format!("another number in the footer of {name}"));
                }
                name
            }
            other => return Err(format!("a part of the kind {other} at {begin:#x}")),
        };
        Ok(Some(Part { name, range: begin..self.cursor.at }))
    }

    /// A section from its name on.
    fn begin(&mut self) -> Result<String, String> {
        let (name, instance) = (self.cursor.text()?, self.cursor.number(4)?);
        let version = self.cursor.number(4)?;
        if name == "ram" {
            self.memory()?;
            return Ok(name);
        }
        let devices = self.description["devices"].as_array().ok_or("no devices are described")?;
        let mut found =
            devices.iter().filter(|device| device["name"] == *name && device["instance_id"] == instance);
        let (Some(device), None) = (found.next(), found.next()) else {
            return Err(format!("{name} {instance} is described not at all, or twice"));
        };
        if device["version"] != version {
            return Err(format!("{name} has version {version}, not {}", device["version"]));
        }
        self.cursor.fields(device, &mut Vec::new())?;
        let key = (name.clone(), instance);
        if self.described.contains(&key) {
            return Err(format!("{name} {instance} comes twice"));
        }
        self.described.push(key);
        Ok(name)
    }

    /// Memory, up to the end of this part.
    fn memory(&mut self) -> Result<(), String> {
        loop {
            let word = self.cursor.number(8)?;
            let (value, flags) = (word & !(PAGE - 1), word & (PAGE - 1));
            if matches!(flags & !0x20, 0x02 | 0x08) && flags & 0x20 == 0 {
                self.cursor.text()?;
            }
            match flags & !0x20 {
                0x02 => {
                    self.cursor.take(1)?;
                }
                0x08 => {
                    self.cursor.take(PAGE as usize)?;
                }
                0x04 => self.blocks(value)?,
                0x200 => {}
                0x10 => return Ok(()),
                _ => return Err(format!("flags {flags:#x} before {:#x}", self.cursor.at)),
            }
        }
    }

    fn blocks(&mut self, mut total: u64) -> Result<(), String> {
        while total > 0 {
            let name = self.cursor.text()?;
            let len = self.cursor.number(8)?;
            total = total.checked_sub(len).ok_or_else(|| format!("{name} is longer than all memory"))?;
            if self.has("x-ignore-shared") {
                self.cursor.take(8)?;
            }
            if self.has("mapped-ram") {
                self.cursor.expect(&1u32.to_be_bytes(), "version of places")?;
                self.cursor.expect(&PAGE.to_be_bytes(), "size of a page")?;
                let (bitmap, pages) = (self.cursor.number(8)?, self.cursor.number(8)?);
                if (bitmap, pages) != (0, 0) {
                    if bitmap != self.cursor.at as u64 || pages % (1 << 20) != 0 {
                        return Err(format!("{name}: places at {bitmap:#x} and {pages:#x}"));
                    }
                    self.cursor.at = 0;
                    self.cursor.take((pages + len) as usize)?;
                }
            }
        }
        Ok(())
    }
}
