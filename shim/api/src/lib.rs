//! ttrpc and the containerd Task API, shared by the shim and its callers.
#![forbid(unsafe_code)]


