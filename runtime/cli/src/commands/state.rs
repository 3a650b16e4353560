//! `rrun state`.

use crate::args::{self, Global};
use rrun_core::Result;
use rrun_core::container::{Container, Record, Status};
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;

/// What runc prints of a container, in `state` and `list --format json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View<'a> {
    oci_version: &'a str,
    id: &'a str,
    /// 0 when stopped.
    pub pid: i32,
    /// As "running".
    pub status: &'static str,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a HashMap<String, String>>,
    /// Name of the user who owns it.
    pub owner: String,
}

impl<'a> View<'a> {
    /// Of `container` as it is now.
    pub fn new(container: &'a Container) -> Result<Self> {
        let status = container.status()?;
        let record: &Record = &container.record;
        Ok(Self {
            oci_version: &record.oci_version,
            id: &record.id,
            pid: if status == Status::Stopped {
                0
            } else {
                record.init_process_pid
            },
            status: status.as_str(),
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: &record.created,
            annotations: record.annotations.as_ref(),
            owner: container.owner(),
        })
    }
}

/// Prints the state of a container as JSON.
pub fn run(global: &Global, parser: lexopt::Parser) -> Result<u8> {
    let id = args::only_id(parser)?;
    let container = Container::load(&global.root, &id)?;
    let view = View::new(&container)?;
    let text = serde_json::to_string_pretty(&view).expect("a view is plain data");
    args::print(&format!("{text}\n"))?;
    Ok(0)
}
