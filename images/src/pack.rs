//! Directories into layers.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use crate::error::FileContext;
use crate::store::Lease;
use crate::{Compression, Hasher, Layer, Result, Store, files};

/// What the entries of a layer carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Owner and group of everything, where they are not to be the files' own.
    pub owner: Option<(u32, u32)>,
    /// Permission bits of files, where they are not to be the files' own.
    pub mode: Option<u32>,
    pub time: Time,
    /// The directory is the upper one of an overlay: its whiteouts become those of a layer.
    pub overlay: bool,
}

/// Times of entries, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Time {
    /// As the files have them.
    Keep,
    /// The files' own, but none later.
    Clamp(u64),
    Set(u64),
}

impl Time {
    fn of(self, own: i64) -> u64 {
        let own = u64::try_from(own).unwrap_or(0);
        match self {
            Self::Keep => own,
            Self::Clamp(latest) => own.min(latest),
            Self::Set(time) => time,
        }
    }
}

/// A layer under construction.
pub(crate) type LayerWriter = Packer<Tee<Encoder<Tee<BufWriter<File>>>>>;

impl Store {
    /// Writes a layer blob; `fill` puts the entries in. The chain id is still to be set.
    pub(crate) fn pack(
        &self,
        lease: &mut Lease,
        compression: Compression,
        look: Look,
        fill: impl FnOnce(&mut LayerWriter) -> io::Result<()>,
    ) -> Result<Layer> {
        let temp = lease.temp()?;
        let packed = pack_into(&temp, compression, look, fill).at("write a layer to", &temp);
        let published = packed.and_then(|layer| {
            lease.add([&layer.digest])?;
            let blob = self.blob_path(&layer.digest);
            fs::rename(&temp, &blob).at("rename to", &blob)?;
            files::sync_dir(&self.blob_dir())?;
            Ok(layer)
        });
        if published.is_err() {
            files::remove_all(&temp)?;
        }
        published
    }
}

/// Hashes what passes on its way.
pub(crate) struct Tee<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

pub(crate) fn pack_into(
    path: &Path,
    compression: Compression,
    look: Look,
    fill: impl FnOnce(&mut LayerWriter) -> io::Result<()>,
) -> io::Result<Layer> {
    let inner = BufWriter::with_capacity(256 << 10, File::create_new(path)?);
    let compressed = Tee {
        inner,
        hasher: Hasher::default(),
    };
    let inner = Encoder::new(compressed, compression)?;
    let builder = Builder::new(Tee {
        inner,
        hasher: Hasher::default(),
    });
    let mut packer = Packer {
        builder,
        look,
        links: HashMap::new(),
    };
    fill(&mut packer)?;
    let tee = packer.builder.into_inner()?;
    let (diff_id, _) = tee.hasher.finish();
    let compressed = tee.inner.finish()?;
    let (digest, compressed_size) = compressed.hasher.finish();
    compressed
        .inner
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    Ok(Layer {
        digest,
        compressed_size,
        chain_id: diff_id.clone(),
        diff_id,
    })
}

