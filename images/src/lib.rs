//! Images: pull, unpack, store, push.
#![forbid(unsafe_code)]


