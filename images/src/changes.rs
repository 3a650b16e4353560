//! What a container wrote on its rootfs, as an archive: a layer without an image, for checkpoints.

use std::fs;
use std::path::Path;

use crate::error::FileContext;
use crate::identity::Privilege;
use crate::pack::{Look, Time};
use crate::{Compression, Limits, OverlayRootfs, Result, pack, unpack};

impl OverlayRootfs {
    /// Writes the upper directory as a tar archive (a layer of OCI's image-spec, not compressed).
    /// The container is not to write meanwhile, or the archive is of no one instant.
    pub fn save_changes(&self, to: &Path) -> Result<()> {
        let look = Look {
            owner: None,
            mode: None,
            time: Time::Keep,
            overlay: true,
        };
        let fill = |packer: &mut pack::LayerWriter| packer.directory(&self.upper, Path::new(""));
        pack::pack_into(to, Compression::None, look, fill)
            .at("write changes to", to)
            .map(drop)
    }

    /// Puts such an archive into the upper directory, which is empty.
    pub fn load_changes(&self, from: &Path) -> Result<()> {
        let mode = unpack::Mode::overlay(Privilege::now());
        let archive = fs::File::open(from).at("open", from)?;
        let limits = Limits::default();
        unpack::write_archive(&self.upper, mode, &limits, std::io::BufReader::new(archive))?
            .finish(&self.lower)
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn changes_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = |name: &str| {
            let (upper, work) = (
                dir.path().join(name),
                dir.path().join(format!("{name}.work")),
            );
            fs::create_dir(&upper).unwrap();
            OverlayRootfs {
                lower: vec![],
                upper,
                work,
                user_xattr: false,
            }
        };
        let (one, two) = (rootfs("one"), rootfs("two"));
        fs::create_dir(one.upper.join("d")).unwrap();
        fs::write(one.upper.join("d/file"), "data").unwrap();
        fs::set_permissions(one.upper.join("d/file"), PermissionsExt::from_mode(0o4750)).unwrap();
        std::os::unix::fs::symlink("file", one.upper.join("d/link")).unwrap();
        let archive = dir.path().join("changes.tar");
        one.save_changes(&archive).unwrap();
        two.load_changes(&archive).unwrap();
        assert_eq!(fs::read(two.upper.join("d/link")).unwrap(), b"data");
        let mode = fs::metadata(two.upper.join("d/file"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o4750);
    }
}
