//! Scan codes: what a keyboard says in each of its three sets when a key goes down or up.
//!
//! IBM PS/2 Technical Reference, "Keyboard (101- and 102-key)", scan code sets 1, 2 and 3; Microsoft, "Keyboard Scan Code
//! Specification" for the Windows and media keys; the keys of Sun and Japanese keyboards are those of the Linux kernel's tables. Set 2 is
//! had from set 1 by the controller's own table of translation, backwards.

use qapi::types::QKeyCode::{self, *};

/// What comes before a code of 128 and more, in set 1 (and 2).
const EXTENDED: u8 = 0xe0;
/// What comes before the two bytes of the pause key.
const PAUSE: u8 = 0xe1;
/// Before a code in sets 2 and 3, the key goes up.
const UP: u8 = 0xf0;
/// The same in set 1: a bit of the code.
const UP_BIT: u8 = 0x80;

/// Sets of scan codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Set {
    /// That of the PC/XT.
    One = 1,
    /// That of the AT, which keyboards speak at first.
    Two = 2,
    /// That of terminals.
    Three = 3,
}

impl Set {
    /// Set `number`.
    pub fn of_number(number: u8) -> Option<Self> {
        [Self::One, Self::Two, Self::Three].into_iter().find(|set| *set as u8 == number)
    }
}

/// Modifiers that are held: they change what the keys Print and Pause say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held(u8);

impl Held {
    const KEYS: [QKeyCode; 6] = [Shift, ShiftR, Ctrl, CtrlR, Alt, AltR];

    fn bit(key: QKeyCode) -> u8 {
        Self::KEYS.iter().position(|held| *held == key).map_or(0, |at| 1 << at)
    }

    fn any(self, keys: &[QKeyCode]) -> bool {
        keys.iter().any(|key| self.0 & Self::bit(*key) != 0)
    }

    /// Takes note that `key` went down or up.
    pub fn note(&mut self, key: QKeyCode, down: bool) {
        let bit = Self::bit(key);
        self.0 = if down { self.0 | bit } else { self.0 & !bit };
    }

    /// A bit for each.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The reverse, unless there is a bit of no key.
    pub fn of_bits(bits: u8) -> Option<Self> {
        (bits < 1 << Self::KEYS.len()).then_some(Self(bits))
    }
}

/// A key; its number, which is its code in set 1, with bit 7 if that comes behind E0; its code in set 3, 0 if it has none.
type Row = (QKeyCode, u8, u8);

