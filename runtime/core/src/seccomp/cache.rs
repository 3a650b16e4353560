//! Compiled filters on disk, by the content of their profile: compiling one of
//! 360 names takes 14 ms, reading it back 0.1 ms.
//!
//! A file is named by a hash of the profile and holds the profile itself, which
//! must be equal: nobody gains by a profile that has another's hash. Files and
//! directory are used only when they are the caller's own and nobody else can
//! write them. A file that is torn or of another version is compiled anew.
//!
//! ```text
//! "rrun-seccomp-2\n"  u32 length of key  key  u32 length of code  code  u64 sum of all before
//! ```

use rrun_sys::seccomp::Instruction;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"rrun-seccomp-2\n";
/// O_NOFOLLOW.
const NOFOLLOW: i32 = 0o400_000;
/// Files kept; the oldest goes when there is one more.
const KEEP: usize = 128;
/// Largest file: a program of 4096 instructions, and its profile.
const LARGEST: u64 = 1 << 20;

/// 64-bit FNV-1a.
fn sum(parts: &[&[u8]]) -> u64 {
    parts
        .iter()
        .flat_map(|part| part.iter())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        })
}

fn file_of(dir: &Path, key: &[u8]) -> PathBuf {
    dir.join(format!("{:016x}", sum(&[key])))
}

/// Whether only the caller can write what `meta` is of.
fn is_own(meta: &std::fs::Metadata) -> bool {
    meta.uid() == rrun_sys::cred::euid() && meta.mode() & 0o022 == 0
}

/// The program for `key`, if it is there and to be trusted.
pub fn get(dir: &Path, key: &[u8]) -> Option<Vec<Instruction>> {
    let meta = std::fs::symlink_metadata(dir).ok()?;
    if !meta.is_dir() || !is_own(&meta) {
        return None;
    }
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(NOFOLLOW)
        .open(file_of(dir, key))
        .ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() || !is_own(&meta) || meta.len() > LARGEST {
        return None;
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize + 1);
    file.read_to_end(&mut bytes).ok()?;
    parse(&bytes, key)
}

fn parse(bytes: &[u8], key: &[u8]) -> Option<Vec<Instruction>> {
    let (body, tail) = bytes.split_last_chunk::<8>()?;
    if u64::from_le_bytes(*tail) != sum(&[body]) {
        return None;
    }
    let rest = body.strip_prefix(MAGIC)?;
    let (found, rest) = counted(rest)?;
    let (code, rest) = counted(rest)?;
    if found != key || !rest.is_empty() {
        return None;
    }
    super::decode(code)
}

fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

fn encode(key: &[u8], program: &[Instruction]) -> Vec<u8> {
    let code = super::encode(program);
    let mut bytes = MAGIC.to_vec();
    for part in [key, &code] {
        bytes.extend((part.len() as u32).to_le_bytes());
        bytes.extend(part);
    }
    bytes.extend(sum(&[&bytes]).to_le_bytes());
    bytes
}

/// Keeps a program. The directory is volatile, and a torn file is seen when it is
/// read: no fsync. What fails is tried again by the next container.
pub fn put(dir: &Path, key: &[u8], program: &[Instruction]) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if !is_own(&std::fs::symlink_metadata(dir)?) {
        return Ok(());
    }
    let path = file_of(dir, key);
    let temp = path.with_extension(std::process::id().to_string());
    let mut file = create(&temp)?;
    let result = file
        .write_all(&encode(key, program))
        .and_then(|()| std::fs::rename(&temp, &path));
    if result.is_err() {
        let _ = std::fs::remove_file(&temp);
    }
    prune(dir);
    result
}

fn create(path: &Path) -> std::io::Result<File> {
    let _ = std::fs::remove_file(path);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Removes the oldest files beyond [`KEEP`].
fn prune(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    for (_, path) in files.iter().take(files.len().saturating_sub(KEEP)) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const CODE: [Instruction; 2] = [
        Instruction {
            code: 0x20,
            jt: 0,
            jf: 0,
            k: 4,
        },
        Instruction {
            code: 6,
            jt: 1,
            jf: 2,
            k: 0x7fff_0000,
        },
    ];

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("rrun-seccomp-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn what_was_put_is_got_under_its_own_key_alone() {
        let dir = dir("put");
        put(&dir, b"profile", &CODE).unwrap();
        assert_eq!(get(&dir, b"profile").unwrap(), CODE);
        assert_eq!(get(&dir, b"another"), None);
        // As if "another" had the same hash.
        std::fs::rename(file_of(&dir, b"profile"), file_of(&dir, b"another")).unwrap();
        assert_eq!(get(&dir, b"another"), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn file_cut_anywhere_or_changed_is_not_used() {
        let whole = encode(b"key", &CODE);
        assert!(parse(&whole, b"key").is_some());
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length], b"key"), None, "cut at {length}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(parse(&changed, b"key"), None, "changed at {at}");
        }
    }

    #[test]
    fn directory_or_file_that_others_can_write_is_not_trusted() {
        let dir = dir("mode");
        put(&dir, b"key", &CODE).unwrap();
        let file = file_of(&dir, b"key");
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&file, 0o666);
        assert_eq!(get(&dir, b"key"), None);
        mode(&file, 0o600);
        mode(&dir, 0o777);
        assert_eq!(get(&dir, b"key"), None);
        mode(&dir, 0o700);
        assert!(get(&dir, b"key").is_some());
        // A link to a file that is right in itself.
        let aside = dir.join("aside");
        std::fs::rename(&file, &aside).unwrap();
        std::os::unix::fs::symlink(&aside, &file).unwrap();
        assert_eq!(get(&dir, b"key"), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
