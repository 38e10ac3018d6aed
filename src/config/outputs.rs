//! `-display` and `-audio`: a screen and sound, of which there is none. To ask for none is no mistake: scripts always do.

use qapi::{Error, Result};
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
    line.audio.iter().try_for_each(|raw| audio(raw).map_err(|e| e.prefixed(&raw.prefix())))
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
        Some(driver)
            if ["alsa", "oss", "wav", "pa", "pipewire", "sdl", "jack", "sndio", "dbus", "spice"]
                .contains(&driver) =>
        {
            format!("Audio driver '{driver}' is not available, please use '-audio none'")
        }
        Some(driver) => format!("Parameter 'driver' does not accept value '{driver}'"),
    };
    Err(Error::generic(text))
}
