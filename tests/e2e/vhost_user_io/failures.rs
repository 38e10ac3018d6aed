//! Back ends that leave.
