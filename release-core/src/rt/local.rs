//! The poll(2) runtime (to be written).
