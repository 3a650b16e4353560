//! `restore`: a container from image files.

use super::rpc::{Message, kind};
use super::{Answer, DESCRIPTORS, Options, Service, common, config_file, directory, external};
use crate::cgroup::Cgroup;
use crate::container::{self, Container};
use crate::create::{self, Undo};
use crate::plan::{Mount, Plan, Source, namespaces};
use crate::rootfs::mounts;
use crate::{Context, Error, Result};
use rrun_sys::mount::{self, MountAttr};
use rrun_sys::ns;
use rrun_sys::path::{self, Kind, Make};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const LOG: &str = "restore.log";

/// A restored container.
#[derive(Debug)]
pub struct Restored {
    /// The container.
    pub container: Container,
}

/// Restores the container of `plan` below `root` from `options.images`. Its init becomes a child
/// of the caller.
pub fn restore(plan: &Plan, root: &Path, config: &[u8], options: &Options) -> Result<Restored> {
    super::version()?;
    if !options.images.is_dir() {
        return Err(Error::Usage(format!(
            "--image-path {} is not a directory",
            options.images.display()
        )));
    }
    let dir = create::make_directory(root, &plan.id)?;
    let mut undo = Undo::new(&dir);
    if plan.options.notify {
        crate::sdnotify::make_directory(&dir)?;
    }
    let own = path::open(Path::new("/proc/self/ns/mnt"), path::O_RDONLY)?;
    let cwd = path::open(Path::new("."), path::O_PATH | path::O_DIRECTORY)?;
    // Where CRIU finds the root, and the mounts that make its mount points, are nobody else's business.
    ns::unshare(namespaces::MOUNT)?;
    let restored = in_namespace(plan, &dir, config, options, &mut undo);
    ns::setns(own.as_fd(), namespaces::MOUNT).context("return to the mount namespace")?;
    // That led to "/", and the caller's paths may be relative.
    path::chdir_fd(cwd.as_fd())?;
    restored?;
    undo.disarm();
    Ok(Restored {
        container: Container::load(root, &plan.id)?,
    })
}

fn in_namespace(
    plan: &Plan,
    dir: &Path,
    config: &[u8],
    options: &Options,
    undo: &mut Undo<'_>,
) -> Result<()> {
    let slave = MountAttr {
        propagation: crate::plan::mounts::MS_SLAVE,
        ..MountAttr::default()
    };
    mount::set_attr_at(c"/", true, &slave)?;
    let place = dir.join("criu-root");
    std::fs::create_dir(&place).map_err(|e| Error::file("mkdir", &place, e))?;
    let place = std::fs::canonicalize(&place).map_err(|e| Error::file("resolve", &place, e))?;
    let root = attach_root(plan, &place)?;
    undo.cgroup = Some(plan.cgroup.begin().context("create the cgroup")?);
    let cgroup = undo.cgroup.as_mut().expect("set above");
    let by_systemd = plan.options.manager == crate::cgroup::Manager::Systemd;
    if !by_systemd {
        cgroup
            .complete(&plan.cgroup, None)
            .context("create the cgroup")?;
    }
    let joiner = plan.cgroup.joiner()?;
    // CRIU's process has only those descriptors that are open before it is cloned.
    let mut joined = Message::default();
    let namespaces = external::joined_for_restore(&mut joined, plan)?;
    let service = Service::start(cgroup.clone_fd(), || joiner.join_self())?;
    if by_systemd {
        cgroup.complete(&plan.cgroup, Some(service.pid))?;
    }
    cgroup.limit(&plan.cgroup).context("set cgroup limits")?;
    let (mut opts, open) = request(plan, options, (&root, &place), service.pid)?;
    opts.append(&joined);
    let mut message = Message::default();
    message.number(1, kind::RESTORE).inner(2, &opts);
    let log_dir = options.work.as_deref().unwrap_or(&options.images);
    let notified = |answer: &Answer, passed| notified(plan, dir, config, cgroup, answer, passed);
    let result = service.converse(&message, notified);
    drop((open, namespaces, root));
    let _ = mount::detach(&place);
    let _ = std::fs::remove_dir(&place);
    result
        .map_err(|e| super::explain(e, log_dir, LOG))
        .map(drop)
}

/// CRIU wants a root that is a mount, with every mount point in it.
fn attach_root(plan: &Plan, place: &Path) -> Result<OwnedFd> {
    let target = path::open(place, path::O_PATH | path::O_DIRECTORY)?;
    let tree = match &plan.root_mount {
        Some(root) => mounts::make(root, place)?,
        None => mounts::clone_host(&plan.rootfs, true, false)?,
    };
    mount::attach(tree.as_fd(), target.as_fd())?;
    let clean = mount::clone_tree(tree.as_fd(), c"", true, false)?;
    for mount in &plan.mounts {
        mount_point(plan, tree.as_fd(), mount)
            .with_context(|| format!("make the mount point {}", mount.destination.display()))?;
    }
    mount::detach(place)?;
    mount::attach(clean.as_fd(), target.as_fd())?;
    Ok(clean)
}

