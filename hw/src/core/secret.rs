//! `secret`: bytes that a user hands over by text or by file, for whoever needs a key or a password.
//!
//! libvirt makes one with every machine, the key that other secrets of that machine would be encrypted with. Left out: secrets that are
//! (`keyid`), and keys in the kernel (`secret_keyring`). No device here asks for a secret yet.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use qapi::{Error, Result, base64};
use qom::{ObjectCore, ObjectRef, Property, Registry, TypeInfo, UserCreatable, object};

const FORMATS: [&str; 2] = ["raw", "base64"];
const RAW: usize = 0;
/// What else than letters and digits may be in base 64, as QEMU has it.
const BASE64_SIGNS: &[u8] = b"+/=\n";

/// See the module.
pub struct Secret {
    core: ObjectCore,
    settings: Mutex<Settings>,
    /// Since the object is complete. What is set later changes nothing, as in QEMU.
    bytes: OnceLock<Vec<u8>>,
}
object!(Secret, core);

#[derive(Default)]
struct Settings {
    data: Option<String>,
    file: Option<String>,
    keyid: Option<String>,
    iv: Option<String>,
    /// Index into [`FORMATS`].
    format: usize,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nothing of what is in it.
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

impl Secret {
    /// The secret behind an object, if it is one.
    pub fn from_object(object: &ObjectRef) -> Option<Arc<Self>> {
        Arc::clone(object).downcast()
    }

    /// What it is. None while the object is being made.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.bytes.get().map(Vec::as_slice)
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        // Values are assigned whole.
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Settings {
    fn read(&self) -> Result<Vec<u8>> {
        let written = match (&self.data, &self.file) {
            (Some(_), Some(_)) => return Err(Error::generic("'file' and 'data' are mutually exclusive")),
            (None, None) => return Err(Error::generic("Either 'file' or 'data' must be provided")),
            (Some(data), None) => data.clone().into_bytes(),
            (None, Some(path)) => read_file(path)?,
        };
        if let Some(key) = &self.keyid {
            let text =
                format!("the secret is encrypted with '{key}', and encrypted secrets are not supported");
            return Err(Error::generic(text));
        }
        if self.format == RAW { Ok(written) } else { decode(&written) }
    }
}

fn read_file(path: &str) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let failed = |what: &str, error: std::io::Error| {
        let reason = qapi::strerror(&error);
        Error::generic(format!("Unable to read {path}: {what} file “{path}”: {reason}"))
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .map_err(|e| failed("Failed to open", e))?
        .read_to_end(&mut bytes)
        .map_err(|e| failed("Error reading", e))?;
    Ok(bytes)
}

/// What base 64 with line ends in it stands for. Of padding nothing is demanded, and digits of which there is no byte are dropped.
fn decode(text: &[u8]) -> Result<Vec<u8>> {
    if text.contains(&0) {
        return Err(Error::generic("Base64 data contains embedded NUL characters"));
    }
    let invalid = || Error::generic("Base64 data contains invalid characters");
    if text.iter().any(|b| !b.is_ascii_alphanumeric() && !BASE64_SIGNS.contains(b)) {
        return Err(invalid());
    }
    let mut digits: String =
        text.iter().filter(|b| !matches!(b, b'\n' | b'=')).map(|b| char::from(*b)).collect();
    match digits.len() % 4 {
        0 => {}
        1 => drop(digits.pop()),
        left => digits.extend(std::iter::repeat_n('=', 4 - left)),
    }
    base64::decode(&digits).ok_or_else(invalid)
}

impl UserCreatable for Secret {
    fn complete(&self) -> Result<()> {
        let bytes = self.settings().read()?;
        self.bytes.get_or_init(|| bytes);
        Ok(())
    }
}

type Field = fn(&mut Settings) -> &mut Option<String>;

fn text((name, field): (&'static str, Field)) -> Property {
    Property::new(name, "string")
        .get(move |secret: &Secret| Ok(field(&mut secret.settings()).clone().unwrap_or_default().into()))
        .set(move |secret: &Secret, value, name| {
            let value = value.to_str(name)?.to_owned();
            *field(&mut secret.settings()) = Some(value);
            Ok(())
        })
}

fn format() -> Property {
    Property::new("format", "QCryptoSecretFormat")
        .values(&FORMATS)
        .get(|secret: &Secret| Ok(FORMATS[secret.settings().format].into()))
        .set(|secret: &Secret, value, name| {
            secret.settings().format = value.to_enum(name, &FORMATS)?;
            Ok(())
        })
}

/// Registers the classes.
pub(super) fn register(registry: &mut Registry) {
    let common: [(&'static str, Field); 2] = [("keyid", |s| &mut s.keyid), ("iv", |s| &mut s.iv)];
    let own: [(&'static str, Field); 2] = [("data", |s| &mut s.data), ("file", |s| &mut s.file)];
    registry.register(
        TypeInfo::new("secret_common")
            .interface("user-creatable")
            .property(format())
            .properties(common.map(text)),
    );
    registry.register(
        TypeInfo::new("secret")
            .parent("secret_common")
            .instance(|class| {
                let (settings, bytes) = (Mutex::default(), OnceLock::new());
                Arc::new(Secret { core: ObjectCore::new(class), settings, bytes })
            })
            .cast::<Secret, dyn UserCreatable>(|secret| secret)
            .properties(own.map(text)),
    );
}

#[cfg(test)]
mod tests;
