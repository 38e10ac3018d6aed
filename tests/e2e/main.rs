//! End-to-end tests of the program: replays of the oracle and tests of our own, each with a machine of its own.

mod harness;
