use super::super::config::PciInfo;
use super::*;

fn header() -> ConfigSpace {
    ConfigSpace::new(&PciInfo { bridge: true, ..PciInfo::new(0x1b36, 1, 0x0604) })
}

#[test]
fn windows_are_read_back_as_they_were_assigned() {
    let mut config = header();
    for (window, range) in [
        (Window::Io, (0x2000, 0x3fff)),
        (Window::Memory, (0xfe60_0000, 0xfe7f_ffff)),
        (Window::Prefetch, (0x80_0000_0000, 0x81_001f_ffff)),
    ] {
        window.assign(&mut config, Some(range));
        assert_eq!(window.range(&config), range, "{window:?}");
        window.assign(&mut config, None);
        let (first, last) = window.range(&config);
        assert!(first > last, "{window:?} is closed: {first:#x} {last:#x}");
    }
}

#[test]
fn nothing_is_forwarded_while_decoding_is_off() {
    let mut config = header();
    for window in Window::ALL {
        window.assign(&mut config, Some((0x10_0000, 0x1f_ffff)).filter(|_| window != Window::Io));
    }
    Window::Io.assign(&mut config, Some((0x1000, 0x1fff)));
    assert_eq!(Window::ALL.map(|w| w.forwarded(&config)), [None; 3]);
    config.write(reg::COMMAND, 2, COMMAND_MEMORY.into());
    assert_eq!(
        Window::ALL.map(|w| w.forwarded(&config)),
        [None, Some((0x10_0000, 0x1f_ffff)), Some((0x10_0000, 0x1f_ffff))]
    );
    config.write(reg::COMMAND, 2, COMMAND_IO.into());
    assert_eq!(Window::Io.forwarded(&config), Some((0x1000, 0x1fff)));
}

#[test]
fn the_header_has_the_bits_of_qemus() {
    let mut config = header();
    for offset in (0x10..0x40).step_by(4) {
        config.write(offset, 4, u32::MAX);
    }
    let words: Vec<u32> = (0x18..0x34).step_by(4).map(|at| config.get32(at)).collect();
    assert_eq!(words, [0x00ff_ffff, 0xf0f0, 0xfff0_fff0, 0xfff1_fff1, u32::MAX, u32::MAX, 0]);
}
