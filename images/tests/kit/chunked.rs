//! Layers with a table of contents, written as their formats say.

use std::io::Write;

use rrun_images::Digest;
use serde_json::json;

use super::{Blob, Tar};

/// A file whose content is in chunks, each the end of one.
pub struct File<'a> {
    pub name: &'a str,
    pub data: &'a [u8],
    /// Where chunks end; empty for one.
    pub cuts: &'a [usize],
    /// Another digest than the content's, for a table that lies.
    pub lie: Option<Digest>,
}

impl<'a> File<'a> {
    pub fn new(name: &'a str, data: &'a [u8]) -> Self {
        Self {
            name,
            data,
            cuts: &[],
            lie: None,
        }
    }

    /// Start, end and digest of each chunk.
    fn chunks(&self) -> Vec<(usize, usize, Digest)> {
        let ends = self.cuts.iter().copied().chain([self.data.len()]);
        let mut at = 0;
        ends.map(|end| {
            let start = std::mem::replace(&mut at, end);
            let digest = self.lie.clone();
            (
                start,
                end,
                digest.unwrap_or_else(|| Digest::of(&self.data[start..end])),
            )
        })
        .collect()
    }

    /// Header and padding.
    fn header(&self) -> (Vec<u8>, Vec<u8>) {
        let tar = Tar::default()
            .raw(self.name.as_bytes(), b'0', b"", self.data, 0o644)
            .0;
        (tar[..512].to_vec(), tar[512 + self.data.len()..].to_vec())
    }
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn skippable(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
    [&[0x50, 0x2a, 0x4d, 0x18], &length[..], bytes].concat()
}

fn member(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// zstd:chunked: payloads in frames of their own, the table in a skippable frame behind.
pub fn zstd_chunked(files: &[File<'_>]) -> Blob {
    let (mut blob, mut tar, mut pending) = (Vec::new(), Vec::new(), Vec::new());
    let mut entries = Vec::new();
    for file in files {
        let (header, padding) = file.header();
        pending.extend_from_slice(&header);
        blob.extend(frame(&pending));
        tar.append(&mut pending);
        tar.extend_from_slice(file.data);
        let mut own = Vec::new();
        for (start, end, digest) in file.chunks() {
            own.push(
                json!({"type": "chunk", "name": file.name, "offset": blob.len(),
                "chunkOffset": start, "chunkSize": end - start, "chunkDigest": digest}),
            );
            blob.extend(frame(&file.data[start..end]));
        }
        own[0]["type"] = "reg".into();
        own[0]["size"] = file.data.len().into();
        own[0]["endOffset"] = blob.len().into();
        own[0]["digest"] = file
            .lie
            .clone()
            .unwrap_or_else(|| Digest::of(file.data))
            .as_str()
            .into();
        entries.append(&mut own);
        pending = padding;
    }
    pending.resize(pending.len() + 1024, 0);
    blob.extend(frame(&pending));
    tar.append(&mut pending);
    let table = json!({"version": 1, "entries": entries}).to_string();
    let compressed = frame(table.as_bytes());
    let position = format!("{}:{}:{}:1", blob.len() + 8, compressed.len(), table.len());
    blob.extend(skippable(&compressed));
    blob.extend(skippable(&[0; 64]));
    let prefix = "io.github.containers.zstd-chunked.manifest";
    Blob {
        bytes: blob,
        diff_id: Digest::of(&tar),
        kind: "application/vnd.oci.image.layer.v1.tar+zstd",
        notes: [
            (format!("{prefix}-position"), position),
            (
                format!("{prefix}-checksum"),
                Digest::of(&compressed).to_string(),
            ),
        ]
        .into(),
    }
}

/// eStargz: each chunk begins a gzip member, which the headers that follow share; the table is
/// the archive's last file, and a footer tells where.
pub fn estargz(files: &[File<'_>]) -> Blob {
    let (mut blob, mut tar, mut pending) = (Vec::new(), Vec::new(), Vec::new());
    let mut entries = Vec::new();
    let mut close = |pending: &mut Vec<u8>, blob: &mut Vec<u8>| {
        blob.extend(member(pending));
        tar.append(pending);
    };
    for file in files {
        let (header, padding) = file.header();
        pending.extend_from_slice(&header);
        let mut own = Vec::new();
        for (start, end, digest) in file.chunks() {
            close(&mut pending, &mut blob);
            own.push(
                json!({"type": "chunk", "name": file.name, "offset": blob.len(),
                "chunkOffset": start, "chunkDigest": digest}),
            );
            if end < file.data.len() {
                own.last_mut().unwrap()["chunkSize"] = (end - start).into();
            }
            pending.extend_from_slice(&file.data[start..end]);
        }
        own[0]["type"] = "reg".into();
        own[0]["size"] = file.data.len().into();
        own[0]["digest"] = Digest::of(file.data).as_str().into();
        entries.append(&mut own);
        pending.extend_from_slice(&padding);
    }
    close(&mut pending, &mut blob);
    let table = json!({"version": 1, "entries": entries}).to_string();
    let offset = blob.len();
    pending = Tar::default().file("stargz.index.json", &table).end();
    close(&mut pending, &mut blob);
    blob.extend_from_slice(b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0");
    blob.extend_from_slice(format!("{offset:016x}STARGZ").as_bytes());
    blob.extend_from_slice(b"\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    let note = "containerd.io/snapshot/stargz/toc.digest".to_owned();
    Blob {
        bytes: blob,
        diff_id: Digest::of(&tar),
        kind: "application/vnd.oci.image.layer.v1.tar+gzip",
        notes: [(note, Digest::of(table.as_bytes()).to_string())].into(),
    }
}
