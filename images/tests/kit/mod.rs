//! Archives and layouts made by hand, good and bad.
#![allow(dead_code, clippy::unwrap_used)]

pub mod chunked;
pub mod double;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rrun_images::Digest;
use serde_json::json;

/// A tar archive under construction, header by header.
#[derive(Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn raw(mut self, path: &[u8], kind: u8, link: &[u8], data: &[u8], mode: u32) -> Self {
        let mut header = [0u8; 512];
        header[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
        header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        header[136..148].copy_from_slice(format!("{:011o}\0", 1_600_000_000).as_bytes());
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link);
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[329..337].copy_from_slice(b"0000001\0");
        header[337..345].copy_from_slice(b"0000003\0");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, data: &str) -> Self {
        self.raw(path.as_bytes(), b'0', b"", data.as_bytes(), 0o644)
    }

    pub fn file_mode(self, path: &str, mode: u32) -> Self {
        self.raw(path.as_bytes(), b'0', b"", b"x", mode)
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.raw(path.as_bytes(), b'5', b"", b"", mode)
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.raw(path.as_bytes(), b'2', target.as_bytes(), b"", 0o777)
    }

    pub fn hard(self, path: &str, target: &str) -> Self {
        self.raw(path.as_bytes(), b'1', target.as_bytes(), b"", 0o644)
    }

    pub fn device(self, path: &str) -> Self {
        self.raw(path.as_bytes(), b'3', b"", b"", 0o666)
    }

    /// A PAX header for the entry that follows.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..9999)
                .find(|n: &usize| n.to_string().len() + rest == *n)
                .unwrap();
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw(b"pax", b'x', b"", &data, 0o644)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// One layer as it is in a registry: its bytes, and the digest of what they unpack to.
#[derive(Clone)]
pub struct Blob {
    pub bytes: Vec<u8>,
    pub diff_id: Digest,
    pub kind: &'static str,
    /// The descriptor's annotations.
    pub notes: BTreeMap<String, String>,
}

pub fn plain(tar: Vec<u8>) -> Blob {
    let diff_id = Digest::of(&tar);
    Blob {
        bytes: tar,
        diff_id,
        kind: "application/vnd.oci.image.layer.v1.tar",
        notes: BTreeMap::new(),
    }
}

pub fn gzip(tar: &[u8]) -> Blob {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(tar).unwrap();
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    Blob {
        bytes: encoder.finish().unwrap(),
        diff_id: Digest::of(tar),
        kind,
        notes: BTreeMap::new(),
    }
}

pub fn zstd(tar: &[u8]) -> Blob {
    let kind = "application/vnd.oci.image.layer.v1.tar+zstd";
    Blob {
        bytes: zstd::encode_all(tar, 3).unwrap(),
        diff_id: Digest::of(tar),
        kind,
        notes: BTreeMap::new(),
    }
}

/// Configuration and manifest of an image of these layers.
pub fn documents(layers: &[Blob]) -> (Vec<u8>, Vec<u8>) {
    let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id.clone()).collect();
    let arch = rrun_images::Platform::host().architecture;
    let config = json!({
        "architecture": arch, "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let descriptors: Vec<_> = layers
        .iter()
        .map(|l| {
            json!({"mediaType": l.kind, "digest": Digest::of(&l.bytes), "size": l.bytes.len(),
                "annotations": l.notes})
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(&config), "size": config.len(),
        },
        "layers": descriptors,
    });
    (config, serde_json::to_vec(&manifest).unwrap())
}

/// Writes an OCI layout with one image named `name`.
pub fn layout(dir: &Path, name: &str, layers: &[Blob]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| fs::write(blobs.join(Digest::of(bytes).hex()), bytes).unwrap();
    let (config, manifest) = documents(layers);
    put(&config);
    put(&manifest);
    for layer in layers {
        put(&layer.bytes);
    }
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": Digest::of(&manifest), "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": name},
    }]});
    fs::write(dir.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Every path below a directory, sorted.
pub fn paths(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(at) = pending.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            found.push(
                path.strip_prefix(dir)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned(),
            );
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                pending.push(path);
            }
        }
    }
    found.sort();
    found
}
