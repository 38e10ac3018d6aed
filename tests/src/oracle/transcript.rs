//! Recorded sessions as lists of steps.
