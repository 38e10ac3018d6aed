//! `-display`, `-audio` and `-audiodev`: a screen and sound, of which there is none. To ask for none is no mistake: scripts always do.

use qapi::{Error, Result, Value, json};
use qom::options;

use crate::cli::{CommandLine, Raw};

/// `-display`: there is none but `none`.
///
/// # Errors
/// QEMU's, with the option's prefix.
pub(crate) fn check_display(line: &CommandLine) -> Result<()> {
    let Some(raw) = &line.display else { return Ok(()) };
    let at = |e: Error| e.prefixed(&raw.prefix());
    let parsed = options::keyval(&raw.text, Some("type")).map_err(at)?;
    let missing = || at(Error::generic("Parameter 'type' is missing"));
    match options::value(&parsed.pairs, "type").ok_or_else(missing)? {
        "none" => match parsed.pairs.iter().find(|(k, _)| k != "type") {
            None => Ok(()),
            Some((key, _)) => Err(at(Error::generic(format!("Parameter '{key}' is unexpected")))),
        },
        other => {
            let known = ["gtk", "sdl", "vnc", "curses", "spice-app", "dbus", "egl-headless", "default"];
            let text = if known.contains(&other) {
                format!("Display '{other}' is not available, please use '-display none'")
            } else {
                format!("Parameter 'type' does not accept value '{other}'")
            };
            Err(at(Error::generic(text)))
        }
    }
}

/// `-audio`: the driver is `none`, and there are no sound cards to connect it with.
///
/// # Errors
/// QEMU's, with the option's prefix.
pub(crate) fn check_audio(line: &CommandLine) -> Result<()> {
    let at = |raw: &Raw, result: Result<()>| result.map_err(|e| e.prefixed(&raw.prefix()));
    line.audio.iter().try_for_each(|raw| at(raw, audio(raw)))?;
    line.audio_devices.iter().try_for_each(|raw| at(raw, audio_device(raw)))
}

/// `-audiodev`: silence that has a name, for sound cards, of which there are none. The name may come twice, as in QEMU.
fn audio_device(raw: &Raw) -> Result<()> {
    let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
    let pairs: Vec<(String, String)> = if raw.is_json() {
        match json::parse(&raw.text)? {
            Value::Dict(dict) => dict.iter().map(|(key, value)| (key.to_owned(), text(value))).collect(),
            _ => return Err(Error::generic("Invalid parameter type for 'audiodev', expected: object")),
        }
    } else {
        options::keyval(&raw.text, Some("driver"))?.pairs
    };
    let get = |key| {
        let missing = || Error::generic(format!("Parameter '{key}' is missing"));
        options::value(&pairs, key).ok_or_else(missing)
    };
    get("id")?;
    driver(get("driver")?, "-audiodev none")?;
    // How often silence is not played, and in which form.
    let settings = |key: &str| {
        let key = key.split_once('.').map_or(key, |(head, _)| head);
        ["id", "driver", "timer-period", "in", "out"].contains(&key)
    };
    match pairs.iter().find(|(key, _)| !settings(key)) {
        None => Ok(()),
        Some((key, _)) => Err(Error::generic(format!("Parameter '{key}' is unexpected"))),
    }
}

/// Whether `name` is the one driver that there is; `instead` is what to ask for.
fn driver(name: &str, instead: &str) -> Result<()> {
    let known = ["alsa", "oss", "wav", "pa", "pipewire", "sdl", "jack", "sndio", "dbus", "spice"];
    match name {
        "none" => Ok(()),
        name if known.contains(&name) => {
            Err(Error::generic(format!("Audio driver '{name}' is not available, please use '{instead}'")))
        }
        name => Err(Error::generic(format!("Parameter 'driver' does not accept value '{name}'"))),
    }
}

fn audio(raw: &Raw) -> Result<()> {
    let parsed = options::keyval(&raw.text, Some("driver"))?;
    let text = match options::value(&parsed.pairs, "driver") {
        None => "Parameter 'driver' is missing".to_owned(),
        Some("none") => {
            match parsed.pairs.iter().find(|(key, _)| !["driver", "id"].contains(&key.as_str())) {
                None => return Ok(()),
                Some((key, model)) if key == "model" => format!("Unknown sound card name `{model}'"),
                Some((key, _)) => format!("Parameter '{key}' is unexpected"),
            }
        }
        Some(other) => return driver(other, "-audio none"),
    };
    Err(Error::generic(text))
}
