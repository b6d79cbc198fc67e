//! The suite (to be written).
