//! walking
