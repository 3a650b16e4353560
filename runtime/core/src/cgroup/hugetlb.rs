//! hugetlb: huge pages, by page size.

use super::write::{Rule, Write};
use crate::{Error, Result};
use oci_spec::runtime::LinuxHugepageLimit;

/// Writes with the version's suffix: `limit_in_bytes` or `max`. The reservation's
/// limit (`.rsvd`, 5.7) is set to the same where it is there.
pub fn writes(limits: &[LinuxHugepageLimit], suffix: &str, writes: &mut Vec<Write>) -> Result<()> {
    for (index, limit) in limits.iter().enumerate() {
        let size = limit.page_size();
        if size.is_empty() || size.contains(['/', '.']) {
            return Err(Error::config(
                format!("linux.resources.hugepageLimits[{index}].pageSize"),
                format!("{size:?} is no page size; write it as 2MB or 1GB"),
            ));
        }
        writes.push(Write::new(
            format!("hugetlb.{size}.{suffix}"),
            limit.limit(),
        ));
        writes.push(
            Write::new(format!("hugetlb.{size}.rsvd.{suffix}"), limit.limit()).rule(Rule::IfThere),
        );
    }
    Ok(())
}
