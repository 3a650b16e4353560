//! Where an image is loaded from: a directory, or a tar archive that may be compressed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::FileContext;
use crate::manifest::Compression;
use crate::store::DOCUMENT_LIMIT;
use crate::{Error, Result, Store, files};

/// Names in an archive; a docker-archive has a handful for each layer.
const NAME_LIMIT: usize = 100_000;

/// A set of named files.
pub(super) enum Source {
    Directory(PathBuf),
    Archive {
        file: File,
        path: PathBuf,
        members: HashMap<String, Member>,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Member {
    Data {
        offset: u64,
        size: u64,
    },
    /// Old docker archives link layers that are the same.
    Link(String),
}

impl Source {
    /// Opens a directory, an archive, or with `-` the archive on standard input. What cannot be
    /// read at any place (pipes, compressed archives) is first written into the store's ingest
    /// directory.
    pub fn open(store: &Store, path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let stdin = path == Path::new("-");
        let mut input: Box<dyn Read> = if stdin {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).at("open", path)?)
        };
        let mut start = [0; 6];
        let read = read_up_to(&mut input, &mut start).at("read", path)?;
        let compression = Compression::sniff(&start[..read]);
        if !stdin && compression == Compression::None && path.is_file() {
            let file = File::open(path).at("open", path)?;
            return Self::archive(file, path.to_owned());
        }
        let whole = io::Read::chain(io::Cursor::new(start[..read].to_vec()), input);
        let mut whole: Box<dyn Read> = match compression {
            Compression::None => Box::new(whole),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(whole)),
            Compression::Zstd => {
                Box::new(zstd::stream::read::Decoder::new(whole).at("read", path)?)
            }
        };
        let spool = store.ingest_dir().join(files::unique_name());
        let mut file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&spool)
            .at("create", &spool)?;
        // The name goes at once: what is left after a crash has no name either.
        fs::remove_file(&spool).at("remove", &spool)?;
        io::copy(&mut whole, &mut file).at("read", path)?;
        file.flush().at("write", &spool)?;
        Self::archive(file, path.to_owned())
    }

    fn archive(mut file: File, path: PathBuf) -> Result<Self> {
        file.seek(SeekFrom::Start(0)).at("seek", &path)?;
        let mut members = HashMap::new();
        let mut archive = tar::Archive::new(io::BufReader::new(&file));
        for entry in archive.entries_with_seek().at("read", &path)? {
            let entry = entry.at("read", &path)?;
            let name = String::from_utf8_lossy(&entry.path_bytes())
                .trim_start_matches("./")
                .to_owned();
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let member = Member::Data {
                    offset: entry.raw_file_position(),
                    size: entry.size(),
                };
                members.insert(name, member);
            } else if (kind.is_symlink() || kind.is_hard_link())
                && let Some(target) = entry.link_name_bytes()
            {
                let target = String::from_utf8_lossy(&target).into_owned();
                let target = if kind.is_symlink() {
                    beside(&name, &target)
                } else {
                    target
                };
                members.insert(name, Member::Link(target));
            }
            if members.len() > NAME_LIMIT {
                let why = format!("more than {NAME_LIMIT} files");
                return Err(Error::document(path.display().to_string(), why));
            }
        }
        Ok(Self::Archive {
            file,
            path,
            members,
        })
    }

    /// For messages.
    pub fn name(&self) -> String {
        match self {
            Self::Directory(path) | Self::Archive { path, .. } => path.display().to_string(),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(path) => path.join(name).is_file(),
            Self::Archive { members, .. } => members.contains_key(name),
        }
    }

    /// Opens a file of the source and tells its size.
    pub fn file(&self, name: &str) -> Result<(Box<dyn Read + '_>, u64)> {
        let missing = || Error::document(self.name(), format!("has no file {name:?}"));
        match self {
            Self::Directory(path) => {
                // Names come from documents that nobody has vouched for.
                if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
                    return Err(missing());
                }
                let path = path.join(name);
                let file = File::open(&path).at("open", &path)?;
                let size = file.metadata().at("stat", &path)?.len();
                Ok((Box::new(file), size))
            }
            Self::Archive { file, members, .. } => {
                let mut member = members.get(name).ok_or_else(missing)?;
                for _ in 0..8 {
                    let Member::Link(target) = member else { break };
                    member = members.get(target).ok_or_else(missing)?;
                }
                let Member::Data { offset, size } = member else {
                    return Err(missing());
                };
                let part = Part {
                    file,
                    at: *offset,
                    end: offset.saturating_add(*size),
                };
                Ok((Box::new(part), *size))
            }
        }
    }

    /// Reads a document whole.
    pub fn document(&self, name: &str) -> Result<Vec<u8>> {
        let (reader, size) = self.file(name)?;
        let what = || format!("{}: {name}", self.name());
        if size > DOCUMENT_LIMIT {
            return Err(Error::document(
                what(),
                format!("longer than {DOCUMENT_LIMIT} bytes"),
            ));
        }
        let mut bytes = Vec::new();
        reader
            .take(size)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::document(what(), error))?;
        if bytes.len() as u64 != size {
            return Err(Error::document(what(), "is cut off"));
        }
        Ok(bytes)
    }
}

/// A part of a file, read without moving the file's own position.
struct Part<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let n = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A relative link's target as a name of the archive.
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&[u8]> = name.as_bytes().split(|&b| b == b'/').collect();
    parts.pop();
    for part in Path::new(target).components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            std::path::Component::Normal(part) => parts.push(part.as_bytes()),
            _ => {}
        }
    }
    String::from_utf8_lossy(&parts.join(&b'/')).into_owned()
}

fn read_up_to(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut at = 0;
    while at < buffer.len() {
        match reader.read(&mut buffer[at..])? {
            0 => break,
            n => at += n,
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_old_archives_are_relative() {
        assert_eq!(beside("a/layer.tar", "../b/layer.tar"), "b/layer.tar");
        assert_eq!(beside("layer.tar", "../../../etc/passwd"), "etc/passwd");
    }
}
