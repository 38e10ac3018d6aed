//! `-boot`, as [`BootConfig`].

use hw::core::BootConfig;
use qapi::{Error, Result};
use qom::Input;

use crate::cli::Raw;

/// What the options say together; of each key, the last one counts.
///
/// # Errors
/// QEMU's texts, which do not name the option; and that there is nobody who would show a picture (`splash=`).
pub(crate) fn parse(list: &[Raw]) -> Result<BootConfig> {
    let mut config = BootConfig::default();
    for raw in list {
        let pairs =
            qom::options::keyval(&raw.text, Some("order")).map_err(|e| e.prefixed(&raw.prefix()))?.pairs;
        for (key, text) in &pairs {
            let (name, value) = (format!("boot.{key}"), Input::Keyval(text));
            let switch = || value.to_bool(&name);
            let number = || value.to_int(&name, 64);
            match key.as_str() {
                "order" => config.set_order(text)?,
                "once" => config.set_once(text)?,
                "menu" => config.menu = switch()?,
                // Whether firmware ends with the devices that have an index: there is none that boots from any.
                "strict" => {
                    switch()?;
                }
                "splash-time" => {
                    let out =
                        |_| Error::generic("splash-time is invalid,it should be a value between 0 and 65535");
                    config.splash_time = Some(number()?.try_into().map_err(out)?);
                }
                "reboot-timeout" => {
                    let out = "reboot timeout is invalid,it should be a value between -1 and 65535";
                    config.reboot_timeout = match number()? {
                        time @ -1..=65535 => time as i32,
                        _ => return Err(Error::generic(out)),
                    };
                }
                "splash" => {
                    return Err(
                        Error::generic("there is no firmware that shows a picture").prefixed(&raw.prefix())
                    );
                }
                _ => return Err(Error::generic(format!("Parameter 'boot.{key}' is unexpected"))),
            }
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(texts: &[&str]) -> std::result::Result<BootConfig, String> {
        let raw = |text: &&str| Raw { option: "-boot", text: (*text).to_owned() };
        parse(&texts.iter().map(raw).collect::<Vec<_>>()).map_err(|e| e.desc().to_owned())
    }

    #[test]
    fn options_add_up_and_mistakes_are_answered_as_by_qemu() {
        let config =
            said(&["strict=on,menu=on", "cd,splash-time=5", "once=n,reboot-timeout=65535,menu=off"]).unwrap();
        assert_eq!((config.menu, config.splash_time, config.reboot_timeout), (false, Some(5), 65535));
        assert_eq!((config.cmos(true), config.cmos(false)), (Ok([4, 0]), Ok([0x32, 0])));
        assert_eq!(said(&["strict=on"]), Ok(BootConfig::default()));
        let config = said(&["menu=yes,strict=n,reboot-timeout=010,splash-time=0x10"]).unwrap();
        assert_eq!((config.menu, config.splash_time, config.reboot_timeout), (true, Some(16), 8));
        for (text, error) in [
            ("foo=bar", "Parameter 'boot.foo' is unexpected"),
            ("splash-time=abc", "Parameter 'boot.splash-time' expects integer"),
            ("splash-time=70000", "splash-time is invalid,it should be a value between 0 and 65535"),
            ("reboot-timeout=-2", "reboot timeout is invalid,it should be a value between -1 and 65535"),
            ("strict=maybe", "Parameter 'boot.strict' expects 'on' or 'off'"),
            ("menu=1", "Parameter 'boot.menu' expects 'on' or 'off'"),
            ("reboot-timeout=08", "Parameter 'boot.reboot-timeout' expects integer"),
            ("c,c", "-boot c,c: Expected '=' after parameter 'c'"),
            ("strict", "Invalid boot device 's'"),
            ("once=z", "Invalid boot device 'z'"),
            ("splash=x", "-boot splash=x: there is no firmware that shows a picture"),
        ] {
            assert_eq!(said(&[text]), Err(error.to_owned()), "{text}");
        }
    }
}
