//! Reading the oracle.
