//! What is left, as the kernel tells it.

use std::path::{Path, PathBuf};

use rrun_cri_api::v1 as cri;

use super::{Filesystem, Holds, Left, Signals};
use crate::node::cri::Cri;

/// Where things lie.
#[derive(Debug, Default)]
pub struct Places {
    /// Images and writable layers, once the runtime has told.
    runtime: Option<(PathBuf, PathBuf)>,
}

impl Places {
    /// Asks the runtime where it keeps images and layers, until it has told. It does not move.
    pub async fn learn(&mut self, cri: &Cri) {
        if self.runtime.is_some() || !cri.is_there() {
            return;
        }
        let request = cri::ImageFsInfoRequest::default();
        let Ok(answer) = cri.images().image_fs_info(request).await else {
            return;
        };
        let answer = answer.into_inner();
        let first = |all: &[cri::FilesystemUsage]| {
            let found = all.first().and_then(|f| f.fs_id.as_ref());
            found.map(|id| PathBuf::from(&id.mountpoint))
        };
        let Some(images) = first(&answer.image_filesystems) else {
            return;
        };
        // A runtime that does not tell keeps its layers with the images.
        let layers = first(&answer.container_filesystems).unwrap_or_else(|| images.clone());
        self.runtime = Some((images, layers));
    }

    /// What is left now; `root` is a directory of the node's file system.
    pub fn signals(&self, root: &Path) -> Signals {
        Signals {
            memory: memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            disks: self.disks(root),
        }
    }

    fn disks(&self, root: &Path) -> Vec<Filesystem> {
        let volumes = Holds {
            volumes: true,
            ..Holds::default()
        };
        let (layers, images) = (
            Holds {
                layers: true,
                ..Holds::default()
            },
            Holds {
                images: true,
                ..Holds::default()
            },
        );
        let mut places = vec![(root, volumes)];
        match &self.runtime {
            Some((of_images, of_layers)) => {
                places.extend([(of_layers.as_path(), layers), (of_images.as_path(), images)]);
            }
            // As far as is known.
            None => places[0].1 = Holds::ALL,
        }
        let mut all: Vec<(u64, Filesystem)> = Vec::new();
        for (path, holds) in places {
            let Ok(meta) = rustix::fs::stat(path) else {
                continue;
            };
            match all.iter_mut().find(|(device, _)| *device == meta.st_dev) {
                Some((_, known)) => known.holds = both(known.holds, holds),
                None => all.extend(measure(path, holds).map(|fs| (meta.st_dev, fs))),
            }
        }
        all.into_iter().map(|(_, fs)| fs).collect()
    }
}

fn both(a: Holds, b: Holds) -> Holds {
    Holds {
        volumes: a.volumes || b.volumes,
        layers: a.layers || b.layers,
        images: a.images || b.images,
    }
}

fn measure(path: &Path, holds: Holds) -> Option<Filesystem> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(Filesystem {
        holds,
        bytes: Left {
            left: stat.f_bavail * stat.f_frsize,
            total: stat.f_blocks * stat.f_frsize,
        },
        inodes: Left {
            left: stat.f_favail,
            total: stat.f_files,
        },
    })
}

fn memory(meminfo: &str) -> Left {
    let field = |name: &str| -> u64 {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(name));
        let kib = line.and_then(|l| l.trim().strip_suffix("kB"));
        kib.and_then(|k| k.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Left {
        left: field("MemAvailable:"),
        total: field("MemTotal:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_system_is_there_once() {
        let here = tempfile::tempdir().unwrap();
        let mut places = Places::default();
        let all = |places: &Places| -> Vec<Holds> {
            let signals = places.signals(here.path());
            assert!(signals.memory.total > 0);
            assert!(
                signals
                    .disks
                    .iter()
                    .all(|d| d.bytes.total > 0 || d.inodes.total == 0)
            );
            signals.disks.iter().map(|d| d.holds).collect()
        };
        assert_eq!(all(&places), [Holds::ALL]);
        places.runtime = Some((here.path().to_owned(), here.path().join("none")));
        let one = Holds {
            layers: false,
            ..Holds::ALL
        };
        assert_eq!(all(&places), [one]);
        places.runtime = Some(("/proc".into(), here.path().to_owned()));
        let (node, images) = (
            Holds {
                images: false,
                ..Holds::ALL
            },
            Holds {
                images: true,
                ..Holds::default()
            },
        );
        assert_eq!(all(&places), [node, images]);
    }
}
