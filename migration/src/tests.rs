//! Settings as clients see them.

use super::*;

fn set(migration: &Migration, states: &[bool]) -> Result<()> {
    let status = |&state| MigrationCapabilityStatus { capability: MigrationCapability::Events, state };
    migration.migrate_set_capabilities(states.iter().map(status).collect())
}

#[test]
fn of_a_capability_that_is_named_twice_the_last_word_counts() {
    let migration = Migration::default();
    let events = || migration.query_migrate_capabilities().unwrap()[0].state;
    assert!(!events());
    set(&migration, &[false, true]).unwrap();
    assert!(events());
    set(&migration, &[]).unwrap();
    assert!(events());
    set(&migration, &[true, false]).unwrap();
    assert!(!events());
}

#[test]
fn what_is_refused_changes_nothing() {
    let migration = Migration::default();
    let change = MigrationParameters {
        max_bandwidth: Some(1),
        downtime_limit: Some(2_000_001),
        ..MigrationParameters::default()
    };
    migration.migrate_set_parameters(change).unwrap_err();
    assert_eq!(migration.query_migrate_parameters().unwrap(), parameters::defaults());
    assert_eq!(migration.query_migrate().unwrap(), MigrationInfo::default());
}
