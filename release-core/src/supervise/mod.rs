//! Supervision: who runs.
