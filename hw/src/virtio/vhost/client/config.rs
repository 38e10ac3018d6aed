//! The configuration space of a client's device, which the back end has: kept here, so that no vCPU waits for it.

use std::sync::Weak;
use std::sync::atomic::Ordering;

use super::super::channel::Fault;
use super::{Client, Job, unpoisoned};

impl Client {
    /// The configuration space as the back end last told it.
    pub(in super::super) fn config(&self) -> Vec<u8> {
        unpoisoned(&self.config).clone()
    }

    /// Writes `data` into the configuration space: here at once, at the back end soon.
    pub(in super::super) fn set_config(&self, offset: usize, data: &[u8]) {
        {
            let mut config = unpoisoned(&self.config);
            let Some(place) = config.get_mut(offset..).and_then(|rest| rest.get_mut(..data.len())) else {
                return;
            };
            place.copy_from_slice(data);
        }
        // Inside the configuration space, which is short.
        self.post(Job::SetConfig(offset as u32, data.to_vec()));
    }

    pub(super) fn ask_for_config(&self) {
        // One question answers for all changes before it.
        if !self.config_asked.swap(true, Ordering::AcqRel) {
            self.post(Job::Config);
        }
    }

    /// Asks for the configuration space and waits for it, and tells the driver even if it is the same. Main loop thread.
    ///
    /// # Errors
    /// There is no back end, or it did not answer: then it is sent away.
    pub(in super::super) fn sync_config(&self) -> qapi::Result<()> {
        let config = {
            let mut session = unpoisoned(&self.session);
            let Some(link) = session.link() else {
                return Err(qapi::Error::generic(format!("{}: the back end is not connected", self.title)));
            };
            match link.front.config(self.needs.config, self.deadline()) {
                Ok(config) => config,
                Err(fault) => {
                    let error = format!("{}: the configuration space cannot be read: {fault}", self.title);
                    self.lose_now(&mut session, &fault);
                    return Err(qapi::Error::generic(error));
                }
            }
        };
        *unpoisoned(&self.config) = config;
        self.tell_config();
        Ok(())
    }

    pub(super) fn fetch_config(&self) {
        self.config_asked.store(false, Ordering::Release);
        let config = {
            let mut session = unpoisoned(&self.session);
            let Some(link) = session.link() else { return };
            match link.front.config(self.needs.config, self.deadline()) {
                Ok(config) => config,
                Err(fault) => return self.lose_now(&mut session, &fault),
            }
        };
        let before = std::mem::replace(&mut *unpoisoned(&self.config), config.clone());
        if before != config {
            self.tell_config();
        }
    }

    pub(super) fn tell_config(&self) {
        if let Some(owner) = self.owner.get().and_then(Weak::upgrade) {
            owner.config_changed();
        }
    }

    pub(super) fn send_config(&self, offset: u32, data: &[u8]) {
        let mut session = unpoisoned(&self.session);
        let Some(link) = session.link() else { return };
        match link.front.set_config(offset, data, self.deadline()) {
            Ok(()) => {}
            Err(Fault::Refused(_)) => tracing::error!("set device config space failed"),
            Err(fault) => self.lose_now(&mut session, &fault),
        }
    }
}
