//! Bounds against hostile layers.

use rrun_images::Limits;

use crate::text::parse_bytes;

#[derive(clap::Args)]
pub struct LimitArgs {
    /// Refuse a layer that unpacks to more, in bytes or as in 10g [default: 64g]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_layer_size: Option<i64>,
    /// Refuse a layer of more entries [default: 4000000]
    #[arg(long, value_name = "N")]
    max_layer_entries: Option<u64>,
    /// Refuse a layer that unpacks to more than N times its size [default: 1100]
    #[arg(long, value_name = "N")]
    max_ratio: Option<u64>,
}

impl LimitArgs {
    pub fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        if let Some(size) = self.max_layer_size {
            limits.layer_bytes = u64::try_from(size).unwrap_or(0);
        }
        limits.layer_entries = self.max_layer_entries.unwrap_or(limits.layer_entries);
        limits.ratio = self.max_ratio.unwrap_or(limits.ratio);
        limits
    }
}
