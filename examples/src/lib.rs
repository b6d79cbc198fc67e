//! The backend that a feature picks.
