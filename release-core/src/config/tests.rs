//! Tests of the configuration, by subject.
