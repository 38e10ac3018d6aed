//! `-boot`: from what firmware is to boot, and how patient it is. There is no firmware here that would follow it; a guest finds it where a PC's firmware
//! does, in the CMOS memory and in `fw_cfg`.

use qapi::{Error, Result};

/// What `-boot` says. Fields that were not given have the values that QEMU's machine has without the option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootConfig {
    /// `order=`: letters of devices (`a`: floppy, `c`: disk, `d`: CD, `n`: network), tried one after another.
    order: String,
    /// `once=`: the order up to the first reset.
    once: Option<String>,
    /// `menu=on`: whether a person may choose.
    pub menu: bool,
    /// `splash-time=`: how long a picture is shown, in milliseconds, 0 to 65535.
    pub splash_time: Option<u16>,
    /// `reboot-timeout=`: after how many milliseconds a machine that found nothing to boot tries again, up to 65535; never if -1.
    pub reboot_timeout: i32,
}

impl Default for BootConfig {
    fn default() -> Self {
        Self { order: "cad".to_owned(), once: None, menu: false, splash_time: None, reboot_timeout: -1 }
    }
}

impl BootConfig {
    /// Sets `order=`.
    ///
    /// # Errors
    /// As [`nibbles`] and QEMU's on letters that stand for no device anywhere, or come twice.
    pub fn set_order(&mut self, letters: &str) -> Result<()> {
        valid(letters)?;
        letters.clone_into(&mut self.order);
        Ok(())
    }

    /// Sets `once=`.
    ///
    /// # Errors
    /// As for [`Self::set_order`].
    pub fn set_once(&mut self, letters: &str) -> Result<()> {
        valid(letters)?;
        self.once = Some(letters.to_owned());
        Ok(())
    }

    /// The CMOS bytes 0x3d and 0x38, `first` before the first reset.
    ///
    /// # Errors
    /// QEMU's, if a PC does not know one of the devices or there are more than three.
    pub fn cmos(&self, first: bool) -> Result<[u8; 2]> {
        let [one, two, three] = nibbles(self.once.as_deref().filter(|_| first).unwrap_or(&self.order))?;
        // The lowest bit of the second would leave out the check of a floppy's signature.
        Ok([two << 4 | one, three << 4])
    }
}

/// Letters `a` to `p`, each once.
fn valid(letters: &str) -> Result<()> {
    for (at, letter) in letters.char_indices() {
        if !('a'..='p').contains(&letter) {
            return Err(Error::generic(format!("Invalid boot device '{letter}'")));
        }
        if letters[..at].contains(letter) {
            return Err(Error::generic(format!("Boot device '{letter}' was given twice")));
        }
    }
    Ok(())
}

/// The numbers that a PC's BIOS has for three devices; 0 is none.
fn nibbles(letters: &str) -> Result<[u8; 3]> {
    let mut numbers = [0; 3];
    if letters.len() > numbers.len() {
        return Err(Error::generic("Too many boot devices for PC"));
    }
    for (number, letter) in numbers.iter_mut().zip(letters.chars()) {
        *number = match letter {
            'a' => 1,
            'c' => 2,
            'd' => 3,
            'n' => 4,
            other => return Err(Error::generic(format!("Invalid boot device for PC: '{other}'"))),
        };
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_numbers_of_devices() {
        let mut boot = BootConfig::default();
        assert_eq!(boot.cmos(true).unwrap(), [0x12, 0x30]);
        boot.set_order("nc").unwrap();
        boot.set_once("d").unwrap();
        assert_eq!((boot.cmos(true).unwrap(), boot.cmos(false).unwrap()), ([0x03, 0], [0x24, 0]));
        for (letters, text) in [
            ("x", "Invalid boot device 'x'"),
            ("cc", "Boot device 'c' was given twice"),
            ("C", "Invalid boot device 'C'"),
        ] {
            assert_eq!(boot.set_order(letters).unwrap_err().desc(), text);
            assert_eq!(boot.set_once(letters).unwrap_err().desc(), text);
        }
        for (letters, text) in
            [("h", "Invalid boot device for PC: 'h'"), ("acdn", "Too many boot devices for PC")]
        {
            boot.set_order(letters).unwrap();
            assert_eq!(boot.cmos(false).unwrap_err().desc(), text);
        }
    }
}
