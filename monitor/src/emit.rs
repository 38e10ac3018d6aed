//! Events on their way to clients: time stamps and rate limits.

use std::time::{SystemTime, UNIX_EPOCH};

use qapi::events::Event;
use qapi::{Dict, Value, json};

/// An event as it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Stamped {
    /// Time of what happened, not of its delivery.
    at: SystemTime,
    name: &'static str,
    data: Option<Dict>,
}

impl Stamped {
    pub(crate) fn new(event: &Event) -> Self {
        Self { at: SystemTime::now(), name: event.name(), data: event.data() }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// What belongs to it, as a trace shows it.
    pub(crate) fn data_text(&self) -> String {
        self.data.as_ref().map(|data| json::to_string(&data.clone().into())).unwrap_or_default()
    }

    /// The object on the wire.
    pub(crate) fn to_value(&self) -> Value {
        let since = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp =
            Dict::new().with("seconds", since.as_secs()).with("microseconds", since.subsec_micros());
        let mut dict = Dict::new().with("timestamp", timestamp).with("event", self.name);
        if let Some(data) = &self.data {
            dict.insert("data", data.clone());
        }
        dict.into()
    }

    /// What the event is limited by: its kind and subject. `None` for events that always pass.
    pub(crate) fn limit(&self) -> Option<(&'static str, String)> {
        let subject = match self.name {
            "MEMORY_DEVICE_SIZE_CHANGE" | "X_PLIANT_UNPLUGGED_ACCESS" => "qom-path",
            "VSERPORT_CHANGE" => "id",
            "RTC_CHANGE" | "WATCHDOG" | "BALLOON_CHANGE" => "",
            _ => return None,
        };
        let value = self.data.as_ref().and_then(|d| d.get(subject)).and_then(Value::as_str);
        Some((self.name, value.unwrap_or("").to_owned()))
    }
}
