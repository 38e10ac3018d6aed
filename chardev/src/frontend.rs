//! What a user of a character device implements.

/// Something other than data that happens to a character device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(alias = "QEMUChrEvent")]
pub enum CharEvent {
    /// The far end is there: a client connected, or a back end that is always open was attached.
    Opened,
    /// The far end went away.
    Closed,
    /// A break condition (Ctrl-A b, telnet BRK, `chardev-send-break`).
    Break,
    /// This front end of a mux now has the terminal.
    MuxIn,
    /// Another front end of the mux has the terminal. Output written now is shown all the same; a monitor holds it back.
    MuxOut,
}

/// The device's side of a character device. All functions are called on the loop thread, one at a time, with no lock
/// of `chardev` held: they may write, detach and attach.
pub trait Frontend: Send {
    /// How many bytes [`Self::read`] may be given now. 0 stops the host side until [`crate::Port::accept_input`].
    fn can_read(&mut self) -> usize;

    /// Input: at most as many bytes as the last [`Self::can_read`] said, at least one.
    fn read(&mut self, data: &[u8]);

    /// Something happened. `Opened` and `Closed` alternate, starting with `Opened`; a mux tells `MuxIn` or `MuxOut`
    /// before the first `Opened`.
    fn event(&mut self, event: CharEvent);

    /// The queue has drained after [`crate::Port::write`] took less than it was given or
    /// [`crate::Port::is_congested`] said yes.
    fn writable(&mut self) {}

    /// Whether it goes on when another host side takes the place of this one (`chardev-change`): it hears `Closed` and `Opened`, if
    /// both were there. Asked once, before anything else.
    #[doc(alias = "chr_be_change")]
    fn supports_change(&self) -> bool {
        false
    }

    /// Whether input that is already here must be read although its sender left: true for a monitor
    /// (`echo quit | nc`), false for a serial port, whose next client must not wait for the guest.
    fn must_drain(&self) -> bool {
        false
    }
}