#[rustfmt::skip]
const KEYS: &[Row] = &[
    (Shift, 0x2a, 0x12), (ShiftR, 0x36, 0x59), (Alt, 0x38, 0x19), (AltR, 0xb8, 0x39), (Ctrl, 0x1d, 0x11),
    (CtrlR, 0x9d, 0x58), (Menu, 0x9e, 0x91), (Esc, 0x01, 0x08), (N1, 0x02, 0x16), (N2, 0x03, 0x1e),
    (N3, 0x04, 0x26), (N4, 0x05, 0x25), (N5, 0x06, 0x2e), (N6, 0x07, 0x36), (N7, 0x08, 0x3d), (N8, 0x09, 0x3e),
    (N9, 0x0a, 0x46), (N0, 0x0b, 0x45), (Minus, 0x0c, 0x4e), (Equal, 0x0d, 0x55), (Backspace, 0x0e, 0x66),
    (Tab, 0x0f, 0x0d), (Q, 0x10, 0x15), (W, 0x11, 0x1d), (E, 0x12, 0x24), (R, 0x13, 0x2d), (T, 0x14, 0x2c),
    (Y, 0x15, 0x35), (U, 0x16, 0x3c), (I, 0x17, 0x43), (O, 0x18, 0x44), (P, 0x19, 0x4d),
    (BracketLeft, 0x1a, 0x54), (BracketRight, 0x1b, 0x5b), (Ret, 0x1c, 0x5a), (A, 0x1e, 0x1c), (S, 0x1f, 0x1b),
    (D, 0x20, 0x23), (F, 0x21, 0x2b), (G, 0x22, 0x34), (H, 0x23, 0x33), (J, 0x24, 0x3b), (K, 0x25, 0x42),
    (L, 0x26, 0x4b), (Semicolon, 0x27, 0x4c), (Apostrophe, 0x28, 0x52), (GraveAccent, 0x29, 0x0e),
    (Backslash, 0x2b, 0x5c), (Z, 0x2c, 0x1a), (X, 0x2d, 0x22), (C, 0x2e, 0x21), (V, 0x2f, 0x2a),
    (B, 0x30, 0x32), (N, 0x31, 0x31), (M, 0x32, 0x3a), (Comma, 0x33, 0x41), (Dot, 0x34, 0x49),
    (Slash, 0x35, 0x4a), (Asterisk, 0x37, 0x7e), (Spc, 0x39, 0x29), (CapsLock, 0x3a, 0x14), (F1, 0x3b, 0x07),
    (F2, 0x3c, 0x0f), (F3, 0x3d, 0x17), (F4, 0x3e, 0x1f), (F5, 0x3f, 0x27), (F6, 0x40, 0x2f), (F7, 0x41, 0x37),
    (F8, 0x42, 0x3f), (F9, 0x43, 0x47), (F10, 0x44, 0x4f), (NumLock, 0x45, 0x76), (ScrollLock, 0x46, 0x5f),
    (KpDivide, 0xb5, 0x4a), (KpMultiply, 0x37, 0x7e), (KpSubtract, 0x4a, 0x4e), (KpAdd, 0x4e, 0x7c),
    (KpEnter, 0x9c, 0x79), (KpDecimal, 0x53, 0x71), (Sysrq, 0x54, 0x57), (Kp0, 0x52, 0x70), (Kp1, 0x4f, 0x69),
    (Kp2, 0x50, 0x72), (Kp3, 0x51, 0x7a), (Kp4, 0x4b, 0x6b), (Kp5, 0x4c, 0x73), (Kp6, 0x4d, 0x74),
    (Kp7, 0x47, 0x6c), (Kp8, 0x48, 0x75), (Kp9, 0x49, 0x7d), (Less, 0x56, 0x13), (F11, 0x57, 0x56),
    (F12, 0x58, 0x5e), (Print, 0xb7, 0x57), (Home, 0xc7, 0x6e), (Pgup, 0xc9, 0x6f), (Pgdn, 0xd1, 0x6d),
    (End, 0xcf, 0x65), (Left, 0xcb, 0x61), (Up, 0xc8, 0x63), (Down, 0xd0, 0x60), (Right, 0xcd, 0x6a),
    (Insert, 0xd2, 0x67), (Delete, 0xd3, 0x64), (Stop, 0xe8, 0x0a), (Again, 0x85, 0x0b), (Props, 0x86, 0x0c),
    (Undo, 0x87, 0x10), (Front, 0x8c, 0x00), (Copy, 0xf8, 0x18), (Open, 0x64, 0x20), (Paste, 0x65, 0x28),
    (Find, 0xc1, 0x30), (Cut, 0xbc, 0x38), (Lf, 0x5b, 0x00), (Help, 0xf5, 0x09), (MetaL, 0xdb, 0x8b),
    (MetaR, 0xdc, 0x8c), (Compose, 0xdd, 0x8d), (Pause, 0xc6, 0x62), (Ro, 0x73, 0x00), (Hiragana, 0x77, 0x87),
    (Henkan, 0x79, 0x86), (Yen, 0x7d, 0x5d), (Muhenkan, 0x7b, 0x85), (Katakanahiragana, 0x70, 0x87),
    (KpComma, 0x7e, 0x00), (KpEquals, 0x59, 0x00), (Power, 0xde, 0x00), (Sleep, 0xdf, 0x00), (Wake, 0xe3, 0x00),
    (Audionext, 0x99, 0x93), (Audioprev, 0x90, 0x94), (Audiostop, 0xa4, 0x98), (Audioplay, 0xa2, 0x00),
    (Audiomute, 0xa0, 0x9c), (Volumeup, 0xb0, 0x95), (Volumedown, 0xae, 0x9d), (Mediaselect, 0xed, 0x00),
    (Mail, 0xec, 0x00), (Calculator, 0xa1, 0xa3), (Computer, 0xeb, 0x00), (AcHome, 0xb2, 0x97),
    (AcBack, 0xea, 0x00), (AcForward, 0xe9, 0x00), (AcRefresh, 0xe7, 0x00), (AcBookmarks, 0xe6, 0x00),
    (Lang1, 0x72, 0x00), (Lang2, 0x71, 0x00), (F13, 0x5d, 0x7f), (F14, 0x5e, 0x80), (F15, 0x5f, 0x81),
    (F16, 0x55, 0x82), (F17, 0x83, 0x83), (F18, 0xf7, 0x00), (F19, 0x84, 0x00), (F20, 0x5a, 0x00),
    (F21, 0x74, 0x00), (F22, 0xf9, 0x00), (F23, 0x6d, 0x00), (F24, 0x6f, 0x00),
];

