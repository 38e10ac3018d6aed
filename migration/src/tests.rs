//! Machines that move, and settings as clients see them.

mod compressed;
mod hostile;
mod moving;
mod postcopy;
mod relay;

use qapi::types::{MigrationCapability, MigrationCapabilityStatus, MigrationParameters};

use crate::capabilities::Capabilities;
use crate::parameters;
use crate::settings::Settings;

#[test]
fn of_a_capability_that_is_named_twice_the_last_word_counts() {
    let status = |&state| MigrationCapabilityStatus { capability: MigrationCapability::Events, state };
    let mut on = Capabilities::default();
    for (states, result) in [(&[false, true][..], true), (&[], true), (&[true, false], false)] {
        on = on.changed(&states.iter().map(status).collect::<Vec<_>>()).unwrap();
        assert_eq!(on.has(MigrationCapability::Events), result);
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let settings = Settings::default();
    let change = MigrationParameters {
        max_bandwidth: Some(1),
        downtime_limit: Some(2_000_001),
        ..MigrationParameters::default()
    };
    parameters::changed(&settings.parameters, &change).unwrap_err();
    assert_eq!(settings.parameters, parameters::defaults());
}