fn mount_point(plan: &Plan, root: BorrowedFd<'_>, mount: &Mount) -> Result<()> {
    // CRIU restores what is in a tmpfs.
    let on_tmpfs = plan.mounts.iter().any(|m| {
        matches!(&m.source, Source::Filesystem { kind, .. } if kind == "tmpfs")
            && m.destination != mount.destination
            && mount.destination.starts_with(&m.destination)
    });
    match &mount.source {
        _ if on_tmpfs => Ok(()),
        Source::Cgroup { .. } | Source::Remount { .. } => Ok(()),
        Source::Filesystem { .. } => {
            path::make_in_root(root, &mount.destination, Make::Dir)?;
            Ok(())
        }
        // Mounted as well, since others may be inside.
        Source::Bind {
            path,
            recursive,
            nofollow,
        } => {
            let tree = mounts::clone_host(path, *recursive, *nofollow)?;
            let make = match path::stat(tree.as_fd())?.kind {
                Kind::Dir => Make::Dir,
                _ => Make::File,
            };
            let target = path::make_in_root(root, &mount.destination, make)?;
            Ok(mount::attach(tree.as_fd(), target.as_fd())?)
        }
    }
}

/// The options, and descriptors that must stay open until CRIU has them.
fn request(
    plan: &Plan,
    options: &Options,
    (root, place): (&OwnedFd, &Path),
    pid: i32,
) -> Result<(Message, Vec<OwnedFd>)> {
    let images = directory(&options.images)?;
    let work = options.work.as_deref().map(directory).transpose()?;
    let mut opts = common(options, LOG, &images, work.as_ref());
    opts.flag(6, true)
        .text(13, &place.to_string_lossy())
        .flag(26, true);
    if let Some(profile) = &options.lsm_profile {
        opts.text(53, profile);
    }
    if let Some(context) = &options.lsm_mount_context {
        opts.text(63, context);
    }
    let annotations = plan.spec.annotations().as_ref();
    let config = annotations.and_then(|a| a.get("org.criu.config"));
    config_file(&mut opts, config.map(String::as_str));
    let mut open = vec![images];
    open.extend(work);
    external::mounts(&mut opts, plan, root.as_fd(), place, false);
    legacy_cgroups(&mut opts, plan, false)?;
    external::null(&mut opts, plan);
    for (controller, path) in own_cgroups(pid)? {
        let mut root = Message::default();
        root.text(1, &controller).text(2, &path);
        opts.inner(25, &root);
    }
    for (number, name) in streams(&options.images)?.iter().enumerate() {
        if name.contains("pipe:") {
            external::inherit(&mut opts, name, number as i32);
        }
    }
    Ok((opts, open))
}

/// v1 cgroups are shown to a container without a cgroup namespace by bind mounts.
pub(super) fn legacy_cgroups(opts: &mut Message, plan: &Plan, dump: bool) -> Result<()> {
    if crate::cgroup::hierarchy::is_unified() || plan.namespaces.has(namespaces::CGROUP) {
        return Ok(());
    }
    for mount in plan
        .mounts
        .iter()
        .filter(|m| m.source == Source::Cgroup { unified: false })
    {
        for (name, source) in crate::rootfs::cgroupfs::binds()? {
            let key = mount.destination.join(name);
            external::map(opts, &key, if dump { &key } else { &source });
        }
    }
    Ok(())
}

/// (controller, path) of a process, with "" for v2.
fn own_cgroups(pid: i32) -> Result<Vec<(String, String)>> {
    let text = rrun_sys::fd::read_file(Path::new(&format!("/proc/{pid}/cgroup")))?;
    let mut list = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (fields.next(), fields.next()) {
            list.extend(
                controllers
                    .split(',')
                    .map(|c| (c.to_owned(), path.to_owned())),
            );
        }
    }
    Ok(list)
}

fn streams(images: &Path) -> Result<Vec<String>> {
    let file: PathBuf = images.join(DESCRIPTORS);
    let text = std::fs::read(&file).map_err(|e| Error::file("read", &file, e))?;
    serde_json::from_slice(&text).map_err(|source| Error::Json { path: file, source })
}

/// What CRIU asks for.
fn notified(
    plan: &Plan,
    dir: &Path,
    config: &[u8],
    cgroup: &Cgroup,
    answer: &Answer,
    passed: Option<OwnedFd>,
) -> Result<()> {
    match answer.script.as_str() {
        "setup-namespaces" => create::run_runtime_hooks(plan, answer.pid),
        "orphan-pts-master" => {
            let (Some(master), Some(console)) = (passed, &plan.options.console) else {
                return Err(Error::State(
                    "the container has a terminal: give --console-socket".into(),
                ));
            };
            let socket = console.open()?;
            Ok(rrun_sys::socket::send_fds(
                socket.as_fd(),
                b"/dev/pts/0",
                &[master.as_fd()],
            )?)
        }
        "post-restore" => {
            let mut record = create::record(plan, answer.pid, cgroup)?;
            record.restored = true;
            create::write(&dir.join(container::CONFIG), config)?;
            create::write_record(dir, &record, container::STATE)
        }
        _ => Ok(()),
    }
}
