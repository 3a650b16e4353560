//! `start`: makes a shim and says where it is, in whichever way the caller speaks.
//!
//! - containerd 2.3 and later write BootstrapParams to standard input and read a BootstrapResult
//! - older ones give flags and read the bare address
//! - a caller without containerd (an empty `-address`) reads JSON

use crate::args::Args;
use crate::server::forget;
use crate::sock;
use crate::spawn;
use rrun_task_api::pb::bootstrap::{BootstrapParams, BootstrapResult};
use rrun_task_api::pb::types::{RuntimeInfo, RuntimeVersion};
use rrun_task_api::prost::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::fs::{FileType, fstat};
use std::env;
use std::error::Error;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Most bytes of parameters that are read.
const MAX_PARAMS: u64 = 10 << 20;

/// Starts a shim, or finds the one that runs, and prints its address.
pub fn start(mut args: Args) -> Result<(), Box<dyn Error>> {
    let params = read_params(&args)?;
    let mut env = spawn::environment();
    if let Some(params) = &params {
        args.socket_dir = params
            .socket_dir
            .as_ref()
            .filter(|d| !d.is_empty())
            .map(PathBuf::from);
        args.debug |= params.log_level < 0;
        if args.address.is_empty() {
            args.address.clone_from(&params.containerd_grpc_address);
        }
        if args.publish_binary.is_empty() {
            args.publish_binary.clone_from(&params.containerd_binary);
        }
        let address = &params.containerd_ttrpc_address;
        if !address.is_empty() {
            env.retain(|entry| !entry.as_bytes().starts_with(b"TTRPC_ADDRESS="));
            env.push(CString::new(format!("TTRPC_ADDRESS={address}"))?);
        }
    }
    let socket = sock::task_socket(&args);
    let address = format!("unix://{}", socket.display());
    if sock::connect_to(&socket, false).is_err() {
        serve(&args, &socket, &env)?;
        write_atomically(&args.bundle.join("address"), address.as_bytes())?;
    }
    answer(&args, params.is_some(), &address)?;
    Ok(())
}

/// Starts the serving process, which takes the listening socket as its standard input.
fn serve(args: &Args, socket: &Path, env: &[CString]) -> Result<(), Box<dyn Error>> {
    forget(socket);
    let listener =
        sock::listen_on(socket).map_err(|e| format!("listen on {}: {e}", socket.display()))?;
    let own = env::current_exe().map_err(|e| format!("find our own program: {e}"))?;
    let mut line = vec![own.display().to_string()];
    for (flag, value) in [
        ("-namespace", args.namespace.as_str()),
        ("-id", &args.id),
        ("-address", &args.address),
        ("-publish-binary", &args.publish_binary),
        ("-bundle", &args.bundle.to_string_lossy()),
        ("-socket", &socket.to_string_lossy()),
    ] {
        line.extend([flag.to_owned(), value.to_owned()]);
    }
    if args.debug {
        line.push("-debug".to_owned());
    }
    let line = line
        .into_iter()
        .map(CString::new)
        .collect::<Result<Vec<_>, _>>()?;
    let null = spawn::null()?;
    let fds = [listener.as_fd(), null.as_fd(), null.as_fd()];
    let child = spawn::spawn(own.as_os_str(), &line, env, &fds).inspect_err(|_| forget(socket))?;
    let pid = child.pid.as_raw_nonzero().to_string();
    write_atomically(&args.bundle.join("shim.pid"), pid.as_bytes())?;
    adjust_oom_score(&pid);
    Ok(())
}

/// One more than containerd's own: the shim goes before the daemon, and after its container.
fn adjust_oom_score(pid: &str) {
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let Ok(text) = fs::read_to_string(format!("/proc/{parent}/oom_score_adj")) else {
        return;
    };
    let Ok(score) = text.trim().parse::<i32>() else {
        return;
    };
    // Lowering it takes CAP_SYS_RESOURCE; raising it never fails.
    let _ = fs::write(
        format!("/proc/{pid}/oom_score_adj"),
        (score + 1).min(1000).to_string(),
    );
}

/// What containerd 2.3 and later say on standard input. Older ones write options there, which come
/// again with Create.
fn read_params(args: &Args) -> io::Result<Option<BootstrapParams>> {
    let stdin = io::stdin();
    let kind = FileType::from_raw_mode(fstat(&stdin)?.st_mode);
    if kind != FileType::Fifo && kind != FileType::RegularFile {
        return Ok(None);
    }
    // Who gives us a pipe and nothing in it may never close it: containerd writes at once.
    let patience = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    if poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&patience))? == 0 {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    stdin.lock().take(MAX_PARAMS).read_to_end(&mut bytes)?;
    Ok(parse_params(&bytes, args))
}

fn parse_params(bytes: &[u8], args: &Args) -> Option<BootstrapParams> {
    let params = BootstrapParams::decode(bytes).ok()?;
    (params.instance_id == args.id && params.namespace == args.namespace).then_some(params)
}

fn answer(args: &Args, by_params: bool, address: &str) -> io::Result<()> {
    let mut out = io::stdout();
    if by_params {
        let result = BootstrapResult {
            version: 3,
            address: address.to_owned(),
            protocol: "ttrpc".to_owned(),
            ..Default::default()
        };
        out.write_all(&result.encode_to_vec())?;
    } else if args.address.is_empty() {
        let json = serde_json::json!({"version": 3, "address": address, "protocol": "ttrpc"});
        out.write_all(json.to_string().as_bytes())?;
    } else {
        out.write_all(address.as_bytes())?;
    }
    out.flush()
}

/// `-info`: what we are, for `ctr info` and the like.
pub fn info() -> Result<(), Box<dyn Error>> {
    let info = RuntimeInfo {
        name: "io.containerd.rrun.v2".to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: String::new(),
        }),
        ..Default::default()
    };
    io::stdout().write_all(&info.encode_to_vec())?;
    Ok(())
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rrun_task_api::pb::Any;
    use std::ffi::OsString;

    fn args() -> Args {
        let line = ["-namespace", "n", "-id", "i", "start"];
        Args::parse(line.into_iter().map(OsString::from)).unwrap()
    }

    #[test]
    fn params_are_told_from_an_old_containerds_options() {
        let params = BootstrapParams {
            instance_id: "i".into(),
            namespace: "n".into(),
            ..Default::default()
        };
        assert!(parse_params(&params.encode_to_vec(), &args()).is_some());
        let options = Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: vec![0x32, 1, b'x'],
        };
        assert!(parse_params(&options.encode_to_vec(), &args()).is_none());
        assert!(parse_params(b"", &args()).is_none());
        assert!(parse_params(b"\xff\xff\xff", &args()).is_none());
    }
}
