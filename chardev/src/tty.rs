//! Terminal modes, and the size of a terminal.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, tcgetattr,
    tcgetwinsize, tcsetattr,
};

/// The program's own terminal.
#[derive(Debug, Clone)]
pub struct Terminal(Arc<OwnedFd>);

impl Terminal {
    /// The terminal that `fd` is.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }

    /// Its width in columns now; `None` if it does not say.
    pub fn columns(&self) -> Option<u16> {
        tcgetwinsize(self.0.as_fd()).ok().map(|size| size.ws_col).filter(|columns| *columns > 0)
    }
}

/// `saved` changed for a terminal whose user types to a device: characters at once and unchanged, no echo, output
/// still with carriage returns added, and Ctrl-C a signal only if asked.
pub(crate) fn interactive(saved: &Termios, signal: bool) -> Termios {
    let mut mode = saved.clone();
    mode.input_modes -= InputModes::IGNBRK
        | InputModes::BRKINT
        | InputModes::PARMRK
        | InputModes::ISTRIP
        | InputModes::INLCR
        | InputModes::IGNCR
        | InputModes::ICRNL
        | InputModes::IXON;
    mode.output_modes |= OutputModes::OPOST;
    mode.local_modes -= LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::IEXTEN;
    if !signal {
        mode.local_modes -= LocalModes::ISIG;
    }
    mode.control_modes -= ControlModes::CSIZE | ControlModes::PARENB;
    mode.control_modes |= ControlModes::CS8;
    mode.special_codes[SpecialCodeIndex::VMIN] = 1;
    mode.special_codes[SpecialCodeIndex::VTIME] = 0;
    mode
}

/// Raw mode, for the far side of a pty: bytes pass unchanged.
pub(crate) fn make_raw(fd: BorrowedFd<'_>) {
    if let Ok(mut mode) = tcgetattr(fd) {
        mode.make_raw();
        set(fd, &mode);
    }
}

/// Raw mode at 115200 baud, 8 bits, no parity, one stop bit. Something that is no terminal is used as it is.
pub(crate) fn make_serial_line(fd: BorrowedFd<'_>) {
    const BAUD: u32 = 115_200;
    if let Ok(mut mode) = tcgetattr(fd) {
        mode.make_raw();
        mode.control_modes -= ControlModes::CSTOPB | ControlModes::PARENB;
        mode.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
        // A line that cannot do this speed keeps its own.
        let _ = mode.set_speed(BAUD);
        set(fd, &mode);
    }
}

/// Sets a mode; a terminal that went away needs none.
pub(crate) fn set(fd: BorrowedFd<'_>, mode: &Termios) {
    let _ = tcsetattr(fd, OptionalActions::Now, mode);
}
