//! What is done when a watchdog of the guest expires: `-watchdog-action`, `set-action`, and the event `WATCHDOG`.

use std::sync::Arc;

use qapi::events::Event;
use qapi::types::{RunState, ShutdownCause, WatchdogAction};

use super::machine::Machine;

impl Machine {
    /// A watchdog of the guest expired. Any thread, with no lock held; what follows is carried out on the main loop's.
    pub fn watchdog_expired(self: &Arc<Self>) {
        self.post(Self::run_watchdog);
    }

    fn run_watchdog(self: &Arc<Self>) {
        if self.has_ended() {
            return;
        }
        let action = self.actions().watchdog;
        self.send(Event::Watchdog { action });
        match action {
            WatchdogAction::Reset => {
                self.request_reset(ShutdownCause::GuestReset);
                self.carry_out_requests();
            }
            WatchdogAction::Shutdown => {
                self.request_powerdown();
                self.carry_out_requests();
            }
            WatchdogAction::Poweroff => self.end(0, None),
            WatchdogAction::Pause => self.vm_stop(RunState::Watchdog),
            WatchdogAction::Debug => tracing::error!("watchdog: timer fired"),
            WatchdogAction::None => {}
            WatchdogAction::InjectNmi => {
                if let Err(error) = self.accel().inject_nmi() {
                    tracing::warn!("the watchdog's interrupt reaches nobody: {}", error.desc());
                }
            }
        }
    }
}