/// The compressions, with nothing in them that differs from run to run.
pub(crate) enum Encoder<W: Write> {
    None(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    fn new(inner: W, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(inner),
            Compression::Gzip => {
                let level = flate2::Compression::new(6);
                Self::Gzip(flate2::GzBuilder::new().mtime(0).write(inner, level))
            }
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(inner, 3)?),
        })
    }

    fn finish(self) -> io::Result<W> {
        match self {
            Self::None(inner) => Ok(inner),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(inner) => inner.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(inner) => inner.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

/// Puts files into a layer, in an order that depends on their names only.
pub(crate) struct Packer<W: Write> {
    builder: Builder<W>,
    look: Look,
    /// First path of every inode with several names.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    /// All below a directory, as lying below `to` in the image.
    pub fn directory(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(from)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            self.tree(&from.join(&name), &to.join(&name))?;
        }
        Ok(())
    }

    /// A file, or a directory without what is in it.
    pub fn single(&mut self, path: &Path, inner: &Path) -> io::Result<()> {
        let meta = fs::symlink_metadata(path)?;
        self.entry(path, inner, &meta)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    /// A file, or a directory with all below it, under a name of its own.
    pub fn tree(&mut self, path: &Path, inner: &Path) -> io::Result<()> {
        let meta = fs::symlink_metadata(path)?;
        self.entry(path, inner, &meta).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        if meta.is_dir() {
            self.directory(path, inner)
        } else {
            Ok(())
        }
    }

    /// A directory of the image that no file is behind, as it was.
    pub fn existing_directory(
        &mut self,
        inner: &Path,
        mode: u32,
        owner: (u32, u32),
        time: i64,
    ) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(mode & 0o7777);
        header.set_uid(owner.0.into());
        header.set_gid(owner.1.into());
        header.set_mtime(Time::Keep.of(time));
        header.set_size(0);
        header.set_entry_type(EntryType::Directory);
        self.builder
            .append_data(&mut header, directory_name(inner), io::empty())
    }

    /// A new directory. Its time is the latest allowed, else the start of 1970, so that the same
    /// build gives the same bytes.
    pub fn made_directory(&mut self, inner: &Path, mode: u32, owner: (u32, u32)) -> io::Result<()> {
        let time = match self.look.time {
            Time::Keep => 0,
            Time::Clamp(time) | Time::Set(time) => time.cast_signed(),
        };
        self.existing_directory(inner, mode, owner, time)
    }

    fn header(&self, meta: &fs::Metadata) -> Header {
        let mut header = Header::new_gnu();
        let (uid, gid) = self.look.owner.unwrap_or((meta.uid(), meta.gid()));
        let mode = self
            .look
            .mode
            .filter(|_| !meta.is_symlink())
            .unwrap_or(meta.mode());
        header.set_mode(mode & 0o7777);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mtime(self.look.time.of(meta.mtime()));
        header.set_size(0);
        header
    }

    fn entry(&mut self, path: &Path, inner: &Path, meta: &fs::Metadata) -> io::Result<()> {
        let kind = meta.file_type();
        if kind.is_socket() {
            return Ok(());
        }
        let mut header = self.header(meta);
        if self.look.overlay && kind.is_char_device() && meta.rdev() == 0 {
            return self.whiteout(inner);
        }
        self.attributes(path)?;
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.builder
                .append_data(&mut header, directory_name(inner), io::empty())?;
            let opaque = self.look.overlay && crate::merged::opaque_path(path);
            return if opaque {
                self.whiteout(&inner.join(".wh..opq"))
            } else {
                Ok(())
            };
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return self
                .builder
                .append_link(&mut header, inner, fs::read_link(path)?);
        }
        if meta.nlink() > 1 {
            let inode = (meta.dev(), meta.ino());
            let known = self.links.entry(inode).or_insert_with(|| inner.to_owned());
            if known != inner {
                header.set_entry_type(EntryType::Link);
                return self.builder.append_link(&mut header, inner, known.clone());
            }
        }
        if kind.is_file() {
            header.set_entry_type(EntryType::Regular);
            header.set_size(meta.len());
            return self
                .builder
                .append_data(&mut header, inner, File::open(path)?);
        }
        self.node(header, inner, meta)
    }

    /// An empty file whose name hides that of the layers below.
    fn whiteout(&mut self, inner: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.look.time.of(0));
        header.set_size(0);
        header.set_entry_type(EntryType::Regular);
        let name = inner.file_name().unwrap_or_default().as_bytes();
        let name = std::ffi::OsString::from_vec([b".wh.", name].concat());
        self.builder
            .append_data(&mut header, inner.with_file_name(name), io::empty())
    }

    fn node(&mut self, mut header: Header, inner: &Path, meta: &fs::Metadata) -> io::Result<()> {
        let kind = meta.file_type();
        header.set_entry_type(if kind.is_fifo() {
            EntryType::Fifo
        } else if kind.is_char_device() {
            EntryType::Char
        } else {
            EntryType::Block
        });
        header.set_device_major(rustix::fs::major(meta.rdev()))?;
        header.set_device_minor(rustix::fs::minor(meta.rdev()))?;
        self.builder.append_data(&mut header, inner, io::empty())
    }

    /// Extended attributes go before the entry, in a PAX header.
    fn attributes(&mut self, path: &Path) -> io::Result<()> {
        let mut names = vec![0; 64 << 10];
        let length = match rustix::fs::llistxattr(path, &mut names) {
            Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
            other => other?,
        };
        let mut found: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for name in names[..length].split(|&b| b == 0) {
            let Ok(text) = std::str::from_utf8(name) else {
                continue;
            };
            if text == "security.capability"
                || (text.starts_with("user.")
                    && !text.starts_with("user.overlay.")
                    && !text.starts_with("user.fuseoverlayfs."))
            {
                let mut value = vec![0; 64 << 10];
                let length = rustix::fs::lgetxattr(path, name, &mut value)?;
                value.truncate(length);
                found.insert(format!("SCHILY.xattr.{text}"), value);
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        self.builder
            .append_pax_extensions(found.iter().map(|(k, v)| (k.as_str(), v.as_slice())))
    }
}

fn directory_name(inner: &Path) -> PathBuf {
    let name = [inner.as_os_str().as_bytes(), b"/"].concat();
    PathBuf::from(std::ffi::OsString::from_vec(name))
}
