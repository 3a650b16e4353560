//! Layers into directories.

/// Bounds against hostile layers. A layer beyond one is refused with the entry named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one uncompressed layer.
    pub layer_bytes: u64,
    /// Entries of one layer.
    pub layer_entries: u64,
    /// How often larger the uncompressed layer may be than the compressed one, beyond the
    /// first 64 MiB.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 64 << 30,
            layer_entries: 4_000_000,
            ratio: 1100,
        }
    }
}