/// Keys that set 2 (and so whoever has it translated) lacks.
const NOT_IN_SET_2: [QKeyCode; 23] = [
    Menu, Again, Props, Undo, Front, Copy, Open, Paste, Find, Cut, Lf, Help, Lang1, Lang2, F16, F17, F18,
    F19, F20, F21, F22, F23, F24,
];

/// What codes of set 2 are translated to; those beyond stay as they are.
#[rustfmt::skip]
const TRANSLATED: [u8; 0x85] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
    0x80, 0x81, 0x82, 0x41, 0x54,
];

/// What the controller makes of a byte of the keyboard, if it translates.
pub fn translate(byte: u8) -> u8 {
    TRANSLATED.get(usize::from(byte)).copied().unwrap_or(byte)
}

/// The code in set 2 that is translated to that one of set 1. Of two, the higher one is it: F7 is 83, System Request 84.
fn untranslated(code: u8) -> u8 {
    TRANSLATED.iter().rposition(|to| *to == code).map_or(code, |at| at as u8)
}

/// The key that has that number.
pub fn of_number(number: i64) -> Option<QKeyCode> {
    KEYS.iter().find(|(_, own, _)| i64::from(*own) == number).map(|(key, _, _)| *key)
}

/// What the keyboard says when `key` goes `down` or up while others are `held`.
pub fn bytes(key: QKeyCode, down: bool, held: Held, set: Set, translated: bool) -> Vec<u8> {
    let Some((_, number, third)) = KEYS.iter().find(|(own, _, _)| *own == key).copied() else {
        return Vec::new();
    };
    match (set, translated) {
        (Set::Three, _) if third == 0 => Vec::new(),
        (Set::Three, true) => vec![translate(third) | if down { 0 } else { UP_BIT }],
        (Set::Three, false) if down => vec![third],
        (Set::Three, false) => vec![UP, third],
        (Set::One, false) => first(key, number, down, held),
        (Set::One, true) => first(key, number, down, held).into_iter().map(translate).collect(),
        (Set::Two, _) if NOT_IN_SET_2.contains(&key) => Vec::new(),
        (Set::Two, true) => first(key, number, down, held),
        (Set::Two, false) => second(&first(key, number, down, held)),
    }
}

/// The same in set 1.
fn first(key: QKeyCode, number: u8, down: bool, held: Held) -> Vec<u8> {
    let up = if down { 0 } else { UP_BIT };
    match key {
        Print | Sysrq => print(down, held),
        // It is up again at once.
        Pause if !down => Vec::new(),
        Pause if held.any(&[Ctrl, CtrlR]) => vec![EXTENDED, 0x46, EXTENDED, 0x46 | UP_BIT],
        Pause => vec![PAUSE, 0x1d, 0x45, PAUSE, 0x1d | UP_BIT, 0x45 | UP_BIT],
        // They are told of when they go down, and no more.
        Lang1 | Lang2 if !down => Vec::new(),
        _ if number & UP_BIT != 0 => vec![EXTENDED, number & !UP_BIT | up],
        _ => vec![number | up],
    }
}

/// Print Screen was made of the asterisk of the number pad, with Shift, and System Request was on it with Alt.
fn print(down: bool, held: Held) -> Vec<u8> {
    let alts = [(Alt, &[0x38u8][..]), (AltR, &[EXTENDED, 0x38])];
    if let Some((_, alt)) = alts.into_iter().find(|(key, _)| held.any(&[*key])) {
        let (prefix, code) = (&alt[..alt.len() - 1], 0x38);
        let tap = [prefix, &[code | UP_BIT], prefix, &[code]].concat();
        return if down { [&tap[..], &[0x54]].concat() } else { [&[0x54 | UP_BIT], &tap[..]].concat() };
    }
    if held.any(&[Shift, ShiftR, Ctrl, CtrlR]) {
        return vec![EXTENDED, if down { 0x37 } else { 0x37 | UP_BIT }];
    }
    if down { vec![EXTENDED, 0x2a, EXTENDED, 0x37] } else { vec![EXTENDED, 0xb7, EXTENDED, 0xaa] }
}

/// Bytes of set 1 in set 2.
fn second(first: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in first {
        match *byte {
            prefix @ (EXTENDED | PAUSE) => out.push(prefix),
            code if code & UP_BIT != 0 => out.extend([UP, untranslated(code & !UP_BIT)]),
            code => out.push(untranslated(code)),
        }
    }
    out
}
