//! `checkpoint`: a container's processes into image files.

use super::rpc::{Message, kind};
use super::{DESCRIPTORS, Options, Service, common, config_file, directory, external};
use crate::container::{Container, Status};
use crate::{Context, Error, Result};
use rrun_sys::path;
use std::os::fd::AsFd;
use std::path::Path;

const LOG: &str = "dump.log";

/// Saves `container`. It goes on only with `leave_running` or `pre_dump`; otherwise its processes
/// are gone, and the caller removes it.
pub fn checkpoint(container: &Container, options: &Options) -> Result<()> {
    match container.status()? {
        Status::Created | Status::Stopped | Status::Creating => {
            let status = container.status()?.as_str();
            let text = format!("Container cannot be checkpointed in {status} state");
            return Err(Error::State(text.into()));
        }
        Status::Running | Status::Paused => {}
    }
    check_parent(options)?;
    if options.status_fd.is_some() && !options.lazy_pages {
        return Err(Error::Usage("--status-fd needs --lazy-pages".into()));
    }
    let version = super::version()?;
    super::check_features([options.pre_dump, options.lazy_pages])?;
    let request = Request::new(container, options)?;
    let kind = if options.pre_dump {
        kind::PRE_DUMP
    } else {
        kind::DUMP
    };
    let mut message = Message::default();
    message.number(1, kind).inner(2, &request.opts);
    crate::debug!("Using CRIU {version}");
    let mut status = options.status_fd;
    let notified = |answer: &super::Answer, _| {
        if answer.script == "status-ready" {
            status.take().into_iter().for_each(super::status_ready);
        }
        Ok(())
    };
    Service::start(None, || Ok(()))?
        .converse(&message, notified)
        .map_err(|e| super::explain(e, request.log_dir, LOG))
        .map(drop)
}

fn check_parent(options: &Options) -> Result<()> {
    let Some(parent) = &options.parent else {
        return Ok(());
    };
    if parent.is_absolute() {
        return Err(Error::Usage("--parent-path must be relative".into()));
    }
    let dir = options.images.join(parent);
    match std::fs::metadata(&dir) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Error::Usage(format!(
            "invalid --parent-path: {} is not a directory",
            dir.display()
        ))),
        Err(e) => Err(Error::file("stat", dir, e)).context("invalid --parent-path"),
    }
}

/// The options of a dump, with the descriptors that they name.
struct Request<'a> {
    opts: Message,
    log_dir: &'a Path,
    _open: (std::os::fd::OwnedFd, Option<std::os::fd::OwnedFd>),
}

impl<'a> Request<'a> {
    fn new(container: &Container, options: &'a Options) -> Result<Self> {
        let images = directory(&options.images)?;
        let work = options.work.as_deref().map(directory).transpose()?;
        let mut opts = common(options, LOG, &images, work.as_ref());
        let record = &container.record;
        let rootfs = record.rootfs.to_string_lossy();
        opts.int(2, record.init_process_pid)
            .flag(3, options.leave_running)
            .text(13, &rootfs)
            .flag(18, options.link_remap)
            .flag(46, options.tcp_skip_in_flight);
        if let Some(parent) = &options.parent {
            opts.text(14, &parent.to_string_lossy()).flag(15, true);
        }
        if let Some((address, port)) = &options.page_server {
            let mut server = Message::default();
            server.text(1, address).number(2, u64::from(*port));
            opts.inner(11, &server);
        }
        let freezer = ["freezer", ""]
            .iter()
            .find_map(|c| record.cgroup_paths.get(*c));
        if let Some(freezer) = freezer {
            opts.text(44, &freezer.to_string_lossy());
        }
        let annotations = record.annotations.as_ref();
        let config = annotations.and_then(|a| a.get("org.criu.config"));
        config_file(&mut opts, config.map(String::as_str));
        if !options.pre_dump {
            describe(&mut opts, container, options)?;
        }
        Ok(Self {
            opts,
            log_dir: options.work.as_deref().unwrap_or(&options.images),
            _open: (images, work),
        })
    }
}

/// What of the container is the host's.
fn describe(opts: &mut Message, container: &Container, options: &Options) -> Result<()> {
    let plan = container.plan()?;
    let pid = container.record.init_process_pid;
    let inside = format!("/proc/{pid}/root");
    let root = path::open(Path::new(&inside), path::O_PATH | path::O_DIRECTORY)?;
    external::mounts(opts, &plan, root.as_fd(), Path::new("/"), true);
    super::restore::legacy_cgroups(opts, &plan, true)?;
    external::masks(opts, &plan, root.as_fd());
    external::joined_for_dump(opts, &plan)?;
    let streams: Vec<String> = (0..3)
        .map(|number| {
            std::fs::read_link(format!("/proc/{pid}/fd/{number}"))
                .map(|target| target.to_string_lossy().into_owned())
                .unwrap_or_default()
        })
        .collect();
    let file = options.images.join(DESCRIPTORS);
    let text = serde_json::to_vec(&streams).expect("texts are plain data");
    std::fs::write(&file, text).map_err(|e| Error::file("write", file, e))
}
