//! `rrun checkpoint`.

use crate::args;
use crate::globals::Global;
use lexopt::{Arg, Parser};
use rrun_core::container::Container;
use rrun_core::criu::{self, CgroupsMode, Options};
use rrun_core::{Context, Error, Result};
use std::path::PathBuf;

/// Help text.
pub const HELP: &str = "\
checkpoint a running container

USAGE:
    rrun checkpoint [OPTIONS] CONTAINER-ID

OPTIONS:
    --image-path DIR         where the image files go [./checkpoint]
    --work-path DIR          where logs go [the image path]
    --parent-path DIR        an earlier pre-dump, relative to the image path
    --leave-running          let the container go on
    --pre-dump               save memory only, and let the container go on
    --tcp-established        save established connections
    --tcp-skip-in-flight     leave out connections that are being made
    --ext-unix-sk            allow unix sockets to outside
    --shell-job              allow a terminal from outside
    --file-locks             save file locks
    --link-remap             link deleted files back where possible
    --lazy-pages             send memory when it is asked for
    --status-fd N            write a zero byte to N when lazy pages are served
    --page-server ADDR:PORT  send memory to a page server
    --manage-cgroups-mode M  soft, full, strict or ignore [soft]
    --empty-ns network       leave the network namespace empty
    --auto-dedup             drop memory that a later image has again

The work is criu's, which must be installed.

EXAMPLES:
    rrun checkpoint --image-path /backup/web web
    rrun restore --image-path /backup/web --bundle /containers/web --detach web
";

/// An option that `checkpoint` and `restore` share; false when it is another.
pub fn shared(options: &mut Options, name: &str, parser: &mut Parser) -> Result<bool> {
    match name {
        "image-path" => options.images = args::path(parser)?,
        "work-path" => options.work = Some(args::path(parser)?),
        "tcp-established" => options.tcp_established = args::switch(parser)?,
        "ext-unix-sk" => options.ext_unix_sk = args::switch(parser)?,
        "shell-job" => options.shell_job = args::switch(parser)?,
        "file-locks" => options.file_locks = args::switch(parser)?,
        "auto-dedup" => options.auto_dedup = args::switch(parser)?,
        "lazy-pages" => options.lazy_pages = args::switch(parser)?,
        "manage-cgroups-mode" => {
            let text = args::text(parser)?;
            options.cgroups = CgroupsMode::parse(&text)
                .ok_or_else(|| Error::Usage("invalid manage-cgroups-mode value".into()))?;
        }
        "empty-ns" => {
            let text = args::text(parser)?;
            if text != "network" {
                return Err(Error::Usage(format!("namespace {text:?} is not supported")));
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn own(options: &mut Options, name: &str, parser: &mut Parser) -> Result<bool> {
    match name {
        "parent-path" => options.parent = Some(args::path(parser)?),
        "leave-running" => options.leave_running = args::switch(parser)?,
        "pre-dump" => options.pre_dump = args::switch(parser)?,
        "tcp-skip-in-flight" => options.tcp_skip_in_flight = args::switch(parser)?,
        "link-remap" => options.link_remap = args::switch(parser)?,
        "status-fd" => {
            options.status_fd = i32::try_from(args::number(parser)?).ok();
        }
        "page-server" => options.page_server = Some(server(&args::text(parser)?)?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn server(text: &str) -> Result<(String, u16)> {
    let (address, port) = text
        .rsplit_once(':')
        .filter(|(address, port)| !address.is_empty() && !port.is_empty())
        .ok_or_else(|| {
            Error::Usage("Use --page-server ADDRESS:PORT to specify page server".into())
        })?;
    let port = port
        .parse()
        .map_err(|_| Error::Usage("Invalid port number".into()))?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Ok((address.to_owned(), port))
}

/// Saves a container; unless it goes on, it is removed.
pub fn run(global: &Global, mut parser: Parser) -> Result<u8> {
    let (mut options, mut id) = (Options::default(), None);
    options.images = PathBuf::from("checkpoint");
    while let Some(arg) = parser.next().map_err(args::usage)? {
        match arg {
            Arg::Long(name) => {
                let name = name.to_owned();
                if !shared(&mut options, &name, &mut parser)?
                    && !own(&mut options, &name, &mut parser)?
                {
                    return Err(args::unexpected(Arg::Long(&name)));
                }
            }
            Arg::Value(value) if id.is_none() => id = Some(args::string(value)?),
            other => return Err(args::unexpected(other)),
        }
    }
    let id = id.ok_or_else(|| args::no_id("checkpoint"))?;
    if global.is_rootless() {
        rrun_core::warning!("rrun checkpoint is untested with rootless containers");
    }
    let container = Container::load(&global.root, &id)?;
    criu::checkpoint(&container, &options).context("checkpoint failed")?;
    if !options.leave_running && !options.pre_dump {
        container.destroy()?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::server;

    #[test]
    fn page_servers() {
        assert_eq!(server("1.2.3.4:27").unwrap(), ("1.2.3.4".to_owned(), 27));
        assert_eq!(server("[::1]:27").unwrap(), ("::1".to_owned(), 27));
        for wrong in ["", "1.2.3.4", ":27", "a:", "a:x", "a:99999"] {
            assert!(server(wrong).is_err(), "{wrong}");
        }
    }
}
