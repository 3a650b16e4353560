//! Session keyrings.
